"""The doctor sees a sound installation as sound, and every fault as what it is."""

from __future__ import annotations

import importlib.metadata
import sys
from collections import namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from vestige.core import stats
from vestige.doctor import extras, installation, known_answers, machine
from vestige.doctor.bundled_model import BundledModel
from vestige.doctor.checks import Check, Doubtful, Skipped, Wrong, done

PLAIN = ("Python", "packages", "torch", "number filter", "scorers", "statistics")


def checked(name: str) -> Check:
    return done(name, installation.CHECKS[name], BundledModel())


@pytest.mark.parametrize("name", PLAIN)
def test_a_sound_installation(name):
    check = checked(name)
    assert (check.status, check.fix) == ("ok", "") and check.seen


def test_a_cache_that_can_be_written_and_one_that_cannot(tmp_path, monkeypatch):
    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path / "cache"))
    assert checked("cache folder").status == "ok"
    assert list((tmp_path / "cache").iterdir()) == []
    assert checked("bundled model") == Check(
        "bundled model", "warning", "smollm2-135m-instruct is not here yet",
        "vestige models pull smollm2-135m-instruct",
    )  # fmt: skip
    assert checked("exact evaluation").status == "skipped"
    (tmp_path / "file").touch()
    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path / "file" / "cache"))
    check = checked("cache folder")
    assert check.status == "wrong" and "VESTIGE_CACHE" in check.fix


def test_locks_that_do_not_hold(tmp_path, monkeypatch):
    class Loose:
        def __init__(self, path: object, **_: object) -> None: ...
        def acquire(self, timeout: float) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path))
    monkeypatch.setattr(machine, "FileLock", Loose)
    assert "locks do not hold" in checked("cache folder").seen


def test_little_space(monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage(5_000_000_000))
    assert "5.0 GB free" in checked("disk space").seen
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage(1_000_000_000))
    assert (checked("disk space").status, checked("disk space").fix[:4]) == ("warning", "free")


@dataclass
class Lenient:
    """A filter that keeps leading zeros."""

    banned: tuple[int, ...] = field(default=())

    def judge(self):
        rules = number_filter(banned=self.banned, paper_compat=True).judge()
        return lambda row: None if row.completion == "007" else rules(row)


number_filter = known_answers.NumberFilter


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
    monkeypatch.setattr(known_answers, attribute, fault)
    check = checked(name)
    assert check.status == "wrong" and said in check.seen and check.fix


def test_a_fault_in_statistics(monkeypatch):
    monkeypatch.setattr(stats, "holm", lambda p: list(p))
    assert "the Holm is (0.01, 0.04, 0.03)" in checked("statistics").seen


def test_packages_out_of_range_and_missing(monkeypatch):
    real = importlib.metadata.requires("vestige") or []
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [*real, "numpy>=99"])
    check = checked("packages")
    assert check.status == "wrong" and check.seen.endswith(">=99 is needed")
    assert "pip install -U 'numpy>=99'" in check.fix
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["no-such-package>=1"])
    assert checked("packages").seen == "missing: no-such-package"

    def none(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    here = importlib.metadata.version
    known = {"no-such-package-cpu": "1.2"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: known.get(name) or here(name))
    assert checked("packages").status == "ok"  # a build for CPUs goes by another name
    monkeypatch.setattr(importlib.metadata, "requires", none)
    assert "not installed as a package" in checked("packages").seen


def test_extras(monkeypatch):
    assert {"trl", "judge", "mlp"} <= set(
        installation.extras()
    ) and "dev" not in installation.extras()
    known = {"absent": "no-such-package>=1", "there": "numpy>=1", "old": "numpy<1"}
    monkeypatch.setattr(extras, "requirements", lambda name="": [Requirement(known[name])])

    def extra(name: str) -> Check:
        return done(name, extras.extra_check(name), BundledModel())

    assert extra("there").status == "ok" and "imported" in extra("there").seen
    assert (extra("absent").status, extra("absent").fix) == (
        "skipped", "pip install 'vestige[absent]'",
    )  # fmt: skip
    assert extra("old").status == "wrong" and "<1 is needed" in extra("old").seen

    def broken(bundled: BundledModel) -> str:
        raise ImportError("libfoo.so: undefined symbol")

    monkeypatch.setitem(extras.TRIED, "there", broken)
    assert extra("there").status == "wrong" and "undefined symbol" in extra("there").seen


def test_a_service_on_this_machine_is_asked(monkeypatch):
    pytest.importorskip("inspect_ai", reason="needs the extra api")
    monkeypatch.setenv("VESTIGE_MAX_TOKENS", "1")  # what may be spent is no matter here
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")

    def asked() -> Check:
        return done("api", extras.extra_check("api"), BundledModel())

    assert asked().status == "ok" and "in the ledger" in asked().seen, asked()
    monkeypatch.setitem(
        extras.SERVED["choices"][0], "message", {"role": "assistant", "content": "5"}
    )
    assert asked().status == "wrong" and "is ['5'], and should be ['4, 8']" in asked().seen
    monkeypatch.undo()
    monkeypatch.setitem(extras.SERVED, "usage", {"prompt_tokens": 0, "completion_tokens": 1,
                                                "total_tokens": 1})  # fmt: skip
    assert asked().status == "wrong" and "what the ledger holds" in asked().seen


def test_a_cluster_of_this_machine_is_tried(monkeypatch):
    """With a Ray that works on tasks at once, well or badly."""

    def remote(**_: object):
        return lambda call: SimpleNamespace(remote=call)

    ended: list[bool] = []
    ray = SimpleNamespace(
        init=lambda **_: None, remote=remote, get=lambda result, timeout: result,
        shutdown=lambda: ended.append(True),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert "a task worked on" in extras._try_ray(BundledModel())
    ray.get = lambda result, timeout: [0.0]
    with pytest.raises(Wrong, match=r"the Holm of a task is \[0.0\]"):
        extras._try_ray(BundledModel())
    assert ended == [True, True]


def test_one_failure_does_not_stop_the_others(monkeypatch):
    def explode(bundled: BundledModel) -> str:
        raise ZeroDivisionError("odd")

    def doubt(bundled: BundledModel) -> str:
        raise Doubtful("hm", "do this")

    checks = {"a": explode, "b": doubt, "c": lambda bundled: "fine"}
    monkeypatch.setattr(installation, "CHECKS", checks)
    monkeypatch.setattr(installation, "extras", lambda: [])
    a, b, c = installation.examine()
    assert (a.status, a.seen) == ("wrong", "ZeroDivisionError: odd") and a.fix
    assert b == Check("b", "warning", "hm", "do this")
    assert c == Check("c", "ok", "fine")
    assert {Wrong.status, Doubtful.status, Skipped.status} == {"wrong", "warning", "skipped"}
