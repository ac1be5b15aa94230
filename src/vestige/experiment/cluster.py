"""Seeds over the nodes of a Ray cluster: an executor beside the local one, with the same stages.

A worker that sees the run folder (one machine, a network file system) writes its stages there. One
that does not works in a folder of its own: it is sent what its seed has finished, and hands every
stage back through Ray's object store as soon as it is whole. A worker or node that is lost costs
the seed that it worked on its unfinished stage; another worker takes the seed up.
"""

from __future__ import annotations

import importlib.metadata
import io
import os
import queue
import shutil
import socket
import tarfile
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestige.experiment.recipe import Experiment
from vestige.experiment.run import Event, Failure, failure_of, run_seed
from vestige.types import ConfigError, MissingExtraError, VestigeError

PAUSE = 0.5  # seconds between two reports of one unfinished stage
REACH = 5.0  # seconds to wait for a cluster's port
HANDOVER = 120.0  # seconds to wait for a lost worker's last process to be gone
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Cluster:
    """Where and with what a run's seeds are worked on.

    Attributes:
        address: of a running cluster (``host:port``, ``auto``); empty: ``RAY_ADDRESS``, else a
            cluster of this machine alone, started for the run.
        cpus, gpus: what one seed takes; a GPU may be shared (0.5).
        retries: how often a seed is taken up again after its worker was lost.
    """

    address: str = ""
    cpus: float = 1
    gpus: float = 0
    retries: int = 3

    @classmethod
    def parse(cls, text: str, **options: Any) -> Cluster:
        """From the command line: ``ray`` or ``ray=ADDRESS``. Raises ``ConfigError``."""
        engine, _, address = text.partition("=")
        if engine != "ray":
            raise ConfigError(f"--on takes ray or ray=ADDRESS, not {text!r}")
        return cls(address, **options)


@dataclass(frozen=True)
class Task:
    """What a worker is told: one seed, and where its stages are.

    Attributes:
        mark: a file in the run folder; a worker that sees it shares the folder.
        here: the folder that relative paths of the recipe start from.
    """

    config: dict[str, Any]
    folder: str
    here: str
    mark: str
    seed: int
    overwrite: bool
    threads: int
    version: str


@dataclass(frozen=True)
class Finished:
    """A stage that a worker hands back, as a tar file."""

    stage: str
    data: bytes


class NeedsFiles:
    """A worker's answer where it does not see the run folder: send what the seed has."""


def run_on_ray(
    recipe: Experiment,
    folder: Path,
    cluster: Cluster,
    overwrite: bool,
    on_event: Callable[[Event], None],
) -> int:
    """Every seed as a task of the cluster.

    Returns:
        How many seeds the cluster could work on at once.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: the cluster cannot be reached, or has not what a seed takes.
        VestigeError: a seed failed or was lost too often; the others are finished first.
    """
    with connected(cluster) as ray:
        room = room_for(ray, cluster, len(recipe.seeds))
        mark = folder / f".shared-{uuid.uuid4().hex}"
        mark.touch()
        try:
            config, here = recipe.model_dump(mode="json"), importlib.metadata.version("vestige")
            where = (str(folder.resolve()), os.getcwd(), mark.name)
            threads = max(1, int(cluster.cpus))
            tasks = [Task(config, *where, s, overwrite, threads, here) for s in recipe.seeds]
            failures = Dispatch(ray, cluster, folder, on_event).run(tasks)
        finally:
            mark.unlink(missing_ok=True)
    if failures:
        raise failures[0].kind(failures[0].text)
    return room


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Ray, connected to the cluster for as long as the block lasts."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    address = cluster.address or os.environ.get("RAY_ADDRESS", "")
    check_reachable(address)
    options: dict[str, Any] = {
        "address": address or "local",
        "log_to_driver": bool(os.environ.get("VESTIGE_DEBUG")),
        "logging_level": "ERROR",
    }
    if not address:
        options["include_dashboard"] = False
    ours = not ray.is_initialized()
    try:
        if ours:
            ray.init(**options)
    except Exception as error:
        raise unreachable(address or "of this machine", str(error).splitlines()[0]) from error
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def check_reachable(address: str) -> None:
    """Whether something listens at ``host:port``: Ray itself would try for minutes.

    Raises:
        ConfigError: nothing does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host:
        return
    try:
        with closing(socket.create_connection((host.strip("[]"), int(port)), timeout=REACH)):
            pass
    except (OSError, ValueError) as error:
        raise unreachable(address, str(error)) from error


def unreachable(address: str, reason: str) -> ConfigError:
    return ConfigError(
        f"cannot reach the Ray cluster {address}: {reason}; look at its address (ray status on its "
        "head node), start one with ray start --head, or leave the address out to use this machine"
    )


def room_for(ray: Any, cluster: Cluster, seeds: int) -> int:
    """How many seeds fit at once. Raises ``ConfigError`` where not even one does."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = {"CPU": cluster.cpus} | ({"GPU": cluster.gpus} if cluster.gpus else {})
    room = sum(int(min(node.get(kind, 0) / n for kind, n in needs.items())) for node in nodes)
    if not room:
        has = "; ".join(f"{n.get('CPU', 0):g} CPUs, {n.get('GPU', 0):g} GPUs" for n in nodes)
        raise ConfigError(
            f"no node of the cluster has what a seed takes (--cpus {cluster.cpus:g} --gpus "
            f"{cluster.gpus:g}); its nodes have: {has}"
        )
    return min(seeds, room)


class Dispatch:
    """The driver's side: tasks out, events and stages in, lost seeds out again."""

    def __init__(
        self, ray: Any, cluster: Cluster, folder: Path, on_event: Callable[[Event], None]
    ) -> None:
        self.ray, self.cluster, self.folder, self.on_event = ray, cluster, folder, on_event
        self.remote = ray.remote(
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus,
            max_retries=0,  # a retry must be sent what is finished by then: it is made here
            num_returns="streaming",
            scheduling_strategy="SPREAD",
        )(work)
        self.running: dict[Any, tuple[Task, int]] = {}  # stream -> its task, times it was lost
        self.failures: list[Failure] = []

    def run(self, tasks: list[Task]) -> list[Failure]:
        """Work on every task; what failed."""
        for task in tasks:
            self.start(task, 0)
        try:
            while self.running:
                ready, _ = self.ray.wait(list(self.running), timeout=1.0, fetch_local=False)
                for stream in ready:
                    self.take(stream)
        finally:
            for stream in self.running:
                self.ray.cancel(stream, force=True)
        return self.failures

    def start(self, task: Task, lost: int, files: Any = None) -> None:
        self.running[self.remote.remote(task, files)] = (task, lost)

    def take(self, stream: Any) -> None:
        """The next item of a stream that has one, or its end."""
        task, lost = self.running[stream]
        try:
            item = self.ray.get(next(stream))
        except StopIteration:
            del self.running[stream]
            return
        except self.ray.exceptions.RayError as error:
            del self.running[stream]
            with suppress(self.ray.exceptions.RayError):
                self.ray.cancel(stream, force=True)
            self.lost(task, lost + 1, error)
            return
        if isinstance(item, Event):
            self.on_event(item)
        elif isinstance(item, Finished):
            unpack(item, self.folder)
        elif isinstance(item, Failure):
            self.failures.append(item)
        elif isinstance(item, NeedsFiles):
            seed = self.folder / f"seed-{task.seed}"
            self.start(task, lost, [self.ray.put(pack(seed, seed.name))])

    def lost(self, task: Task, times: int, error: Exception) -> None:
        """Take a lost seed up again, or give it up."""
        error = getattr(error, "cause", None) or error  # what a task raised, not where
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        if times <= self.cluster.retries:
            self.start(task, times)
            return
        text = (
            f"seed {task.seed} lost its worker {times} times ({type(error).__name__}: {reason}); "
            "out of memory? Finished stages are kept, the same command goes on"
        )
        self.failures.append(Failure(VestigeError, text))


# ---- the worker's side --------------------------------------------------------------------------


def work(task: Task, files: list[Any] | None) -> Iterator[Any]:
    """One seed on some node: a stream of events, of finished stages where the folder is not
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
            unpack(Finished(f"seed-{task.seed}", ray.get(files[0])), Path(scratch))
            yield from follow(task, Path(scratch), shared=False)


def follow(task: Task, folder: Path, *, shared: bool) -> Iterator[Any]:
    """Run a seed in a thread and give what it tells, unfinished stages every half second."""
    told: queue.Queue[Any] = queue.Queue()
    known = {p.parent: p.read_bytes() for p in folder.glob(f"seed-*/**/{MANIFEST}")}

    def seed() -> None:
        try:
            # A lost worker's process may outlive its node by a moment.
            run_seed(
                task.config, folder, task.seed, task.overwrite, task.threads, told.put,
                wait=HANDOVER,
            )  # fmt: skip
        except Exception as error:
            told.put(failure_of(error))
        told.put(None)

    thread = threading.Thread(target=seed, daemon=True)
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
                yield Finished(item.stage, pack(stage, item.stage))
        yield item
    thread.join()


def pack(folder: Path, name: str) -> bytes:
    """A folder as a tar file in memory; nothing if it does not exist."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        if folder.exists():
            tar.add(folder, name)
    return buffer.getvalue()


def unpack(item: Finished, folder: Path) -> None:
    """Put a stage in its place, whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=folder) as scratch:
        with tarfile.open(fileobj=io.BytesIO(item.data)) as tar:
            tar.extractall(scratch, filter="data")
        arrived, place = Path(scratch) / item.stage, folder / item.stage
        if arrived.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                shutil.rmtree(place)
            arrived.rename(place)
