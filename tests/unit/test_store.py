"""Run folders, stages and the record, with real kills, real locks and a real full device."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_cases import RUN_CONFIG, python, write_stage

from vestige.core.types import ConfigError, StoreError
from vestige.store import (
    Run,
    atomic_write,
    files,
    hash_config,
    load_stage,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)  # fmt: skip


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
        with Run.open(tmp_path / root, "owl", RUN_CONFIG) as run:
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
    with Run.open(tmp_path, "owl", RUN_CONFIG) as run:
        kept = write_stage(run, "kept", {})
        old = write_stage(run, "a", {"x": 1}, text="one")
    with Run.open(tmp_path, "owl", RUN_CONFIG, overwrite=True) as run:
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
