"""A cluster's driver and its workers, as far as they go without Ray; a small fake stands in."""

from __future__ import annotations

import errno
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vestige.core.redaction import redact
from vestige.core.types import ConfigError, DataError, MissingExtraError, StoreError, VestigeError
from vestige.experiment import demo
from vestige.experiment.events import Event, Failure, failure_of
from vestige.experiment.executors import ray_worker, stage_transfer
from vestige.experiment.executors.cluster import Cluster, check_reachable, first_line
from vestige.experiment.executors.dispatch import Dispatch, asks_services
from vestige.experiment.executors.ray_worker import CARRIED, Task, carried, work_on
from vestige.experiment.executors.stage_transfer import Finished, unpack
from vestige.experiment.jobs import Job
from vestige.store import Run, load_run
from vestige.student import checkpoint


class RayError(Exception):
    """What Ray raises for a worker or node that is gone."""


class FakeRay:
    """Ray as the driver sees it: every call of ``work`` gives the next of ``scripts``, a list of
    items and errors. ``started`` holds what each was started with."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, *scripts: list[Any]) -> None:
        self.scripts, self.started, self.cancelled = list(scripts), list[dict[str, Any]](), 0

    def remote(self, **options: Any) -> Any:
        def start(task: Task, files: object) -> Iterator[Any]:
            self.started.append(options | {"job": task.job, "files": files})
            return iter(self.scripts.pop(0))

        return lambda work: SimpleNamespace(remote=start)

    def wait(self, streams: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return streams[:1], streams[1:]

    def get(self, item: Any) -> Any:
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self, stream: object, force: bool) -> None:
        self.cancelled += 1


def task(job: Job) -> Task:
    return Task({}, "", "", "", job, False, 1, "0")


def dispatch(ray: FakeRay, folder: Path, cluster: Cluster, *kinds: list[Job]) -> tuple[Any, ...]:
    """The failures, and the events that were told."""
    told: list[Event] = []
    driver = Dispatch(ray, cluster, folder, told.append)
    return driver.run({0: list(kinds)}, task), told


# ---- the driver ---------------------------------------------------------------------------------


def test_a_job_gets_its_resources_and_later_kinds_wait(tmp_path: Path):
    done = Event(0, "seed-0/base", 0, 0)
    ray = FakeRay([done], [done], [])
    cluster = Cluster(cpus=2, resources={"students": (4, 1)})
    base, owl, fox = (Job(0, "base"), Job(0, "teachers", "owl"), Job(0, "students", "fox", "rows"))
    assert dispatch(ray, tmp_path, cluster, [base], [owl], [fox]) == ([], [done])  # told once
    assert [s["job"] for s in ray.started] == [base, owl, fox]
    takes = [(s["num_cpus"], s["num_gpus"], s["max_retries"]) for s in ray.started]
    assert takes == [(2, 0, 0), (2, 0, 0), (4, 1, 0)]


def test_a_lost_workers_job_is_started_again_and_in_the_end_given_up(tmp_path: Path):
    job, gone = Job(0, "base"), RayError("the node died\nand more")
    ray = FakeRay([gone], [Event(0, "seed-0/base", 1, 2), gone], [Event(0, "seed-0/base", 0, 0)])
    failures, told = dispatch(ray, tmp_path, Cluster(retries=2), [job])
    assert not failures and len(ray.started) == 3 and [e.total for e in told] == [2, 0]
    ray = FakeRay([gone], [gone], [gone])
    failures, _ = dispatch(ray, tmp_path, Cluster(retries=2), [job], [Job(0, "teachers", "owl")])
    (failure,) = failures
    assert failure.text.startswith("seed-0-base lost its worker 3 times (RayError: the node died);")
    assert len(ray.started) == 3 and ray.cancelled == 3  # and no teachers
    silent = FakeRay([RayError()])
    (failure,), _ = dispatch(silent, tmp_path, Cluster(retries=0), [job])
    assert "no reason given" in failure.text


def test_a_failed_job_ends_its_seed_alone(tmp_path: Path):
    failed = Failure(DataError, "too few rows")
    ray = FakeRay([failed], [])
    driver = Dispatch(ray, Cluster(), tmp_path, lambda event: None)
    later = [Job(0, "teachers", "owl")]
    assert driver.run({0: [[Job(0, "base")], later], 1: [[Job(1, "base")]]}, task) == [failed]
    assert [s["job"].seed for s in ray.started] == [0, 1]


@pytest.mark.parametrize("error", [RayError(), ConnectionError("the client is shut down")])
def test_a_cluster_that_is_gone_is_explained(tmp_path: Path, error: Exception):
    ray = FakeRay([Event(0, "seed-0/base", 1, 2)])

    def fail(*_: object, **__: object) -> None:
        raise error

    ray.wait = ray.cancel = fail  # type: ignore[method-assign]
    with pytest.raises(VestigeError, match=r"does not answer any more .*the same command goes on"):
        dispatch(ray, tmp_path, Cluster(), [Job(0, "base")])


def test_a_full_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (stage := tmp_path / "from/seed-0/base").mkdir(parents=True)
    (stage / "manifest.json").write_text("{}")
    packed = stage_transfer.pack(stage, "seed-0/base")
    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    with pytest.raises(StoreError, match=r"disk is full while writing .*seed-0/base"):
        unpack(packed, tmp_path)
    assert isinstance(packed, Finished) and [p.name for p in tmp_path.iterdir()] == ["from"]


# ---- what is asked for --------------------------------------------------------------------------


def test_a_recipe_with_a_service_needs_a_shared_folder():
    made = demo.recipe().model_dump(mode="json")
    assert not asks_services(made)
    assert not asks_services(made | {"judge": {"model": "local:smollm2-135m-instruct"}})
    assert asks_services(made | {"judge": {"model": "api:openai/gpt-4.1-nano"}})
    assert asks_services(made | {"freeform": {"judge": {"model": "gpt-4.1-nano"}}})


def test_options_are_read():
    with pytest.raises(ConfigError, match="--on takes ray"):
        Cluster.parse("spark")
    assert Cluster.parse("ray=10.0.0.1:6379", gpus=0.5) == Cluster("10.0.0.1:6379", gpus=0.5)
    given = Cluster.parse("ray", cpus=2, resources=["students:gpus=1", "rows:cpus=8,gpus=0.5"])
    assert given.takes("students") == (2, 1) and given.takes("rows") == (8, 0.5)
    assert given.takes("teachers") == (2, 0)
    for bad in ("pupils:gpus=1", "students:tpus=1", "students", "rows:cpus=-1", "rows:cpus=many"):
        with pytest.raises(ConfigError, match=r"--resources .* KIND:cpus=N,gpus=N"):
            Cluster.parse("ray", resources=[bad])


def test_an_address_is_auto_or_has_a_port():
    for good in ("", "auto", "10.0.0.1:6379", "[::1]:6379", "ray://head:10001"):
        assert Cluster.parse(f"ray={good}").address == good
    for bad in ("10.0.0.1", "head.example.org", "head:", "10.0.0.1:ray", "automatic"):
        with pytest.raises(ConfigError, match=r"no address of a Ray cluster: write host:port"):
            Cluster.parse(f"ray={bad}")
        with pytest.raises(ConfigError, match=r"write host:port"):  # from RAY_ADDRESS
            check_reachable(bad)
    check_reachable("auto")


def test_an_address_out_of_reach_is_said_at_once():
    begin = time.monotonic()
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "nowhere.invalid:6379"):
        with pytest.raises(ConfigError, match=r"cannot reach the Ray cluster .*ray start --head"):
            check_reachable(address)
    assert time.monotonic() - begin < 20


def test_an_error_without_a_text_is_told_by_its_kind():
    assert first_line(RuntimeError("a\nb")) == "a"
    assert first_line(RuntimeError()) == first_line(RuntimeError("\n")) == "RuntimeError"


# ---- a worker -----------------------------------------------------------------------------------


def test_limits_travel_with_a_job_and_keys_do_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    wanted = {
        "VESTIGE_MAX_TOKENS": "1000", "VESTIGE_MAX_DOLLARS": "0.5", "VESTIGE_PRICES": "1,2",
        checkpoint.SECONDS: "7", "VESTIGE_DEBUG": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    assert set(wanted) == set(CARRIED) and redact(str(wanted)) == str(wanted)
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-very-secret-key")
    given = Task({}, "", "", "", Job(0, "base"), False, 1, "0", carried())
    assert given.environment == wanted
    for name in wanted:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VESTIGE_MAX_TOKENS", "999999")  # of the node
    seen: list[dict[str, str]] = []

    def work(*_: object) -> None:
        seen.append(carried())
        raise ValueError

    monkeypatch.setattr(ray_worker, "_work_on", work)
    with pytest.raises(ValueError):
        work_on(given, tmp_path, lambda event: None)
    assert seen == [wanted] and carried() == {"VESTIGE_MAX_TOKENS": "999999"}


def test_an_error_goes_on_without_keys_and_with_its_place_only_for_debug(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-very-secret-key")
    monkeypatch.delenv("VESTIGE_DEBUG", raising=False)
    try:
        raise KeyError("no sk-a-very-secret-key here")
    except KeyError as error:
        told = failure_of(error)
        monkeypatch.setenv("VESTIGE_DEBUG", "1")
        debug = failure_of(error)
    assert told == Failure(RuntimeError, "KeyError: 'no [key] here'")
    assert "Traceback" in debug.text and "test_dispatch.py" in debug.text
    assert "sk-a" not in debug.text
    assert failure_of(DataError("bad: sk-a-very-secret-key")) == Failure(DataError, "bad: [key]")
    assert failure_of(MissingExtraError("ray", "ray")).kind is VestigeError
    with pytest.raises(RuntimeError), Run.open(tmp_path, "run", {"seeds": [0]}) as opened:
        raise RuntimeError("at https://me:pw@host with sk-a-very-secret-key")
    assert load_run(opened.folder)["error"] == "RuntimeError: at https://[key]@host with [key]"
