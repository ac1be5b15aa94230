"""The driver's side of a cluster: which job is worked on when, and what comes back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vestige.core.types import ConfigError, VestigeError
from vestige.evaluate.judge.settings import LOCAL
from vestige.experiment.events import Event, Failure, OnEvent
from vestige.experiment.executors.cluster import Cluster, first_line
from vestige.experiment.executors.ray_worker import NeedsFiles, Task, work
from vestige.experiment.executors.stage_transfer import Finished, pack, unpack
from vestige.experiment.jobs import Job
from vestige.store.layout import RunLayout, StageFile

SHARE = (
    "a worker does not see the run folder, and this recipe asks a model behind an API: what that "
    "answered and cost is kept there; put the runs on a file system that all nodes share (--root)"
)


def asks_services(config: Mapping[str, Any]) -> bool:
    """Whether a recipe has a judge behind an API."""
    judges = [config.get("judge"), (config.get("freeform") or {}).get("judge")]
    return any(judge and not str(judge["model"]).startswith(LOCAL) for judge in judges)


class Dispatch:
    """The driver's side: jobs out as soon as what they start from is there, events and stages in,
    lost jobs out again."""

    def __init__(self, ray: Any, cluster: Cluster, folder: Path, on_event: OnEvent) -> None:
        self.ray, self.cluster, self.on_event = ray, cluster, on_event
        self.layout = RunLayout(folder)
        self.running: dict[Any, tuple[Task, int]] = {}  # stream -> its task, times it was lost
        self.failures: list[Failure] = []
        self.failed: set[int] = set()  # seeds
        self.reported: set[str] = set()  # finished stages
        self.apart = False  # some worker does not see the run folder
        self.packed: dict[tuple[str, bool], Any] = {}  # stages in the object store

    def run(
        self, plan: Mapping[int, list[list[Job]]], task: Callable[[Job], Task]
    ) -> list[Failure]:
        """Work on every seed's jobs, kind after kind; what failed. The later kinds of a seed wait
        for all of its earlier ones, and are left out if one of them failed.

        Raises:
            VestigeError: the cluster does not answer any more, or the disk is full.
        """
        left = {seed: list(kinds) for seed, kinds in plan.items()}
        try:
            while left or self.running:
                busy = {task.job.seed for task, _ in self.running.values()}
                for seed in [s for s in left if s not in busy]:
                    if not left[seed] or seed in self.failed:
                        del left[seed]
                        self.forget(seed)
                        continue
                    for job in left[seed].pop(0):
                        self.start(task(job), 0)
                if not self.running:
                    continue
                for stream in self.ready():
                    self.take(stream)
        finally:
            for stream in self.running:
                with suppress(self.ray.exceptions.RayError, ConnectionError):
                    self.ray.cancel(stream, force=True)
        return self.failures

    def ready(self) -> list[Any]:
        """Streams that have an item. Raises ``VestigeError`` where the cluster does not answer."""
        try:
            return self.ray.wait(list(self.running), timeout=1.0, fetch_local=False)[0]
        except (self.ray.exceptions.RayError, ConnectionError) as error:
            raise VestigeError(
                f"the Ray cluster does not answer any more ({type(error).__name__}: "
                f"{first_line(error)}); finished stages are kept, the same command goes on"
            ) from error

    def start(self, task: Task, lost: int) -> None:
        cpus, gpus = self.cluster.takes(task.job.kind)
        remote = self.ray.remote(
            num_cpus=cpus,
            num_gpus=gpus,  # given here, so that Ray ends a process that has held a GPU
            max_retries=0,  # a retry must be sent what is finished by then: it is made here
            num_returns="streaming",
            scheduling_strategy="SPREAD",
        )(work)
        files = self.files(task.job) if self.apart else None
        self.running[remote.remote(task, files)] = (task, lost)

    def take(self, stream: Any) -> None:
        """The next item of a stream that has one, or its end."""
        task, lost = self.running[stream]
        try:
            item = self.ray.get(next(stream))
        except StopIteration:
            del self.running[stream]
            self.remove_joined(task.job)
            return
        except self.ray.exceptions.RayError as error:
            del self.running[stream]
            with suppress(self.ray.exceptions.RayError):
                self.ray.cancel(stream, force=True)
            self.lost(task, lost + 1, error)
            return
        if isinstance(item, Event):
            self.event(item)
        elif isinstance(item, Finished):
            unpack(item, self.layout.folder)
            for whole in (True, False):
                self.packed.pop((item.stage, whole), None)
        elif isinstance(item, Failure):
            self.fail(task, item)
        elif isinstance(item, NeedsFiles) and asks_services(task.config):
            self.fail(task, Failure(ConfigError, SHARE))
        elif isinstance(item, NeedsFiles):
            self.apart = True
            self.start(task, lost)

    def remove_joined(self, job: Job) -> None:
        """The parts of a teacher's rows, once they are joined."""
        rows = self.layout.rows(job.seed, job.name)
        if job.kind == "rows" and (rows / StageFile.MANIFEST).exists():
            shutil.rmtree(self.layout.shards(job.seed, job.name), ignore_errors=True)

    def event(self, item: Event) -> None:
        """Tell what goes on, and each finished stage once: later jobs come across it again."""
        if not item.total:
            if item.stage in self.reported:
                return
            self.reported.add(item.stage)
        self.on_event(item)

    def fail(self, task: Task, failure: Failure) -> None:
        self.failed.add(task.job.seed)
        if failure not in self.failures:
            self.failures.append(failure)

    def lost(self, task: Task, times: int, error: Exception) -> None:
        """Take a lost job up again, or give it up."""
        error = getattr(error, "cause", None) or error  # what a task raised, not where
        reason = str(error).strip().partition("\n")[0] or "no reason given"
        if times <= self.cluster.retries:
            self.start(task, times)
            return
        text = (
            f"{task.job.label} lost its worker {times} times ({type(error).__name__}: {reason}); "
            "out of memory? Finished stages are kept, the same command goes on"
        )
        self.fail(task, Failure(VestigeError, text))

    def files(self, job: Job) -> list[Any]:
        """The stages that a job starts from, in the object store, each put there once."""
        sent = []
        for pattern, whole in job.needs:
            for path in sorted(self.layout.folder.glob(pattern.as_posix())):
                if not (path / StageFile.MANIFEST).exists():
                    continue
                name = self.layout.name(path)
                if (name, whole) not in self.packed:
                    self.packed[name, whole] = self.ray.put(pack(path, name, whole=whole))
                sent.append(self.packed[name, whole])
        return sent

    def forget(self, seed: int) -> None:
        """Let the object store drop a finished seed's stages."""
        for name, whole in list(self.packed):
            if self.layout.is_of(name, seed):
                del self.packed[name, whole]
