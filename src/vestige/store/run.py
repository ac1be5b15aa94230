"""Runs: a locked folder with its recipe, its record and its stages."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout

from vestige.core.redaction import redact
from vestige.core.types import ConfigError, StoreError
from vestige.store.files import (
    TEMP_SUFFIX,
    as_json,
    atomic_write,
    hash_config,
    pretty,
    read_json,
    remove_temporary,
    run_folder,
)
from vestige.store.machine import describe_environment, now, peak_memory
from vestige.store.stage import Stage, StageResult, make_stage

if TYPE_CHECKING:
    from pydantic import BaseModel

Recipe = TypeVar("Recipe", bound="BaseModel")

SCHEMA = 1  # of run.json
RUN_FILE = "run.json"
RECIPE_FILE = "recipe.json"
LOCK_FILE = "run.lock"
WAIT = 5.0  # seconds for a killed run's last processes to let go
# From schema n to n + 1; add an entry with every change of run.json's meaning.
_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


class Run:
    """An open run folder, locked for this process. Use ``Run.open`` as a context manager.

    Leaving the block records ``done``, or ``failed`` with the error, unless the end is recorded
    already, and frees the lock. A process that is killed frees it too, and leaves the status
    ``running`` (see ``is_running``).
    """

    def __init__(self, folder: Path, record: dict[str, Any], lock: FileLock, overwrite: bool):
        self.folder = folder
        self.record = record
        self.overwrite = overwrite
        self._lock = lock
        self._before: dict[str, Any] = {}
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
        lock = _lock(folder, wait=WAIT)
        try:
            remove_temporary(folder.glob(f".*{TEMP_SUFFIX}"))
            recipe = folder / RECIPE_FILE
            if not recipe.exists():
                atomic_write(recipe, pretty(config))
            elif hash_config(read_json(recipe, "delete it and run again")) != digest:
                raise StoreError(f"{recipe} is not this recipe; restore it, or use another name")
            run = cls(folder, _new_record(folder, name, digest, config), lock, overwrite)
            run._before = load_run(folder) if (folder / RUN_FILE).exists() else {}
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
        peak = max(peak_memory() or 0, self.record["peak_memory_bytes"] or 0) or None
        self.record |= {"seconds": round(seconds, 3), "peak_memory_bytes": peak, **as_json(fields)}
        atomic_write(self.folder / RUN_FILE, pretty(self.record))

    def finish(self, status: str, error: str | None = None) -> None:
        """Record the end: ``done``, or ``failed`` with its error (folder, home, keys cut out)."""
        if status not in ("done", "failed"):
            raise ConfigError(f"a run ends as 'done' or 'failed', not {status!r}")
        if error is not None:
            error = redact(error).replace(str(self.folder.resolve()), self.folder.name)
            error = error.replace(str(self.folder), self.folder.name)
            home = os.path.expanduser("~")
            if home not in ("/", "~"):
                error = error.replace(home, "~")
        self.update(status=status, error=error, finished=now())

    def end_as_before(self) -> None:
        """Record the end that the run had when it was opened: what was refused did not change it.

        Nothing is recorded for a run that is new.
        """
        if self._before:
            self.update(**{name: self._before[name] for name in ("status", "error", "finished")})

    def close(self) -> None:
        """Free the lock; the record stays as it is."""
        self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any):
        try:
            if self.record["status"] == "running" and error is None:
                self.finish("done")
            elif self.record["status"] == "running":
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
    record = read_json(path, "delete it and run the recipe again: finished stages are kept")
    version = record.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise StoreError(f"{path} is corrupt (schema_version is {version!r}); delete it")
    if version > SCHEMA:
        raise StoreError(f"{path} has schema {version}, this Vestige reads up to {SCHEMA}; update")
    for old in range(version, SCHEMA):
        record = _MIGRATIONS[old](record) | {"schema_version": old + 1}
    return record


def load_recipe_as(kind: type[Recipe], folder: Path, owner: str, again: str) -> Recipe:
    """The ``recipe.json`` of a folder as a record of this kind.

    Args:
        owner: whose recipe it should be, in words.
        again: what to do where it cannot be read.

    Raises:
        StoreError: it is missing, corrupt, or another kind's or version's.
    """
    from pydantic import ValidationError

    path = Path(folder) / RECIPE_FILE
    try:
        return kind.model_validate(read_json(path, again))
    except ValidationError as error:
        raise StoreError(f"{path} is no {owner} recipe of this version: {again}") from error


def is_running(folder: Path) -> bool:
    """Whether a living process holds the run: status ``running`` without one means killed.

    Another user's folder need not be writable for it; where its lock cannot be read either, what
    the record says is taken.
    """
    path = Path(folder) / LOCK_FILE
    if not path.exists():
        return False
    try:
        import fcntl
    except ImportError:  # Windows
        try:
            _lock(Path(folder)).release()
        except StoreError:
            return True
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except PermissionError:
        return load_run(folder)["status"] == "running"
    return False


@contextmanager
def hold(folder: Path, name: str, wait: float = 20) -> Iterator[None]:
    """Be the only process that works on the part ``name`` of a run, such as a seed.

    The run's own lock dies with its process, whose workers may live a second longer: they are
    waited for.

    Raises:
        StoreError: another process still has it after ``wait`` seconds.
    """
    lock = _lock(folder, f"{name}.lock", wait)
    try:
        yield
    finally:
        lock.release()


def _lock(folder: Path, name: str = LOCK_FILE, wait: float = 0.3) -> FileLock:
    # An operating-system lock on an open file: it dies with the process, however that ends.
    # The shortest wait outlasts another process's ``is_running``.
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise StoreError(
            f"another process is running this recipe in {folder}; wait for it, or stop it"
        ) from None
    return lock


def _new_record(folder: Path, name: str, digest: str, config: Any) -> dict[str, Any]:
    """A fresh record; a run that is opened again keeps its start, its seconds and its count."""
    before = load_run(folder) if (folder / RUN_FILE).exists() else {}
    plain = as_json(config)
    return {
        "schema_version": SCHEMA,
        "name": name,
        "config_hash": digest,
        "status": "running",
        "started": before.get("started", now()),
        "finished": None,
        "seconds": before.get("seconds", 0.0),
        "attempts": before.get("attempts", 0) + 1,
        "error": None,
        "seeds": plain.get("seeds") if isinstance(plain, dict) else None,
        "tokens": before.get("tokens"),
        "peak_memory_bytes": before.get("peak_memory_bytes"),
        **describe_environment(),
    }
