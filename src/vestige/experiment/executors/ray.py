"""A run's jobs over the nodes of a Ray cluster: an executor beside the local one, same stages.

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
import re
import shutil
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vestige.core.types import ConfigError, MissingExtraError, VestigeError
from vestige.evaluate.judge.settings import LOCAL
from vestige.experiment.executors.ray_worker import (
    Finished,
    NeedsFiles,
    Task,
    carried,
    pack,
    unpack,
    work,
)
from vestige.experiment.jobs import KINDS, LOCKS, Job, jobs
from vestige.experiment.recipe import Experiment
from vestige.experiment.run import Event, Failure
from vestige.store.stage import MANIFEST

REACH = 5.0  # seconds to wait for a cluster's port
ADDRESS = re.compile(r"(auto|local|\w+://\S+|[^\s/]+:\d+)?")
SHARE = (
    "a worker does not see the run folder, and this recipe asks a model behind an API: what that "
    "answered and cost is kept there; put the runs on a file system that all nodes share (--root)"
)


@dataclass(frozen=True)
class Cluster:
    """Where and with what a run's jobs are worked on.

    Attributes:
        address: of a running cluster (``host:port``, ``auto``); empty: ``RAY_ADDRESS``, else a
            cluster of this machine alone, started for the run.
        cpus, gpus: what one job takes; a GPU may be shared (0.5).
        resources: what jobs of some kinds take in place of that, as (cpus, gpus).
        shards: parts that a teacher's rows are written in, each a job.
        retries: how often a job is taken up again after its worker was lost.
    """

    address: str = ""
    cpus: float = 1
    gpus: float = 0
    resources: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    shards: int = 1
    retries: int = 3

    @classmethod
    def parse(cls, text: str, *, resources: Sequence[str] = (), **options: Any) -> Cluster:
        """From the command line: ``ray`` or ``ray=ADDRESS``, and ``students:cpus=4,gpus=1``.

        Raises:
            ConfigError: another engine, what is no address, an unknown kind of job, or what is no
                number of CPUs or GPUs.
        """
        engine, _, address = text.partition("=")
        if engine != "ray":
            raise ConfigError(f"--on takes ray or ray=ADDRESS, not {text!r}")
        check_address(address)
        usual = {"cpus": options.get("cpus", 1), "gpus": options.get("gpus", 0)}
        return cls(address, resources=dict(_resources(r, usual) for r in resources), **options)

    def takes(self, kind: str) -> tuple[float, float]:
        """CPUs and GPUs of a job of this kind."""
        return self.resources.get(kind, (self.cpus, self.gpus))


def _resources(text: str, usual: dict[str, float]) -> tuple[str, tuple[float, float]]:
    kind, _, given = text.partition(":")
    try:
        if kind not in KINDS:
            raise ValueError(f"there is no kind {kind!r}")
        own = {name: float(n) for name, n in (item.split("=") for item in given.split(","))}
        if own.keys() - usual.keys() or not all(n >= 0 for n in own.values()):
            raise ValueError("cpus and gpus, from 0 on")
        return kind, ((usual | own)["cpus"], (usual | own)["gpus"])
    except ValueError as error:
        raise ConfigError(
            f"--resources {text!r}: {error}; write KIND:cpus=N,gpus=N with a kind of "
            f"{', '.join(KINDS)}"
        ) from None


def run_on_ray(
    recipe: Experiment,
    folder: Path,
    cluster: Cluster,
    overwrite: bool,
    on_event: Callable[[Event], None],
) -> int:
    """Every job of every seed as a task of the cluster.

    Returns:
        How many jobs the cluster could work on at once.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: the cluster cannot be reached, or has not what a job takes.
        VestigeError: a job failed or was lost too often; what does not need it is finished first.
    """
    with connected(cluster) as ray:
        plan = {seed: jobs(recipe, seed, shards=cluster.shards) for seed in recipe.seeds}
        room = room_for(ray, cluster, plan)
        mark = folder / f".shared-{uuid.uuid4().hex}"
        mark.touch()
        try:
            config, here = recipe.model_dump(mode="json"), importlib.metadata.version("vestige")
            where = (str(folder.resolve()), os.getcwd(), mark.name)

            def task(job: Job) -> Task:
                threads = max(1, int(cluster.takes(job.kind)[0]))
                return Task(config, *where, job, overwrite, threads, here, carried())

            failures = Dispatch(ray, cluster, folder, on_event).run(plan, task)
            shutil.rmtree(folder / LOCKS, ignore_errors=True)  # nobody works on it any more
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
        raise unreachable(address or "of this machine", first_line(error)) from error
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def first_line(error: Exception) -> str:
    """What an error says first; one that says nothing, its kind."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def check_address(address: str) -> None:
    """Raises ``ConfigError`` for what is neither ``auto`` nor an address with a port."""
    if not ADDRESS.fullmatch(address):
        raise ConfigError(
            f"{address!r} is no address of a Ray cluster: write host:port (Ray's own port is "
            "6379), ray://host:port, or auto for the one that runs on this machine"
        )


def check_reachable(address: str) -> None:
    """Whether something listens at ``host:port``: Ray itself would try for minutes.

    Raises:
        ConfigError: nothing does, or it is no address.
    """
    check_address(address)
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


def room_for(ray: Any, cluster: Cluster, plan: Mapping[int, list[list[Job]]]) -> int:
    """How many jobs fit at once. Raises ``ConfigError`` where not even one of some kind does."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = 0
    for kind, count in Counter(j.kind for ps in plan.values() for p in ps for j in p).items():
        cpus, gpus = cluster.takes(kind)
        needs = {name: n for name, n in {"CPU": cpus, "GPU": gpus}.items() if n}
        room = sum(
            int(min((node.get(name, 0) / n for name, n in needs.items()), default=count))
            for node in nodes
        )
        if not room:
            has = "; ".join(f"{n.get('CPU', 0):g} CPUs, {n.get('GPU', 0):g} GPUs" for n in nodes)
            raise ConfigError(
                f"no node of the cluster has what a job of kind {kind} takes (--cpus {cpus:g} "
                f"--gpus {gpus:g}, or --resources {kind}:...); its nodes have: {has}"
            )
        most = max(most, min(count, room))
    return most


def asks_services(config: Mapping[str, Any]) -> bool:
    """Whether a recipe has a judge behind an API."""
    judges = [config.get("judge"), (config.get("freeform") or {}).get("judge")]
    return any(judge and not str(judge["model"]).startswith(LOCAL) for judge in judges)


class Dispatch:
    """The driver's side: jobs out as soon as what they start from is there, events and stages in,
    lost jobs out again."""

    def __init__(
        self, ray: Any, cluster: Cluster, folder: Path, on_event: Callable[[Event], None]
    ) -> None:
        self.ray, self.cluster, self.folder, self.on_event = ray, cluster, folder, on_event
        self.running: dict[Any, tuple[Task, int]] = {}  # stream -> its task, times it was lost
        self.failures: list[Failure] = []
        self.failed: set[int] = set()  # seeds
        self.told: set[str] = set()  # finished stages
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
            unpack(item, self.folder)
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
        seed = self.folder / f"seed-{job.seed}"
        if job.kind == "rows" and (seed / "rows" / job.name / MANIFEST).exists():
            shutil.rmtree(seed / "shards" / job.name, ignore_errors=True)

    def event(self, item: Event) -> None:
        """Tell what goes on, and each finished stage once: later jobs come across it again."""
        if not item.total:
            if item.stage in self.told:
                return
            self.told.add(item.stage)
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
        seed = self.folder / f"seed-{job.seed}"
        found = []
        for pattern, whole in job.needs:
            for path in sorted(seed.glob(pattern)):
                if not (path / MANIFEST).exists():
                    continue
                name = path.relative_to(self.folder).as_posix()
                if (name, whole) not in self.packed:
                    self.packed[name, whole] = self.ray.put(pack(path, name, whole=whole))
                found.append(self.packed[name, whole])
        return found

    def forget(self, seed: int) -> None:
        """Let the object store drop a finished seed's stages."""
        for name, whole in [key for key in self.packed if key[0].startswith(f"seed-{seed}/")]:
            del self.packed[name, whole]
