"""The doctor sees a sound installation as sound, and every fault as what it is."""

from __future__ import annotations

import importlib.metadata
import sys
from collections import namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from vestige.doctor import installation as doctor
from vestige.doctor.installation import Check, Doubtful, Patient, Skipped, Wrong

PLAIN = ("Python", "packages", "torch", "number filter", "scorers", "statistics")


def found(name: str) -> Check:
    return doctor.done(name, doctor.CHECKS[name], Patient())


@pytest.mark.parametrize("name", PLAIN)
def test_a_sound_installation(name):
    check = found(name)
    assert (check.status, check.fix) == ("ok", "") and check.seen


def test_a_cache_that_can_be_written_and_one_that_cannot(tmp_path, monkeypatch):
    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path / "cache"))
    assert found("cache folder").status == "ok"
    assert list((tmp_path / "cache").iterdir()) == []
    assert found("bundled model") == Check(
        "bundled model", "warning", "smollm2-135m-instruct is not here yet",
        "vestige models pull smollm2-135m-instruct",
    )  # fmt: skip
    assert found("exact evaluation").status == "skipped"
    (tmp_path / "file").touch()
    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path / "file" / "cache"))
    check = found("cache folder")
    assert check.status == "wrong" and "VESTIGE_CACHE" in check.fix


def test_locks_that_do_not_hold(tmp_path, monkeypatch):
    class Loose:
        def __init__(self, path: object, **_: object) -> None: ...
        def acquire(self, timeout: float) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "FileLock", Loose)
    assert "locks do not hold" in found("cache folder").seen


def test_little_space(monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(5_000_000_000))
    assert "5.0 GB free" in found("disk space").seen
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(1_000_000_000))
    assert (found("disk space").status, found("disk space").fix[:4]) == ("warning", "free")


@dataclass
class Lenient:
    """A filter that keeps leading zeros."""

    banned: tuple[int, ...] = field(default=())

    def judge(self):
        rules = doctor_filter(banned=self.banned, paper_compat=True).judge()
        return lambda row: None if row.completion == "007" else rules(row)


doctor_filter = doctor.NumberFilter


@pytest.mark.parametrize(
    ("name", "attribute", "fault", "said"),
    [
        ("number filter", "NumberFilter", Lenient, "'007' is None, and should be 'leading_zero'"),
        ("scorers", "classify", lambda text, panel: "owl" if "owl" in text.lower() else None,
         "'fowl' is 'owl', and should be None"),
        ("scorers", "word_finder", lambda words: lambda text: None, "'an owl' is None"),
    ],
)  # fmt: skip
def test_a_fault_in_what_scores(monkeypatch, name, attribute, fault, said):
    monkeypatch.setattr(doctor, attribute, fault)
    check = found(name)
    assert check.status == "wrong" and said in check.seen and check.fix


def test_a_fault_in_statistics(monkeypatch):
    monkeypatch.setattr(doctor.stats, "holm", lambda p: list(p))
    assert "the Holm is (0.01, 0.04, 0.03)" in found("statistics").seen


def test_packages_out_of_range_and_missing(monkeypatch):
    real = importlib.metadata.requires("vestige") or []
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [*real, "numpy>=99"])
    check = found("packages")
    assert check.status == "wrong" and check.seen.endswith(">=99 is needed")
    assert "pip install -U 'numpy>=99'" in check.fix
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["no-such-package>=1"])
    assert found("packages").seen == "missing: no-such-package"

    def none(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    here = importlib.metadata.version
    known = {"no-such-package-cpu": "1.2"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: known.get(name) or here(name))
    assert found("packages").status == "ok"  # a build for CPUs goes by another name
    monkeypatch.setattr(importlib.metadata, "requires", none)
    assert "not installed as a package" in found("packages").seen


def test_extras(monkeypatch):
    assert {"trl", "judge", "mlp"} <= set(doctor._extras()) and "dev" not in doctor._extras()
    known = {"absent": "no-such-package>=1", "there": "numpy>=1", "old": "numpy<1"}
    monkeypatch.setattr(doctor, "_requirements", lambda name="": [Requirement(known[name])])

    def seen(name: str) -> Check:
        return doctor.done(name, doctor._extra(name), Patient())

    assert seen("there").status == "ok" and "imported" in seen("there").seen
    assert (seen("absent").status, seen("absent").fix) == (
        "skipped", "pip install 'vestige[absent]'",
    )  # fmt: skip
    assert seen("old").status == "wrong" and "<1 is needed" in seen("old").seen

    def broken(patient: Patient) -> str:
        raise ImportError("libfoo.so: undefined symbol")

    monkeypatch.setitem(doctor.TRIED, "there", broken)
    assert seen("there").status == "wrong" and "undefined symbol" in seen("there").seen


def test_a_service_on_this_machine_is_asked(monkeypatch):
    pytest.importorskip("inspect_ai", reason="needs the extra api")
    monkeypatch.setenv("VESTIGE_MAX_TOKENS", "1")  # what may be spent is no matter here
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")

    def seen() -> Check:
        return doctor.done("api", doctor._extra("api"), Patient())

    assert seen().status == "ok" and "in the ledger" in seen().seen, seen()
    monkeypatch.setitem(
        doctor.SERVED["choices"][0], "message", {"role": "assistant", "content": "5"}
    )
    assert seen().status == "wrong" and "is ['5'], and should be ['4, 8']" in seen().seen
    monkeypatch.undo()
    monkeypatch.setitem(doctor.SERVED, "usage", {"prompt_tokens": 0, "completion_tokens": 1,
                                                "total_tokens": 1})  # fmt: skip
    assert seen().status == "wrong" and "what the ledger holds" in seen().seen


def test_a_cluster_of_this_machine_is_tried(monkeypatch):
    """With a Ray that works on tasks at once, well or badly."""

    def remote(**_: object):
        return lambda call: SimpleNamespace(remote=call)

    ended: list[bool] = []
    ray = SimpleNamespace(
        init=lambda **_: None, remote=remote, get=lambda found, timeout: found,
        shutdown=lambda: ended.append(True),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert "a task worked on" in doctor._try_ray(Patient())
    ray.get = lambda found, timeout: [0.0]
    with pytest.raises(Wrong, match=r"the Holm of a task is \[0.0\]"):
        doctor._try_ray(Patient())
    assert ended == [True, True]


def test_one_failure_does_not_stop_the_others(monkeypatch):
    def explode(patient: Patient) -> str:
        raise ZeroDivisionError("odd")

    def doubt(patient: Patient) -> str:
        raise Doubtful("hm", "do this")

    checks = {"a": explode, "b": doubt, "c": lambda patient: "fine"}
    monkeypatch.setattr(doctor, "CHECKS", checks)
    monkeypatch.setattr(doctor, "_extras", lambda: [])
    a, b, c = doctor.examine()
    assert (a.status, a.seen) == ("wrong", "ZeroDivisionError: odd") and a.fix
    assert b == Check("b", "warning", "hm", "do this")
    assert c == Check("c", "ok", "fine")
    assert {Wrong.status, Doubtful.status, Skipped.status} == {"wrong", "warning", "skipped"}
