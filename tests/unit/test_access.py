"""Files of others, a full disk, no home: one line with the path and the remedy, as real users."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from report_data import make_results
from vestige.core import access
from vestige.core.access import cache_dir, explained
from vestige.core.jsonl import write_jsonl
from vestige.core.types import ConfigError, StoreError
from vestige.rows.outputs import Output
from vestige.store import is_running

#: The superuser may do everything: its right to pass over permissions is taken from the process.
POWERS = "-dac_override,-dac_read_search,-fowner,-chown"
STRANGER = 54321
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
needs_limits = pytest.mark.skipif(
    ROOT and not shutil.which("setpriv"), reason="root, and no setpriv to be less than that"
)


def vestige(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    """The command, run by a user who may not do everything."""
    limits = ["setpriv", f"--bounding-set={POWERS}"] if ROOT else []
    return subprocess.run(
        [*limits, sys.executable, "-m", "vestige", *map(str, args)],
        env={**os.environ, **env}, capture_output=True, encoding="utf-8",
    )  # fmt: skip


def of_another(folder: Path) -> Path:
    """The folder as another user's (root can make it so), or one that only can be read."""
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o755 if path.is_dir() else 0o644) if ROOT else path.chmod(
            0o555 if path.is_dir() else 0o444
        )
        if ROOT:
            os.chown(path, STRANGER, STRANGER)
    return folder


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip()
    assert "\n" not in line and "unexpected" not in line and "Errno" not in line
    assert line.startswith("error: ") and all(word in line for word in words), line


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with its lock."""
    folder = tmp_path / "runs" / "owls"
    folder.mkdir(parents=True)
    record = json.dumps({"schema_version": 1, "status": "done", "error": None})
    for name, text in (
        ("results.json", make_results(2, 3, 1).model_dump_json()), ("run.json", record),
        ("recipe.json", "{}"), ("run.lock", ""),
    ):  # fmt: skip
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@needs_limits
def test_a_run_of_another_user_is_shown_and_reported(run: Path, tmp_path: Path):
    of_another(run)
    shown = vestige("show", run)
    assert shown.returncode == 0 and "owl" in shown.stdout
    done = vestige("report", run, "--out", tmp_path / "page.html")
    assert done.returncode == 0 and (tmp_path / "page.html").stat().st_size > 1000
    refused(vestige("report", run, "--out", run / "page.html"), f"cannot write {run}", "belongs to")


@needs_limits
def test_a_file_that_may_not_be_read_is_named(run: Path, tmp_path: Path):
    for name in ("results.json", "run.json"):
        (run / name).chmod(0)
        refused(vestige("show", run), f"cannot read {run / name}: permission denied", "copy it")
        (run / name).chmod(0o644)
    source = tmp_path / "in.jsonl"
    write_jsonl(source, [{"prompt": "q", "completion": "1, 2"}])
    source.chmod(0)
    outputs = ["--out", tmp_path / "k.jsonl", "--dropped", tmp_path / "d.jsonl"]
    refused(vestige("filter", "numbers", source, *outputs), f"cannot read {source}")
    source.chmod(0o644)
    closed = tmp_path / "closed"
    closed.mkdir()
    of_another(closed)
    outputs[1] = closed / "k.jsonl"
    refused(vestige("filter", "numbers", source, *outputs), f"cannot write {closed}", "--out")


@needs_limits
def test_a_cache_of_another_user_names_its_variable(tmp_path: Path):
    cache = tmp_path / "cache"
    cache.mkdir()
    of_another(cache)
    done = vestige("models", "pull", "smollm2-135m-instruct", VESTIGE_CACHE=str(cache))
    refused(done, f"cannot write {cache}", "set VESTIGE_CACHE to a folder of yours")


def test_whether_a_run_lives_is_seen_without_writing(run: Path):
    from filelock import FileLock

    assert not is_running(run)
    with FileLock(run / "run.lock"):
        before = (run / "run.lock").stat()
        assert is_running(run)
    assert (run / "run.lock").stat().st_mtime_ns == before.st_mtime_ns and not is_running(run)
    with FileLock(run / "run.lock", timeout=0):  # looking at it leaves nothing behind
        pass


def test_no_home(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("VESTIGE_CACHE", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: f"~/.cache/{name}")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ConfigError, match=r"no home folder .*; set VESTIGE_CACHE"):
        cache_dir()
    error = PermissionError(errno.EACCES, "Permission denied", "/a/b")
    assert "cannot " in str(explained(error))  # says its own, home or not


def test_a_home_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("VESTIGE_CACHE", raising=False)
    home = tmp_path / "no" / "home"
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(home / ".cache" / name))
    told = str(explained(PermissionError(errno.EACCES, "Permission denied", str(home))))
    assert f"cannot write {home}" in told and "set VESTIGE_CACHE" in told and "HOME" in told


def test_what_the_system_says_becomes_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a"
    path.touch()
    told = {
        number: str(explained(OSError(number, os.strerror(number), str(path))))
        for number in (errno.EROFS, errno.ENOSPC, errno.ENOENT, errno.EIO, errno.ENOTDIR)
    }
    assert all(str(path) in text for text in told.values())
    assert "read-only" in told[errno.EROFS] and "disk is full" in told[errno.ENOSPC]
    assert told[errno.ENOENT] == f"cannot use {path}: no such file or directory"
    assert (
        explained(OSError(errno.ENOSPC, "full"), "b")
        .args[0]
        .startswith(  # type: ignore[union-attr]
            "disk is full while writing b; free space"
        )
    )
    monkeypatch.setattr(access, "LITTLE", 1 << 62)  # every disk counts as full
    assert str(Path.cwd()) in str(explained(OSError(errno.EDQUOT, "quota")))
    # What is about no file stays what it is.
    assert explained(ValueError("no")) is None and explained(OSError("no")) is None
    assert explained(ConnectionRefusedError(errno.ECONNREFUSED, "refused")) is None


def test_what_other_libraries_say_of_files(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    missing = FileNotFoundError(f"No such file or directory: {path}")
    assert str(explained(missing)) == f"cannot use {path}: no such file or directory"
    path.touch()  # safetensors says so of a file that it may not read
    assert "permission denied" in str(explained(missing))
    text = f'I/O error: Permission denied (os error 13) at path "{tmp_path}/.tmp1"'
    assert f"{tmp_path}: permission denied" in str(explained(RuntimeError(text)))
    try:
        try:
            raise StoreError("said already")
        except StoreError as error:
            raise RuntimeError("later") from error
    except RuntimeError as error:
        assert str(explained(error)) == "said already"


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a device that is full")
def test_a_full_disk_names_the_file(tmp_path: Path):
    target = tmp_path / "k.jsonl"
    (tmp_path / "k.jsonl.part").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=f"disk is full while writing {target}; free space"):
        with Output(target) as output:
            output.write(b"x" * 2_000_000)
    assert not list(tmp_path.iterdir())
