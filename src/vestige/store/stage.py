"""Stages: written beside their place, manifest last, then renamed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from vestige.core.types import ConfigError, StoreError
from vestige.store.files import (
    LEFTOVERS,
    NAME,
    as_json,
    atomic_write,
    disk_full_explained,
    hash_config,
    pretty,
    read_json,
    remove_temporary,
    sha256,
    sync,
)

MANIFEST = "manifest.json"
HOLLOW = ".hollow"  # beside a manifest whose files are elsewhere: another stage's key needs no more
_KEY_FILE = ".key"


@dataclass(frozen=True, slots=True)
class StageResult:
    """A finished stage. ``manifest_hash`` is what a later stage's key is made from."""

    path: Path
    key: str
    manifest_hash: str
    manifest: dict[str, Any]


def load_stage(folder: Path, *, full: bool = False) -> StageResult:
    """Read a finished stage; every file must be there with its size (``full``: its sha256 too).

    Raises:
        StoreError: there is no manifest, or a file is missing or was changed; names the file.
    """
    folder = Path(folder)
    fix = f"delete the stage folder {folder} and run the same command again"
    manifest = read_json(folder / MANIFEST, fix)
    try:
        key, files = str(manifest["key"]), dict(manifest["files"])
        digest = _manifest_hash(key, files)
        intact = digest == manifest["manifest_hash"]
        for name, entry in ({} if (folder / HOLLOW).exists() else files).items():
            path = folder / name
            if not path.is_file():
                raise StoreError(f"{path} is missing from a finished stage; {fix}")
            size = path.stat().st_size
            if size != entry["bytes"]:
                raise StoreError(f"{path} has {size} bytes, written as {entry['bytes']}; {fix}")
            if full and sha256(path) != entry["sha256"]:
                raise StoreError(f"{path} is not what was written (sha256 differs); {fix}")
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{folder / MANIFEST} is corrupt ({error!r}); {fix}") from error
    if not intact:
        raise StoreError(f"{folder / MANIFEST} was changed (its hash differs); {fix}")
    return StageResult(folder, key, digest, manifest)


def _manifest_hash(key: str, files: dict[str, Any]) -> str:
    return hash_config({"key": key, "files": {name: e["sha256"] for name, e in files.items()}})


def _catalogue(folder: Path) -> dict[str, dict[str, Any]]:
    """Flush every file and folder below ``folder``; size and sha256 by relative path."""
    files: dict[str, dict[str, Any]] = {}
    for parent, folders, names in os.walk(folder):
        for name in folders + names:
            path = Path(parent) / name
            if path.is_symlink():
                raise StoreError(f"{path} is a link; a stage must hold what it vouches for")
            if name in folders or path == folder / _KEY_FILE:
                continue
            relative = path.relative_to(folder).as_posix()
            if relative == MANIFEST:
                raise StoreError(f"{path}: a stage cannot write a file of that name itself")
            sync(path)
            files[relative] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        sync(Path(parent))
    return dict(sorted(files.items()))


def stage_folder(folder: Path, name: str) -> Path:
    """The stage's folder. Raises ``ConfigError`` if the name is bad or lies inside a stage."""
    parts = name.split("/")
    if any(not NAME.fullmatch(p) or p.endswith((".part", ".old")) for p in parts):
        raise ConfigError(f"stage name {name!r}: parts like owl/seed-0, letters and digits first")
    for depth in range(1, len(parts)):
        if (folder.joinpath(*parts[:depth]) / MANIFEST).exists():
            raise ConfigError(f"stage {name!r} lies inside the stage {'/'.join(parts[:depth])!r}")
    path = folder.joinpath(*parts)
    if path.exists() and not (path / MANIFEST).exists():
        raise StoreError(f"{path} is not a finished stage and in the way of one; move it away")
    return path


@dataclass(slots=True)
class Stage:
    """One step of a run. Plain data: it can be sent to a worker process and written there."""

    name: str
    path: Path
    key: str
    config: Any
    version: int
    inputs: list[dict[str, str]]
    overwrite: bool = False
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def part(self) -> Path:
        """Where the stage is written until it is whole."""
        return self.path.with_name(self.path.name + ".part")

    @property
    def old(self) -> Path:
        """Where a stage that is being replaced waits for its successor."""
        return self.path.with_name(self.path.name + ".old")

    @property
    def done(self) -> bool:
        """Whether the stage is finished, with this key and all its files.

        Raises:
            StoreError: the folder is corrupt, or has another key and ``overwrite`` is off.
        """
        if not self.path.exists():
            return False
        key = load_stage(self.path).key
        if key == self.key:
            return True
        if self.overwrite:
            return False
        raise StoreError(
            f"{self.path} was made with other settings or inputs (its key is {key[:12]}, this run "
            f"needs {self.key[:12]}); pass --overwrite to replace that stage"
        )

    @property
    def result(self) -> StageResult:
        """The finished stage. Raises ``StoreError`` if it is not finished."""
        if not self.done:
            raise StoreError(f"stage {self.name!r} is not finished: {self.path} does not hold it")
        return load_stage(self.path)

    def note(self, **fields: Any) -> None:
        """Add facts (tokens, steps, loss) to the manifest; they do not enter its hash."""
        self.notes.update(fields)

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """The folder to write to; on a clean exit it becomes the finished stage.

        What an interrupted attempt with the same key has left is still in it, so that a stage can
        go on from its own progress files. On an exception the folder stays as it is.

        Raises:
            StoreError: the stage is finished already, or the disk is full.
        """
        if self.done:
            raise StoreError(f"stage {self.name!r} is finished already in {self.path}")
        start = time.monotonic()
        with disk_full_explained(self.part):
            self._prepare()
            yield self.part
            self._write_manifest(time.monotonic() - start)
            self._publish()

    def _prepare(self) -> None:
        key_file = self.part / _KEY_FILE
        if self.part.exists():
            if key_file.is_file() and key_file.read_text(encoding="utf-8") == self.key:
                (self.part / MANIFEST).unlink(missing_ok=True)
                remove_temporary(chain.from_iterable(map(self.part.rglob, LEFTOVERS)))
            else:
                shutil.rmtree(self.part)
        self.part.mkdir(parents=True, exist_ok=True)
        atomic_write(key_file, self.key)

    def _write_manifest(self, seconds: float) -> None:
        files = _catalogue(self.part)
        manifest = {
            "stage": self.name,
            "key": self.key,
            "version": self.version,
            "config": self.config,
            "inputs": self.inputs,
            "files": files,
            "manifest_hash": _manifest_hash(self.key, files),
            "seconds": round(seconds, 3),
            "notes": self.notes,
        }
        atomic_write(self.part / MANIFEST, pretty(manifest))

    def _publish(self) -> None:
        """Rename ``.part`` to its final name; an old stage makes way only now."""
        (self.part / _KEY_FILE).unlink(missing_ok=True)
        if self.path.exists():
            self.path.rename(self.old)
        self.part.rename(self.path)
        sync(self.path.parent)
        if self.old.exists():
            shutil.rmtree(self.old)

    def _recover(self) -> None:
        """Finish what a kill between the manifest and the last clean-up has left undone."""
        if self.path.exists() and self.old.exists():
            shutil.rmtree(self.old)
        if not (self.part / MANIFEST).exists():
            return
        with suppress(StoreError):
            if load_stage(self.part).key == self.key and not self.done:
                self._publish()


def once(stage: Stage, make: Callable[[Path], None]) -> StageResult:
    """The finished stage, made first if it is not finished yet.

    Args:
        make: writes the stage's files to the folder that it is given.

    Raises:
        StoreError: as ``Stage.done`` and ``Stage.writing``.
    """
    if not stage.done:
        with stage.writing() as folder:
            make(folder)
    return stage.result


def make_stage(
    folder: Path,
    name: str,
    config: Any,
    inputs: Sequence[StageResult] = (),
    *,
    version: int = 1,
    overwrite: bool = False,
) -> Stage:
    """A stage of the run in ``folder``: ``Run.stage`` for the worker processes of an open run.

    Raises:
        ConfigError: the name is bad, or lies inside another stage.
        StoreError: something else is at its place.
    """
    path = stage_folder(folder, name)
    hashes = [result.manifest_hash for result in inputs]
    key = hash_config({"name": name, "config": config, "version": version, "inputs": hashes})
    sources = [
        {"stage": str(r.manifest["stage"]), "manifest_hash": r.manifest_hash} for r in inputs
    ]
    stage = Stage(name, path, key, as_json(config), version, sources, overwrite)
    stage._recover()
    return stage
