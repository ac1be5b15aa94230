"""A run's jobs over the nodes of a Ray cluster: an executor like the local one, same stages.

Every trait's teacher, every part of its rows, every arm's student of every data set is a task of
its own (``jobs``), with the resources of its kind. A worker that sees the run folder (one machine,
a network file system) writes its stages there. One that does not works in a folder of its own: it
is sent the stages that its job starts from, and hands every stage back through Ray's object store
as soon as it is whole. A worker or node that is lost costs the jobs that it worked on their
unfinished stages; other workers take them up.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from vestige.experiment.events import OnEvent
from vestige.experiment.executors.cluster import Cluster, connected, room_for
from vestige.experiment.executors.dispatch import Dispatch
from vestige.experiment.executors.ray_worker import Task, carried
from vestige.experiment.jobs import Job, jobs
from vestige.experiment.settings import Experiment
from vestige.store.layout import RunLayout

__all__ = ["Cluster", "OnRay"]


@dataclass(frozen=True)
class OnRay:
    """The nodes of a Ray cluster."""

    cluster: Cluster

    def run(self, recipe: Experiment, folder: Path, overwrite: bool, on_event: OnEvent) -> int:
        """See ``Executor.run``: every job of every seed is a task of the cluster.

        Raises:
            MissingExtraError: Ray is not installed.
            ConfigError: the cluster cannot be reached, or has not what a job takes.
            VestigeError: a job failed or was lost too often; what does not need it is finished
                first.
        """
        cluster = self.cluster
        with connected(cluster) as ray:
            plan = {seed: jobs(recipe, seed, shards=cluster.shards) for seed in recipe.seeds}
            room = room_for(ray, cluster, plan)
            mark = folder / f".shared-{uuid.uuid4().hex}"
            mark.touch()
            try:
                config = recipe.model_dump(mode="json")
                version = importlib.metadata.version("vestige")
                folders = (str(folder.resolve()), os.getcwd(), mark.name)

                def task(job: Job) -> Task:
                    threads = max(1, int(cluster.takes(job.kind)[0]))
                    return Task(config, *folders, job, overwrite, threads, version, carried())

                failures = Dispatch(ray, cluster, folder, on_event).run(plan, task)
                # Nobody works on it any more.
                shutil.rmtree(RunLayout(folder).locks, ignore_errors=True)
            finally:
                mark.unlink(missing_ok=True)
        if failures:
            raise failures[0].kind(failures[0].text)
        return room
