"""A Ray cluster: where it is, what a job takes of it, and the way to it."""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from vestige.core.types import ConfigError, MissingExtraError
from vestige.experiment.jobs import KINDS, Job

REACH = 5.0  # seconds to wait for a cluster's port; chosen, as Ray itself would try for minutes
ADDRESS = re.compile(r"(auto|local|\w+://\S+|[^\s/]+:\d+)?")


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
    started_here = not ray.is_initialized()
    try:
        if started_here:
            ray.init(**options)
    except Exception as error:
        raise unreachable(address or "of this machine", first_line(error)) from error
    try:
        yield ray
    finally:
        if started_here:
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
