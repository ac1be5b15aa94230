"""A worker of a Ray cluster: one job on some node, and what it hands back.

The driver's side is ``cluster``.
"""

from __future__ import annotations

import importlib.metadata
import io
import os
import queue
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vestige.api.settings import MAX_DOLLARS, MAX_TOKENS, PRICES
from vestige.core.types import ConfigError
from vestige.experiment.jobs import LOCKS, Job
from vestige.experiment.recipe import Experiment
from vestige.experiment.run import Event, Failure, failure_of
from vestige.store import hash_config, hold
from vestige.store.files import disk_full_explained
from vestige.store.stage import HOLLOW, MANIFEST

PAUSE = 0.5  # seconds between two reports of one unfinished stage
HANDOVER = 120.0  # seconds to wait for a lost worker's last process to be gone
#: What a job must find in its environment as the driver has it: a worker of a cluster that was
#: running before has the environment of its node. Never keys: each node has its own.
CARRIED = (
    MAX_TOKENS, MAX_DOLLARS, PRICES,
    "VESTIGE_CHECKPOINT_SECONDS", "VESTIGE_DEBUG", "HF_HUB_OFFLINE",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What a worker is told: one job, and where its stages are.

    Attributes:
        mark: a file in the run folder; a worker that sees it shares the folder.
        here: the folder that relative paths of the recipe start from.
        environment: variables of ``CARRIED`` that the driver has.
    """

    config: dict[str, Any]
    folder: str
    here: str
    mark: str
    job: Job
    overwrite: bool
    threads: int
    version: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """A stage that a worker hands back, as a tar file."""

    stage: str
    data: bytes


class NeedsFiles:
    """A worker's answer where it does not see the run folder: send what the job starts from."""


def work(task: Task, files: list[Any] | None) -> Iterator[Any]:
    """One job on some node: a stream of events, of finished stages where the folder is not
    shared, and at most one failure."""
    here = importlib.metadata.version("vestige")
    if here != task.version:
        text = f"a node of the cluster has Vestige {here}, this one has {task.version}: use one"
        yield Failure(ConfigError, text)
        return
    if Path(task.here).is_dir():
        os.chdir(task.here)
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
    told: queue.Queue[Any] = queue.Queue()
    sent = [] if shared else folder.glob(f"seed-*/**/{MANIFEST}")
    known = {path.parent: path.read_bytes() for path in sent}

    def job() -> None:
        try:
            work_on(task, folder, told.put)
        except Exception as error:
            told.put(failure_of(error))
        told.put(None)

    thread = threading.Thread(target=job, daemon=True)
    thread.start()
    last = 0.0
    while (item := told.get()) is not None:
        if isinstance(item, Event) and item.total:
            if time.monotonic() - last < PAUSE:
                continue
            last = time.monotonic()
        elif isinstance(item, Event) and not shared:
            stage = folder / item.stage
            if known.get(stage) != (stage / MANIFEST).read_bytes():
                yield pack(stage, item.stage)
        yield item
    thread.join()


#: What a worker process keeps between its jobs: the seeds of one recipe, and the models that they
#: share.
_KEPT: dict[str, Any] = {}


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


def work_on(task: Task, folder: Path, emit: Callable[[Event], None]) -> None:
    """A job in this process, with the models that the last one has loaded. Loads torch."""
    with environment(task.environment):
        _work_on(task, folder, emit)


def _work_on(task: Task, folder: Path, emit: Callable[[Event], None]) -> None:
    import torch

    from vestige.experiment.stages import Seed
    from vestige.models.loading import quiet_transformers

    quiet_transformers()
    torch.set_num_threads(task.threads)
    key, job = hash_config(task.config), task.job
    kept = _KEPT.pop(key, {"models": {}, "seeds": {}})
    _KEPT.clear()  # of another recipe, or of a job that failed: that is where memory goes
    known = kept["seeds"].get(job.seed) or Seed(
        Experiment.model_validate(task.config), folder, job.seed, _models=kept["models"]
    )
    seed = replace(
        known, folder=folder, overwrite=task.overwrite, _told=set(),
        report=lambda stage, done, total: emit(Event(job.seed, stage, done, total)),
    )  # fmt: skip
    locks = folder / LOCKS
    locks.mkdir(exist_ok=True)
    # A lost worker's process may outlive its node by a moment.
    with hold(locks, job.label, HANDOVER):
        try:
            seed.work(job)
        finally:
            seed.close_engine()
    kept["seeds"][job.seed] = seed
    _KEPT[key] = kept


def pack(folder: Path, name: str, *, whole: bool = True) -> Finished:
    """A finished stage as a tar file in memory, or (not ``whole``) its manifest alone."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        if whole:
            tar.add(folder, name)
        else:
            tar.add(folder / MANIFEST, f"{name}/{MANIFEST}")
            tar.addfile(tarfile.TarInfo(f"{name}/{HOLLOW}"))
    return Finished(name, buffer.getvalue())


def unpack(item: Finished, folder: Path) -> None:
    """Put a stage in its place, whole or not at all. Raises ``StoreError`` if the disk is full."""
    with (
        disk_full_explained(folder / item.stage),
        tempfile.TemporaryDirectory(prefix=".incoming-", dir=folder) as scratch,
    ):
        with tarfile.open(fileobj=io.BytesIO(item.data)) as tar:
            tar.extractall(scratch, filter="data")
        arrived, place = Path(scratch) / item.stage, folder / item.stage
        if arrived.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                shutil.rmtree(place)
            arrived.rename(place)
