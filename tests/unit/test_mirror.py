"""Stages kept at an fsspec URL: whole or not there, and fetched as they were written."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from vestige.core.types import ConfigError, StoreError
from vestige.store import Run, load_stage, mirror
from vestige.store.mirror import Mirror

URL = "memory://kept/runs/"
FS = fsspec.filesystem("memory")


@pytest.fixture(autouse=True)
def empty():
    FS.store.clear()
    FS.pseudo_dirs[:] = [""]


def made(root: Path, text: str = "weights", overwrite: bool = False) -> Path:
    """A run with one stage; its folder."""
    with Run.open(root, "trial", {"seeds": [0]}, overwrite=overwrite) as opened:
        stage = opened.stage("seed-0/teacher/owl", {"text": text})
        if not stage.done:
            with stage.writing() as folder:
                (folder / "deep").mkdir(exist_ok=True)
                (folder / "deep/a.txt").write_text(text)
        return opened.folder


def test_a_stage_is_kept_and_fetched_elsewhere(tmp_path):
    here = made(tmp_path / "here")
    Mirror(URL, here).keep("seed-0/teacher/owl")
    Mirror(URL, here).keep_records()
    there = Mirror(URL, tmp_path / "there" / here.name)
    there.folder.mkdir(parents=True)
    assert there.fetch() == ["seed-0/teacher/owl"] and there.fetch() == []
    assert (there.folder / "seed-0/teacher/owl/deep/a.txt").read_text() == "weights"
    stages = [load_stage(p / "seed-0/teacher/owl", full=True) for p in (here, there.folder)]
    assert stages[0].manifest == stages[1].manifest
    assert json.loads(FS.cat_file(f"/kept/runs/{here.name}/run.json"))["status"] == "done"
    assert [p.name for p in there.folder.iterdir()] == ["seed-0"]  # nothing of the arrival is left


def test_what_is_there_is_not_sent_again_and_what_changed_is(tmp_path, monkeypatch):
    sent: list[str] = []
    send = mirror.remote.send
    monkeypatch.setattr(
        mirror.remote, "send", lambda path, url: (sent.append(path.name), send(path, url))
    )
    here = made(tmp_path)
    for _ in range(2):
        Mirror(URL, here).keep("seed-0/teacher/owl")
    assert sent == ["a.txt", "manifest.json"]
    made(tmp_path, "other", overwrite=True)
    Mirror(URL, here).keep("seed-0/teacher/owl")
    assert (
        len(sent) == 4
        and FS.cat_file(f"/kept/runs/{here.name}/seed-0/teacher/owl/deep/a.txt") == b"other"
    )
    Mirror(URL, here).keep("seed-0/not-finished")


def test_a_stage_that_was_sent_in_part_is_not_there(tmp_path):
    here = made(tmp_path / "here")
    Mirror(URL, here).keep("seed-0/teacher/owl")
    FS.rm_file(f"/kept/runs/{here.name}/seed-0/teacher/owl/manifest.json")
    (tmp_path / "b" / here.name).mkdir(parents=True)
    assert Mirror(URL, tmp_path / "b" / here.name).fetch() == []


def test_what_is_not_what_was_written_is_refused(tmp_path):
    here = made(tmp_path / "here")
    Mirror(URL, here).keep("seed-0/teacher/owl")
    FS.pipe_file(f"/kept/runs/{here.name}/seed-0/teacher/owl/deep/a.txt", b"poison!")
    there = tmp_path / "there" / here.name
    there.mkdir(parents=True)
    with pytest.raises(StoreError, match="is not what was written"):
        Mirror(URL, there).fetch()
    assert not list(there.iterdir())


@pytest.mark.parametrize("name", ["..", "a/../../../b"])
def test_a_name_cannot_lead_out_of_the_folder(tmp_path, name):
    here = made(tmp_path / "here")
    FS.pipe_file(f"/kept/runs/{here.name}/{name}/manifest.json", b"{}")
    with pytest.raises((StoreError, ConfigError)):
        Mirror(URL, here).fetch()


class Guarded(MemoryFileSystem):
    protocol = "closed"

    def pipe_file(self, *_, **__):
        raise PermissionError("403 for key sk-1234567890")

    put_file = pipe_file


def test_a_place_without_permission_is_told_at_once():
    fsspec.register_implementation("closed", Guarded, clobber=True)
    with pytest.raises(StoreError, match="permission denied; check the credentials") as seen:
        mirror.check("closed://runs")
    assert "sk-1234567890" not in str(seen.value)
    mirror.check(URL)
    assert not FS.find("/kept")
