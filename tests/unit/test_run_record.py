"""Runs that are killed, their lock, a full disk, and the record that they leave."""

from __future__ import annotations

import getpass
import json
import os
import platform
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from store_cases import RUN_CONFIG, SOURCE, python, write_stage

import vestige
from vestige.core.types import ConfigError, StoreError
from vestige.store import (
    Run,
    hash_config,
    load_run,
    load_stage,
    machine,
)
from vestige.store import run as run_module


def only_run(root: Path) -> Path:
    """The one run folder below ``root``."""
    (record,) = root.glob("*/run.json")
    return record.parent


# ---- kills


TWENTY = """
    import json, sys
    from pathlib import Path
    from vestige.store import Run

    with Run.open(Path(sys.argv[1]), "kill", {"seeds": [0]}) as run:
        before = []
        for i in range(20):
            stage = run.stage(f"group-{i % 3}/s-{i}", {"i": i}, before)
            if not stage.done:
                with stage.writing() as folder:
                    for j in range(4):
                        if not (folder / f"{j}.json").exists():
                            (folder / "tmp").write_text(json.dumps([i, j] * 500))
                            (folder / "tmp").rename(folder / f"{j}.json")
            before = [stage.result]
            run.update(tokens=i)
"""


def tree(folder: Path) -> dict[str, Any]:
    """Every file; manifests without their seconds, run.json left out."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in ("run.json", "run.lock"):
            content: Any = path.read_text()
            if path.name == "manifest.json":
                content = json.loads(content)
                content["seconds"] = None
            found[path.relative_to(folder).as_posix()] = content
    return found


def test_killed_at_random_moments_a_run_ends_like_an_undisturbed_one(tmp_path: Path):
    start = time.monotonic()
    child = python(TWENTY, tmp_path / "calm")
    assert child.wait() == 0, child.communicate()[1]
    length = time.monotonic() - start
    calm = only_run(tmp_path / "calm")

    rng, kills = random.Random(5), 0
    for _ in range(4):
        child = python(TWENTY, tmp_path / "killed")
        try:
            child.wait(timeout=rng.uniform(0.4, 0.9) * length)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            kills += 1
    child = python(TWENTY, tmp_path / "killed")
    assert child.wait() == 0, child.communicate()[1]
    killed = only_run(tmp_path / "killed")

    assert kills > 0
    assert killed.name == calm.name
    assert tree(killed) == tree(calm)
    assert len([f for f in tree(killed) if f.endswith("manifest.json")]) == 20
    assert not list(killed.rglob("*.part"))
    assert load_run(killed)["status"] == "done"


def test_killed_inside_writing_the_stage_goes_on_from_its_progress(tmp_path: Path):
    code = """
        import sys, time
        from pathlib import Path
        from vestige.store import Run
        run = Run.open(Path(sys.argv[1]), "owl", {})
        with run.stage("a", {}).writing() as folder:
            (folder / "x.txt").write_text("half")
            print("ready", flush=True)
            time.sleep(60)
    """
    child = python(code, tmp_path)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    folder = only_run(tmp_path)
    assert not (folder / "a").exists()
    assert load_run(folder)["status"] == "running" and not run_module.is_running(folder)
    with Run.open(tmp_path, "owl", {}) as run:  # the lock died with its process
        stage = run.stage("a", {})
        assert not stage.done
        with stage.writing() as part:
            assert (part / "x.txt").read_text() == "half"
        assert stage.done
    record = load_run(folder)
    assert record["status"] == "done" and record["attempts"] == 2


# ---- lock, full disk


def test_second_process_is_turned_away(run: Run, tmp_path: Path):
    code = """
        import sys
        from pathlib import Path
        from vestige.store import Run
        from vestige.core.types import StoreError
        try:
            Run.open(Path(sys.argv[1]), "owl", {"seeds": [0, 1], "student": {"epochs": 3}})
        except StoreError as error:
            print(error)
    """
    assert run_module.is_running(run.folder)
    message = python(code, tmp_path).communicate()[0]
    assert f"another process is running this recipe in {run.folder}" in message
    run.close()
    assert not run_module.is_running(run.folder)
    child = python(code, tmp_path)
    assert child.communicate() == ("", "")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a device that is full")
def test_full_disk_is_explained_and_finished_stages_stay(run: Run):
    kept = write_stage(run, "kept", {})
    stage = run.stage("a", {})
    with pytest.raises(StoreError) as caught, stage.writing(), open("/dev/full", "w") as full:
        full.write("x" * 100_000)
    assert "disk is full" in str(caught.value)
    assert "run the same command again: finished stages are kept" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert load_stage(kept.path) == kept and stage.part.exists() and not stage.done


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a device that is full")
def test_full_disk_behind_another_error_is_seen(run: Run):
    with pytest.raises(StoreError, match="disk is full"), run.stage("a", {}).writing():
        try:
            with open("/dev/full", "w") as full:
                full.write("x")
        except OSError as error:
            raise RuntimeError("could not save the checkpoint") from error
    # safetensors raises its own class, with the system's text and no errno
    with pytest.raises(StoreError, match="disk is full"), run.stage("a", {}).writing():
        raise RuntimeError("I/O error: No space left on device (os error 28)")


def test_other_errors_pass_unchanged(run: Run):
    with pytest.raises(FileNotFoundError), run.stage("a", {}).writing() as folder:
        (folder / "none" / "x").write_text("x")


# ---- the record


def test_record_of_a_run(tmp_path: Path):
    with Run.open(tmp_path, "owl", RUN_CONFIG) as run:
        assert run.folder == tmp_path / f"owl-{hash_config(RUN_CONFIG)[:8]}"
        assert json.loads((run.folder / "recipe.json").read_text()) == RUN_CONFIG
        assert load_run(run.folder)["status"] == "running"
        run.update(tokens=7, progress={"done": 1})
        assert load_run(run.folder)["tokens"] == 7
    record = load_run(run.folder)
    assert record["status"] == "done" and record["error"] is None
    assert record["schema_version"] == 1
    assert record["seeds"] == [0, 1]
    assert record["progress"] == {"done": 1}
    assert record["started"] <= record["finished"]
    assert record["seconds"] >= 0
    assert record["peak_memory_bytes"] > 1_000_000
    assert record["python"] == platform.python_version()
    assert record["packages"]["pydantic"]
    assert record["hardware"]["cores"] >= 1
    assert record["hardware"]["memory_bytes"] > 1 << 28


def test_record_names_neither_host_nor_user_nor_path(tmp_path: Path):
    with pytest.raises(StoreError), Run.open(tmp_path, "fox", RUN_CONFIG) as run:
        raise StoreError(f"{run.folder / 'a'} is bad, see {Path.home() / 'x'}")
    record = load_run(run.folder)
    assert record["status"] == "failed"
    assert record["error"] == f"StoreError: {run.folder.name}/a is bad, see ~/x"
    values: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                collect(item)
        elif isinstance(value, str):
            values.append(value)

    collect(record)
    assert len(values) > 8
    for secret in (platform.node(), getpass.getuser()):
        assert not [v for v in values if v == secret or f"/{secret}/" in v]
    assert not [v for v in values if v.startswith("/") or str(tmp_path) in v]


def test_describing_the_machine_imports_nothing_heavy():
    code = """
        import sys
        from vestige.store import describe_environment
        described = describe_environment()
        heavy = {"torch", "transformers", "numpy", "scipy", "pydantic"} & set(sys.modules)
        print(sorted(heavy), "numpy" in described["packages"])
    """
    assert python(code).communicate()[0] == "[] True\n"


def test_git_state_of_a_checkout_and_of_none(tmp_path: Path):
    def git(*args: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *args],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    package = tmp_path / "pkg"
    package.mkdir()
    assert machine._git_state(package) == (None, None)
    git("init", "-q")
    (package / "machine.py").write_text("")
    assert machine._git_state(package) == (None, None)  # inside a repository that ignores it
    git("add", ".")
    git("commit", "-qm", "x")
    assert machine._git_state(package) == (git("rev-parse", "HEAD"), False)
    (package / "machine.py").write_text("changed")
    assert machine._git_state(package) == (git("rev-parse", "HEAD"), True)


def test_reopened_run_keeps_its_start_and_adds_its_seconds(tmp_path: Path):
    with Run.open(tmp_path, "owl", RUN_CONFIG) as run:
        run.update(tokens=5)
        time.sleep(0.05)
    first = load_run(run.folder)
    with Run.open(tmp_path, "owl", RUN_CONFIG) as run:
        assert run.record["finished"] is None
    second = load_run(run.folder)
    assert second["started"] == first["started"]
    assert second["seconds"] >= first["seconds"] >= 0.05
    assert (second["attempts"], second["tokens"]) == (2, 5)


def test_record_refuses_false_changes(run: Run):
    with pytest.raises(ConfigError, match="config_hash"):
        run.update(config_hash="0")
    with pytest.raises(ConfigError, match="plain JSON"):
        run.update(tokens={1})
    with pytest.raises(ConfigError, match="'done' or 'failed'"):
        run.finish("fine")
    assert load_run(run.folder)["status"] == "running"


def test_changed_recipe_is_found(tmp_path: Path):
    with Run.open(tmp_path, "owl", RUN_CONFIG) as run:
        (run.folder / "recipe.json").write_text('{"seeds": [9]}')
    with pytest.raises(StoreError, match="is not this recipe"):
        Run.open(tmp_path, "owl", RUN_CONFIG)
    assert not run_module.is_running(run.folder)  # a failed open frees the lock


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b"])
def test_bad_run_names(tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match="run name"):
        Run.open(tmp_path, name, RUN_CONFIG)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema_version": "1"}', "\x00"])
def test_corrupt_record_is_named(tmp_path: Path, content: str):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(StoreError, match=r"run\.json is corrupt"):
        load_run(tmp_path)


def test_missing_and_newer_records(tmp_path: Path):
    with pytest.raises(StoreError, match="does not exist"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text('{"schema_version": 99}')
    with pytest.raises(StoreError, match="schema 99"):
        load_run(tmp_path)


def test_older_records_are_brought_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "run.json").write_text('{"schema_version": 1, "secs": 2}')
    monkeypatch.setattr(run_module, "SCHEMA", 3)
    monkeypatch.setitem(run_module._MIGRATIONS, 1, lambda r: {"seconds": r["secs"]})
    monkeypatch.setitem(run_module._MIGRATIONS, 2, lambda r: {**r, "tokens": None})
    assert load_run(tmp_path) == {"schema_version": 3, "seconds": 2, "tokens": None}


def test_package_is_the_one_under_test():
    assert Path(str(vestige.__path__[0])).resolve() == Path(SOURCE) / "vestige"


def test_a_run_can_keep_the_end_that_it_had(tmp_path: Path):
    with Run.open(tmp_path, "demo", {}) as run:
        run.finish("failed", "two students are awaited")
    before = load_run(run.folder)
    ends = ("status", "error", "finished")
    with pytest.raises(StoreError), Run.open(tmp_path, "demo", {}) as run:
        assert load_run(run.folder)["status"] == "running"
        run.end_as_before()
        raise StoreError("what was brought is refused")
    assert [load_run(run.folder)[n] for n in ends] == [before[n] for n in ends]
    with pytest.raises(StoreError), Run.open(tmp_path, "new", {}) as run:
        run.end_as_before()
        raise StoreError("the first error of a new run is its own")
    assert load_run(run.folder)["status"] == "failed"
