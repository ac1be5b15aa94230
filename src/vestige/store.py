"""Run folders and stages: what was done, with what, and whether it is whole.

A run folder is ``<root>/<name>-<hash8>``. It holds ``recipe.json`` (the config), ``run.json`` (the
record of the run) and one folder for each stage. A stage is written to ``<stage>.part``, its
manifest last, and then renamed, so that a folder without the suffix is always complete. Its key is

    sha256(canonical JSON of {name, config, version, manifest hashes of its inputs})

The same key skips the stage, another key is an error unless ``overwrite`` is set. The manifest
hash covers the key and the sum of every file, no timing: a run that was killed and started again
has the hashes of one that was not.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vestige.types import ConfigError, StoreError

SCHEMA = 1
RUN_FILE = "run.json"
RECIPE_FILE = "recipe.json"
LOCK_FILE = "run.lock"
MANIFEST = "manifest.json"
PACKAGES = (
    *("vestige", "torch", "transformers", "peft", "trl", "accelerate", "datasets", "tokenizers"),
    *("safetensors", "gguf", "numpy", "scipy", "pydantic", "vllm", "ray"),
)

_KEY_FILE = ".key"
_TEMP_SUFFIX = ".vestige-tmp"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+=.-]*")
# From schema n to n + 1; add an entry with every change of run.json's meaning.
_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


# ---- hashes and files


def hash_config(obj: Any) -> str:
    """Sha256 (hex) of the canonical JSON of ``obj``: keys sorted, no spaces, ASCII.

    Pydantic models and dataclasses count as their fields. The hash of a value and of the same
    value read back from JSON are equal. 1 and 1.0 differ.

    Raises:
        ConfigError: something in it has no JSON form (a set, a path, NaN, a function).
    """
    text = json.dumps(_as_json(obj), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def run_folder(root: Path, name: str, config_hash: str) -> Path:
    """``<root>/<name>-<first 8 digits of the hash>``. Raises ``ConfigError`` for a bad name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"run name {name!r}: use letters, digits and _ + = . - only")
    return Path(root) / f"{name}-{config_hash[:8]}"


def atomic_write(path: Path, data: str | bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    Raises:
        StoreError: the disk is full; the old file stands.
    """
    path = Path(path)
    temp = path.with_name(f".{path.name}.{os.getpid()}{_TEMP_SUFFIX}")
    with _disk_full_explained(path):
        try:
            with temp.open("wb") as file:
                file.write(data.encode("utf-8") if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temp, path)
        finally:
            temp.unlink(missing_ok=True)
        _sync(path.parent)


def _as_json(obj: Any) -> Any:
    """``obj`` as what JSON would give back: lists for tuples, strings for keys."""
    try:
        return json.loads(json.dumps(obj, default=_fields, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a config must be plain JSON: {error}") from error


def _fields(obj: Any) -> Any:
    if hasattr(obj, "model_dump"):
        return obj.model_dump(mode="json")
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj)}
    raise TypeError(f"{obj!r} is a {type(obj).__name__}")


def _pretty(obj: Any) -> str:
    return json.dumps(_as_json(obj), indent=2, ensure_ascii=False) + "\n"


def _read_json(path: Path, fix: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist; {fix}") from None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is corrupt ({error}); {fix}") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} is corrupt (not a JSON object); {fix}")
    return value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Flush a file or a folder to the disk. Windows cannot open folders; it needs no such call."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether the disk, or a quota, is full. safetensors reports it as text, not as ``OSError``."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


@contextmanager
def _disk_full_explained(path: Path) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if not _is_disk_full(error):
            raise
        raise StoreError(
            f"disk is full while writing {path}; free space and run the same command again: "
            "finished stages are kept"
        ) from error


# ---- stages


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
    manifest = _read_json(folder / MANIFEST, fix)
    try:
        key, files = str(manifest["key"]), dict(manifest["files"])
        digest = _manifest_hash(key, files)
        intact = digest == manifest["manifest_hash"]
        for name, entry in files.items():
            path = folder / name
            if not path.is_file():
                raise StoreError(f"{path} is missing from a finished stage; {fix}")
            size = path.stat().st_size
            if size != entry["bytes"]:
                raise StoreError(f"{path} has {size} bytes, written as {entry['bytes']}; {fix}")
            if full and _sha256(path) != entry["sha256"]:
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
            _sync(path)
            files[relative] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        _sync(Path(parent))
    return dict(sorted(files.items()))


def _check_stage_name(folder: Path, name: str) -> Path:
    """The stage's folder. Raises ``ConfigError`` if the name is bad or lies inside a stage."""
    parts = name.split("/")
    if any(not _NAME.fullmatch(p) or p.endswith((".part", ".old")) for p in parts):
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
        with _disk_full_explained(self.part):
            self._prepare()
            yield self.part
            self._write_manifest(time.monotonic() - start)
            self._publish()

    def _prepare(self) -> None:
        key_file = self.part / _KEY_FILE
        if self.part.exists():
            if key_file.is_file() and key_file.read_text(encoding="utf-8") == self.key:
                (self.part / MANIFEST).unlink(missing_ok=True)
                _remove_temporary(self.part.rglob(f".*{_TEMP_SUFFIX}"))
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
        atomic_write(self.part / MANIFEST, _pretty(manifest))

    def _publish(self) -> None:
        """Rename ``.part`` to its final name; an old stage makes way only now."""
        (self.part / _KEY_FILE).unlink(missing_ok=True)
        if self.path.exists():
            self.path.rename(self.old)
        self.part.rename(self.path)
        _sync(self.path.parent)
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


def _remove_temporary(paths: Iterator[Path]) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)


# ---- runs


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
    path = _check_stage_name(folder, name)
    hashes = [result.manifest_hash for result in inputs]
    key = hash_config({"name": name, "config": config, "version": version, "inputs": hashes})
    sources = [
        {"stage": str(r.manifest["stage"]), "manifest_hash": r.manifest_hash} for r in inputs
    ]
    stage = Stage(name, path, key, _as_json(config), version, sources, overwrite)
    stage._recover()
    return stage


class Run:
    """An open run folder, locked for this process. Use ``Run.open`` as a context manager.

    Leaving the block records ``done``, or ``failed`` with the error, and frees the lock. A process
    that is killed frees it too, and leaves the status ``running`` (see ``is_running``).
    """

    def __init__(self, folder: Path, record: dict[str, Any], lock: FileLock, overwrite: bool):
        self.folder = folder
        self.record = record
        self.overwrite = overwrite
        self._lock = lock
        self._seconds_before = float(record["seconds"])
        self._start = time.monotonic()

    @classmethod
    def open(cls, root: Path, name: str, config: Any, *, overwrite: bool = False) -> Run:
        """Create the folder of this config, or open it again, and lock it.

        Raises:
            ConfigError: the name or the config cannot be used.
            StoreError: another process has it open, it holds another recipe, or it is corrupt.
        """
        digest = hash_config(config)
        folder = run_folder(root, name, digest)
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
        try:
            _remove_temporary(folder.glob(f".*{_TEMP_SUFFIX}"))
            recipe = folder / RECIPE_FILE
            if not recipe.exists():
                atomic_write(recipe, _pretty(config))
            elif hash_config(_read_json(recipe, "delete it and run again")) != digest:
                raise StoreError(f"{recipe} is not this recipe; restore it, or use another name")
            run = cls(folder, _new_record(folder, name, digest, config), lock, overwrite)
            run.update()
        except BaseException:
            lock.release()
            raise
        return run

    def stage(
        self, name: str, config: Any, inputs: Sequence[StageResult] = (), version: int = 1
    ) -> Stage:
        """The stage ``name`` (a path such as ``student/distill/owl/seed-0``).

        Raises:
            ConfigError: the name is bad, or lies inside another stage.
            StoreError: something else is at its place.
        """
        return make_stage(
            self.folder, name, config, inputs, version=version, overwrite=self.overwrite
        )

    def update(self, **fields: Any) -> None:
        """Set fields of ``run.json`` (seeds, tokens, progress ...); seconds and memory follow.

        Raises:
            ConfigError: a field that identifies the run, or a value without a JSON form.
            StoreError: the disk is full; the old file stands.
        """
        fixed = {"schema_version", "name", "config_hash", "started"} & fields.keys()
        if fixed:
            raise ConfigError(f"run.json: {', '.join(sorted(fixed))} cannot be changed")
        seconds = self._seconds_before + time.monotonic() - self._start
        peak = max(_peak_memory() or 0, self.record["peak_memory_bytes"] or 0) or None
        self.record |= {"seconds": round(seconds, 3), "peak_memory_bytes": peak, **_as_json(fields)}
        atomic_write(self.folder / RUN_FILE, _pretty(self.record))

    def finish(self, status: str, error: str | None = None) -> None:
        """Record the end: ``done``, or ``failed`` with its error (run folder and home cut out)."""
        if status not in ("done", "failed"):
            raise ConfigError(f"a run ends as 'done' or 'failed', not {status!r}")
        if error is not None:
            error = error.replace(str(self.folder.resolve()), self.folder.name)
            error = error.replace(str(self.folder), self.folder.name)
            if Path.home() != Path("/"):
                error = error.replace(str(Path.home()), "~")
        self.update(status=status, error=error, finished=_now())

    def close(self) -> None:
        """Free the lock; the record stays as it is."""
        self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any):
        try:
            if error is None:
                if self.record["status"] == "running":
                    self.finish("done")
            else:
                # The disk may be full: the first error is the one to show.
                with suppress(StoreError, OSError):
                    self.finish("failed", f"{type(error).__name__}: {error}")
        finally:
            self.close()


def load_run(folder: Path) -> dict[str, Any]:
    """Read ``run.json``, brought up to this schema. The file itself is left as it is.

    Raises:
        StoreError: it is missing, corrupt, or of a newer schema.
    """
    path = Path(folder) / RUN_FILE
    record = _read_json(path, "delete it and run the recipe again: finished stages are kept")
    version = record.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise StoreError(f"{path} is corrupt (schema_version is {version!r}); delete it")
    if version > SCHEMA:
        raise StoreError(f"{path} has schema {version}, this Vestige reads up to {SCHEMA}; update")
    for old in range(version, SCHEMA):
        record = _MIGRATIONS[old](record) | {"schema_version": old + 1}
    return record


def list_runs(root: Path) -> list[Path]:
    """The run folders below ``root``, the last written first; empty if there is no ``root``."""
    files = Path(root).glob(f"*/{RUN_FILE}")
    return [f.parent for f in sorted(files, key=lambda f: (-f.stat().st_mtime_ns, f.parent.name))]


def is_running(folder: Path) -> bool:
    """Whether a living process holds the run: status ``running`` without one means killed."""
    if not (Path(folder) / LOCK_FILE).exists():
        return False
    try:
        _lock(Path(folder)).release()
    except StoreError:
        return True
    return False


def _lock(folder: Path) -> FileLock:
    # An operating-system lock on an open file: it dies with the process, however that ends.
    # The short wait outlasts another process's ``is_running``.
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0.3)
    except Timeout:
        raise StoreError(
            f"another process is running this recipe in {folder}; wait for it, or stop it"
        ) from None
    return lock


def _new_record(folder: Path, name: str, digest: str, config: Any) -> dict[str, Any]:
    """A fresh record; a run that is opened again keeps its start, its seconds and its count."""
    before = load_run(folder) if (folder / RUN_FILE).exists() else {}
    plain = _as_json(config)
    return {
        "schema_version": SCHEMA,
        "name": name,
        "config_hash": digest,
        "status": "running",
        "started": before.get("started", _now()),
        "finished": None,
        "seconds": before.get("seconds", 0.0),
        "attempts": before.get("attempts", 0) + 1,
        "error": None,
        "seeds": plain.get("seeds") if isinstance(plain, dict) else None,
        "tokens": before.get("tokens"),
        "peak_memory_bytes": before.get("peak_memory_bytes"),
        **describe_environment(),
    }


# ---- the machine


def describe_environment() -> dict[str, Any]:
    """Git state, package versions, hardware; no host name, user name or path. Imports nothing."""
    commit, dirty = _git_state(Path(__file__).resolve().parent)
    packages = {}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            packages[package] = importlib.metadata.version(package)
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "packages": packages,
        "hardware": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "cores_usable": _usable_cores(),
            "memory_bytes": _memory(),
        },
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _git_state(source: Path) -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the checkout that tracks ``source``; (None, None) if none does.

    A package installed into an environment inside somebody's repository is not tracked by it.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(source), *args],
            env=clean, capture_output=True, text=True, check=True, timeout=20,
        ).stdout.strip()  # fmt: skip

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "."))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _cpu_model() -> str | None:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or None


def _usable_cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _peak_memory() -> int | None:
    """Peak resident bytes of this process, or of its largest child so far."""
    if sys.platform == "win32":
        return None
    import resource

    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(kind).ru_maxrss for kind in kinds)
    return peak if sys.platform == "darwin" else peak * 1024


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
