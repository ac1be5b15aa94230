"""A worker of a Ray cluster: one job on some node, and what it hands back.

The driver's side is ``dispatch``.
"""

from __future__ import annotations

import importlib.metadata
import os
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vestige.api.settings import MAX_DOLLARS, MAX_TOKENS, PRICES
from vestige.core.types import ConfigError
from vestige.experiment.events import Event, Failure, OnEvent, failure_of, report_of
from vestige.experiment.executors.stage_transfer import pack, unpack
from vestige.experiment.jobs import Job
from vestige.experiment.settings import Experiment
from vestige.store import hash_config, hold
from vestige.store.layout import RunLayout, StageFile

if TYPE_CHECKING:
    from vestige.experiment.model_pool import ModelPool
    from vestige.experiment.seed_context import SeedContext

PAUSE = 0.5  # seconds between two reports of one unfinished stage; chosen for a person's eyes
#: Seconds to wait for a lost worker's last process to be gone; chosen, not measured.
HANDOVER = 120.0
#: What a job must find in its environment as the driver has it: a worker of a cluster that was
#: running before has the environment of its node. Never keys: each node has its own.
CARRIED = (
    MAX_TOKENS, MAX_DOLLARS, PRICES,
    "VESTIGE_CHECKPOINT_SECONDS", "VESTIGE_DEBUG", "HF_HUB_OFFLINE",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What a worker is given: one job, and where its stages are.

    Attributes:
        mark: a file in the run folder; a worker that sees it shares the folder.
        working_folder: the folder that relative paths of the recipe start from.
        environment: variables of ``CARRIED`` that the driver has.
    """

    config: dict[str, Any]
    folder: str
    working_folder: str
    mark: str
    job: Job
    overwrite: bool
    threads: int
    version: str
    environment: Mapping[str, str] = field(default_factory=dict)


class NeedsFiles:
    """A worker's answer where it does not see the run folder: send what the job starts from."""


def work(task: Task, files: list[Any] | None) -> Iterator[Any]:
    """One job on some node: a stream of events, of finished stages where the folder is not
    shared, and at most one failure."""
    version = importlib.metadata.version("vestige")
    if version != task.version:
        text = f"a node of the cluster has Vestige {version}, this one has {task.version}: use one"
        yield Failure(ConfigError, text)
        return
    if Path(task.working_folder).is_dir():
        os.chdir(task.working_folder)
    folder = Path(task.folder)
    if (folder / task.mark).exists():
        yield from follow(task, folder, shared=True)
    elif files is None:
        yield NeedsFiles()
    else:
        import ray  # type: ignore[import-not-found]

        with tempfile.TemporaryDirectory(prefix="vestige-") as scratch:
            for stage in ray.get(files):
                unpack(stage, Path(scratch))
            yield from follow(task, Path(scratch), shared=False)


def follow(task: Task, folder: Path, *, shared: bool) -> Iterator[Any]:
    """Work on a job in a thread and give what it tells, unfinished stages every half second."""
    events: queue.Queue[Any] = queue.Queue()
    layout = RunLayout(folder)
    sent = [] if shared else layout.manifests()
    known = {path.parent: path.read_bytes() for path in sent}

    def job() -> None:
        try:
            work_on(task, folder, events.put)
        except Exception as error:
            events.put(failure_of(error))
        events.put(None)

    thread = threading.Thread(target=job, daemon=True)
    thread.start()
    last = 0.0
    while (item := events.get()) is not None:
        if isinstance(item, Event) and item.total:
            if time.monotonic() - last < PAUSE:
                continue
            last = time.monotonic()
        elif isinstance(item, Event) and not shared:
            stage = layout.path(item.stage)
            if known.get(stage) != (stage / StageFile.MANIFEST).read_bytes():
                yield pack(stage, item.stage)
        yield item
    thread.join()


@dataclass
class Kept:
    """What a worker process keeps of a recipe between its jobs: models, and seeds that share
    them."""

    models: ModelPool
    seeds: dict[int, SeedContext] = field(default_factory=dict)


_KEPT: dict[str, Kept] = {}  # by the hash of the recipe: one at most


def carried() -> dict[str, str]:
    """What this process has of ``CARRIED``."""
    return {name: os.environ[name] for name in CARRIED if name in os.environ}


@contextmanager
def environment(given: Mapping[str, str]) -> Iterator[None]:
    """Have these variables in the environment, and afterwards what was there before."""
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def work_on(task: Task, folder: Path, emit: OnEvent) -> None:
    """A job in this process, with the models that the last one has loaded. Loads torch."""
    with environment(task.environment):
        _work_on(task, folder, emit)


def _work_on(task: Task, folder: Path, emit: OnEvent) -> None:
    import torch

    from vestige.experiment.model_pool import ModelPool
    from vestige.experiment.seed_context import SeedContext
    from vestige.experiment.seed_jobs import work as work_on_job
    from vestige.models.loading import quiet_transformers

    quiet_transformers()
    torch.set_num_threads(task.threads)
    key, job = hash_config(task.config), task.job
    recipe = Experiment.model_validate(task.config)
    kept = _KEPT.pop(key, None) or Kept(ModelPool(recipe))
    _KEPT.clear()  # of another recipe, or of a job that failed: that is where memory goes
    layout = RunLayout(folder)
    known = kept.seeds.get(job.seed) or SeedContext(recipe, layout, job.seed, kept.models)
    report = report_of(job.seed, emit)
    context = replace(known, layout=layout, overwrite=task.overwrite, report=report, reported=set())
    layout.locks.mkdir(exist_ok=True)
    # A lost worker's process may outlive its node by a moment.
    with hold(layout.locks, job.label, HANDOVER):
        try:
            work_on_job(context, job)
        finally:
            context.models.close_engine()
    kept.seeds[job.seed] = context
    _KEPT[key] = kept
