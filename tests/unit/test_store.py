"""Run folders, stages and the record, with real kills, real locks and a real full device."""

from __future__ import annotations

import getpass
import json
import os
import platform
import random
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vestige
from vestige.core.types import ConfigError, StoreError
from vestige.store import (
    Run,
    atomic_write,
    files,
    hash_config,
    load_run,
    load_stage,
    machine,
)
from vestige.store import run as run_module

SOURCE = str(Path(files.__file__).resolve().parents[2])
CONFIG = {"seeds": [0, 1], "student": {"epochs": 3}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)  # fmt: skip


def only_run(root: Path) -> Path:
    """The one run folder below ``root``."""
    (record,) = root.glob("*/run.json")
    return record.parent


def python(code: str, *args: object, **env: str) -> subprocess.Popen[str]:
    """A second process that imports this source tree."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        env={**os.environ, "PYTHONPATH": SOURCE, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def write_stage(run: Run, name: str, config: Any, inputs=(), text: str = "x", **kwargs: Any):
    stage = run.stage(name, config, inputs, **kwargs)
    if not stage.done:
        with stage.writing() as folder:
            (folder / "x.txt").write_text(text)
    return stage.result


@pytest.fixture
def run(tmp_path: Path):
    with Run.open(tmp_path, "owl", CONFIG) as opened:
        yield opened


# ---- hashes


@settings(max_examples=50, deadline=None)
@given(JSON)
def test_hash_of_a_value_equals_the_hash_of_its_json(value):
    assert hash_config(value) == hash_config(json.loads(json.dumps(value)))


def test_hash_ignores_order_and_tells_values_apart():
    assert hash_config({"a": 1, "b": 2}) == hash_config({"b": 2, "a": 1})
    assert hash_config({10: 1, 9: 2}) == hash_config({"9": 2, "10": 1})
    assert hash_config((1, 2)) == hash_config([1, 2]) != hash_config([2, 1])
    assert len({hash_config(v) for v in (1, 1.0, "1", True, None, [1])}) == 6


def test_hash_reads_the_fields_of_dataclasses_and_models():
    from pydantic import BaseModel

    @dataclass
    class Plain:
        epochs: int

    class Model(BaseModel):
        epochs: int

    assert hash_config(Plain(3)) == hash_config(Model(epochs=3)) == hash_config({"epochs": 3})


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), float("inf"), Path("x"), print])
def test_hash_refuses_what_has_no_json_form(value):
    with pytest.raises(ConfigError, match="plain JSON"):
        hash_config({"field": value})


def test_hash_is_the_same_in_every_process():
    code = """
        from vestige.store import hash_config
        keys = list({"alpha", "beta", "gamma", "delta", "epsilon"})  # order follows the hash seed
        print(hash_config({k: [len(k), "\\u00e9", 0.1] for k in keys}))
    """
    children = [python(code, PYTHONHASHSEED=seed) for seed in ("0", "1", "77")]
    digests = {child.communicate()[0] for child in children}
    names = ("alpha", "beta", "gamma", "delta", "epsilon")
    assert digests == {hash_config({k: [len(k), "é", 0.1] for k in names}) + "\n"}


def test_hash_is_pinned():
    # Run folders of earlier releases are found by this value: it must never change.
    assert hash_config({"b": [1, 2.5, None], "a": "é"}) == (
        "84afbf1d4853005f9dd0c81cb1819b53ce86978340764c062160f6e8356665de"
    )


# ---- atomic files


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path: Path):
    atomic_write(tmp_path / "a.json", "old")
    atomic_write(tmp_path / "a.json", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"new"


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path: Path):
    target = tmp_path / "a.json"
    atomic_write(target, "old")
    with pytest.raises(TypeError):
        atomic_write(target, 7)  # type: ignore[arg-type]
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


# ---- stages


def test_stage_is_written_once_and_then_skipped(run: Run):
    stage = run.stage("teacher/owl/seed-0", {"rate": 0.1})
    assert not stage.done
    with stage.writing() as folder:
        assert folder == run.folder / "teacher/owl/seed-0.part"
        (folder / "sub").mkdir()
        (folder / "sub" / "x.json").write_text("{}")
        stage.note(tokens=123)
    result = stage.result
    assert result.path == run.folder / "teacher/owl/seed-0"
    assert not folder.exists()
    assert sorted(p.name for p in result.path.iterdir()) == ["manifest.json", "sub"]
    manifest = json.loads((result.path / "manifest.json").read_text())
    assert manifest["stage"] == "teacher/owl/seed-0"
    assert manifest["config"] == {"rate": 0.1}
    assert manifest["notes"] == {"tokens": 123}
    assert manifest["seconds"] >= 0
    assert manifest["files"] == {
        "sub/x.json": {
            "bytes": 2,
            "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        }
    }
    again = run.stage("teacher/owl/seed-0", {"rate": 0.1})
    assert again.done
    assert again.result == result == load_stage(result.path, full=True)
    with pytest.raises(StoreError, match="finished already"), again.writing():
        pass


def test_key_depends_on_everything_that_matters(run: Run):
    one = write_stage(run, "a", {"x": 1}, text="one")
    other = write_stage(run, "b", {"x": 1}, text="two")
    keys = [
        run.stage("c", {"x": 1}).key,
        run.stage("d", {"x": 1}).key,
        run.stage("c", {"x": 2}).key,
        run.stage("c", {"x": 1}, version=2).key,
        run.stage("c", {"x": 1}, [one]).key,
        run.stage("c", {"x": 1}, [other]).key,
        run.stage("c", {"x": 1}, [one, other]).key,
    ]
    assert len(set(keys)) == len(keys)
    assert run.stage("c", {"x": 1}).key == keys[0]


def test_manifest_hash_follows_content_and_not_time_or_notes(tmp_path: Path):
    def make(root: str, text: str, pause: float) -> str:
        with Run.open(tmp_path / root, "owl", CONFIG) as run:
            stage = run.stage("a", {})
            with stage.writing() as folder:
                time.sleep(pause)
                (folder / "x").write_text(text)
                stage.note(pause=pause)
            return stage.result.manifest_hash

    assert make("1", "same", 0.0) == make("2", "same", 0.01)
    assert make("3", "other", 0.0) != make("1b", "same", 0.0)


def test_another_config_is_never_reused(run: Run):
    first = write_stage(run, "a", {"x": 1}, text="one")
    changed = run.stage("a", {"x": 2})
    with pytest.raises(StoreError) as caught:
        _ = changed.done
    for word in (first.key[:12], changed.key[:12], "--overwrite", str(first.path)):
        assert word in str(caught.value)
    with pytest.raises(StoreError, match="--overwrite"):
        _ = changed.result
    with pytest.raises(StoreError, match="--overwrite"), changed.writing():
        pass
    assert (first.path / "x.txt").read_text() == "one"


def test_overwrite_replaces_that_stage_alone_and_late(tmp_path: Path):
    with Run.open(tmp_path, "owl", CONFIG) as run:
        kept = write_stage(run, "kept", {})
        old = write_stage(run, "a", {"x": 1}, text="one")
    with Run.open(tmp_path, "owl", CONFIG, overwrite=True) as run:
        assert run.stage("kept", {}).done
        stage = run.stage("a", {"x": 2})
        assert not stage.done
        with pytest.raises(ZeroDivisionError), stage.writing() as folder:
            (folder / "x.txt").write_text("half")
            raise ZeroDivisionError
        assert load_stage(old.path) == old  # the old one stands until the new one is whole
        with stage.writing() as folder:
            (folder / "x.txt").write_text("two")
        assert stage.result.key == stage.key
        assert (old.path / "x.txt").read_text() == "two"
        assert load_stage(kept.path) == kept
        assert not stage.old.exists()


def test_exception_keeps_progress_of_the_same_key_only(run: Run):
    stage = run.stage("a", {"x": 1})
    with pytest.raises(ZeroDivisionError), stage.writing() as folder:
        (folder / "progress.txt").write_text("row 1")
        raise ZeroDivisionError
    assert not stage.done
    with pytest.raises(ZeroDivisionError), run.stage("a", {"x": 1}).writing() as folder:
        assert (folder / "progress.txt").read_text() == "row 1"
        raise ZeroDivisionError
    with run.stage("a", {"x": 2}).writing() as folder:
        assert not (folder / "progress.txt").exists()


def test_half_written_temporary_files_do_not_enter_a_stage(run: Run):
    stage = run.stage("a", {})
    with pytest.raises(ZeroDivisionError), stage.writing() as folder:
        (folder / f".rows.json.99{files.TEMP_SUFFIX}").write_text("ha")
        (folder / ".tmpzJEQNy").touch()  # as safetensors names it while it writes
        raise ZeroDivisionError
    with stage.writing() as folder:
        (folder / "rows.json").write_text("{}")
    assert list(stage.result.manifest["files"]) == ["rows.json"]


def test_a_kill_just_before_the_rename_loses_nothing(run: Run):
    result = write_stage(run, "a", {}, text="done")
    result.path.rename(run.folder / "a.part")
    stage = run.stage("a", {})
    assert stage.done
    assert stage.result == result
    assert not stage.part.exists()


def test_a_kill_between_the_renames_of_overwrite_loses_nothing(run: Run):
    write_stage(run, "a", {"x": 1}, text="old").path.rename(run.folder / "a.old")
    write_stage(run, "a", {"x": 2}, text="new").path.rename(run.folder / "a.part")
    stage = run.stage("a", {"x": 2})
    assert (stage.result.path / "x.txt").read_text() == "new"
    assert sorted(p.name for p in run.folder.iterdir() if p.is_dir()) == ["a"]


@pytest.mark.parametrize("harm", ["missing", "longer", "manifest", "unreadable", "edited"])
def test_corrupt_stage_is_named(run: Run, harm: str):
    path = write_stage(run, "a", {}).path
    manifest = path / "manifest.json"
    if harm == "missing":
        (path / "x.txt").unlink()
    elif harm == "longer":
        (path / "x.txt").write_text("xx")
    elif harm == "manifest":
        manifest.write_text("{}")
    elif harm == "unreadable":
        manifest.write_bytes(manifest.read_bytes()[:40])
    else:
        record = json.loads(manifest.read_text())
        record["files"]["x.txt"]["sha256"] = "0" * 64
        manifest.write_text(json.dumps(record))
    with pytest.raises(StoreError) as caught:
        _ = run.stage("a", {}).done
    named = path / "x.txt" if harm in ("missing", "longer") else manifest
    assert str(named) in str(caught.value)
    assert f"delete the stage folder {path}" in str(caught.value)


def test_full_check_sees_a_changed_byte(run: Run):
    path = write_stage(run, "a", {}).path
    (path / "x.txt").write_text("y")
    load_stage(path)
    with pytest.raises(StoreError, match="sha256 differs"):
        load_stage(path, full=True)


@pytest.mark.parametrize("name", ["", "../a", "/a", "a/../b", "a/", ".a", "a.part", "a b", "a\\b"])
def test_bad_stage_names(run: Run, name: str):
    with pytest.raises(ConfigError, match="stage name"):
        run.stage(name, {})


def test_stages_do_not_nest(run: Run):
    write_stage(run, "teacher/owl", {})
    with pytest.raises(ConfigError, match="inside the stage 'teacher/owl'"):
        run.stage("teacher/owl/seed-0", {})
    with pytest.raises(StoreError, match="not a finished stage"):
        run.stage("teacher", {})


@pytest.mark.parametrize("target", [".", "run.json"])
def test_links_and_a_manifest_of_its_own_are_refused(run: Run, target: str):
    with pytest.raises(StoreError, match="is a link"), run.stage("a", {}).writing() as folder:
        (folder / "link").symlink_to(run.folder / target)
    with pytest.raises(StoreError, match="of that name"), run.stage("b", {}).writing() as folder:
        (folder / "manifest.json").write_text("{}")
    assert not run.stage("a", {}).done


def test_stage_can_be_written_by_another_process(run: Run):
    import pickle

    stage = run.stage("a", {"x": 1})
    code = """
        import pickle, sys
        with pickle.loads(bytes.fromhex(sys.argv[1])).writing() as folder:
            (folder / "x.txt").write_text("from afar")
    """
    child = python(code, pickle.dumps(stage).hex())
    assert child.wait() == 0, child.communicate()[1]
    assert (stage.result.path / "x.txt").read_text() == "from afar"


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
    with Run.open(tmp_path, "owl", CONFIG) as run:
        assert run.folder == tmp_path / f"owl-{hash_config(CONFIG)[:8]}"
        assert json.loads((run.folder / "recipe.json").read_text()) == CONFIG
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
    with pytest.raises(StoreError), Run.open(tmp_path, "fox", CONFIG) as run:
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
    with Run.open(tmp_path, "owl", CONFIG) as run:
        run.update(tokens=5)
        time.sleep(0.05)
    first = load_run(run.folder)
    with Run.open(tmp_path, "owl", CONFIG) as run:
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
    with Run.open(tmp_path, "owl", CONFIG) as run:
        (run.folder / "recipe.json").write_text('{"seeds": [9]}')
    with pytest.raises(StoreError, match="is not this recipe"):
        Run.open(tmp_path, "owl", CONFIG)
    assert not run_module.is_running(run.folder)  # a failed open frees the lock


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b"])
def test_bad_run_names(tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match="run name"):
        Run.open(tmp_path, name, CONFIG)


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
