"""Hashes and files: canonical JSON, atomic writes, a full disk explained."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vestige.core.access import FREE, causes, explained, is_full
from vestige.core.jsonl import encoded, read_text
from vestige.core.types import ConfigError, StoreError

TEMP_SUFFIX = ".vestige-tmp"
LEFTOVERS = (f".*{TEMP_SUFFIX}", ".tmp??????")  # of a killed process: ours, and safetensors'
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+=.-]*")


def hash_config(obj: Any) -> str:
    """Sha256 (hex) of the canonical JSON of ``obj``: keys sorted, no spaces, ASCII.

    Pydantic models and dataclasses count as their fields (``types.NOT_IN_KEYS`` apart). The hash
    of a value and of the same value read back from JSON are equal. 1 and 1.0 differ.

    Raises:
        ConfigError: something in it has no JSON form (a set, a path, NaN, a function).
    """
    text = json.dumps(as_json(obj), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def run_folder(root: Path, name: str, config_hash: str) -> Path:
    """``<root>/<name>-<first 8 digits of the hash>``. Raises ``ConfigError`` for a bad name."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"run name {name!r}: use letters, digits and _ + = . - only")
    return Path(root) / f"{name}-{config_hash[:8]}"


def atomic_write(path: Path, data: str | bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    Raises:
        StoreError: the disk is full; the old file stands.
    """
    path = Path(path)
    temp = path.with_name(f".{path.name}.{os.getpid()}{TEMP_SUFFIX}")
    with disk_full_explained(path):
        try:
            with temp.open("wb") as file:
                file.write(encoded(data) if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temp, path)
        finally:
            temp.unlink(missing_ok=True)
        sync(path.parent)


def as_json(obj: Any) -> Any:
    """``obj`` as what JSON would give back: lists for tuples, strings for keys."""
    try:
        return json.loads(json.dumps(obj, default=_fields, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a config must be plain JSON: {error}") from error


def _fields(obj: Any) -> Any:
    if hasattr(obj, "model_dump"):
        return obj.model_dump(mode="json")
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        fields = [f for f in dataclasses.fields(obj) if f.metadata.get("in_keys", True)]
        return {f.name: getattr(obj, f.name) for f in fields}
    raise TypeError(f"{obj!r} is a {type(obj).__name__}")


def pretty(obj: Any) -> str:
    return json.dumps(as_json(obj), indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path, fix: str) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path))
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist; {fix}") from None
    except OSError as error:  # no reason to delete it
        raise explained(error) or StoreError(f"cannot read {path}: {error}") from error
    except ValueError as error:
        raise StoreError(f"{path} is corrupt ({error}); {fix}") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} is corrupt (not a JSON object); {fix}")
    return value


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk. Windows cannot open folders; it needs no such call."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def disk_full_explained(path: Path) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if not any(map(is_full, causes(error))):
            raise
        raise StoreError(f"disk is full while writing {path}; {FREE}") from error


def remove_temporary(paths: Iterable[Path]) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)
