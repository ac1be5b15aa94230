"""Reading the files of a run folder: ``results.json``, ``run.json`` and ``recipe.json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from vestige.core.access import explained
from vestige.core.results import SCHEMA
from vestige.core.types import StoreError

DEFAULT_KIND = "transfer"  # of files that were written before there were kinds


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ``StoreError`` if it is missing, corrupt or no object."""
    try:
        value = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise _corrupt(path, f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    if not isinstance(value, dict):
        raise _corrupt(path, f"it holds a {type(value).__name__} where an object belongs")
    return value


def read_results(path: Path, record_of: Callable[[str], type[BaseModel]]) -> Any:
    """The record in a ``results.json``.

    Args:
        record_of: gives the type of the record for a kind of run.

    Raises:
        StoreError: the file is missing, corrupt or of another version.
    """
    value = read_object(path)
    kind = str(value.get("kind", DEFAULT_KIND))
    record = record_of(kind)
    version = value.get("schema_version", SCHEMA)
    readable = getattr(record, "READABLE", (SCHEMA,))
    if version not in readable:
        raise StoreError(
            f"{path} has schema version {version}, this Vestige reads {max(readable)}; "
            "read it with the version that wrote it"
        )
    try:
        return record.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _corrupt(path, f"{place}: {first['msg']}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StoreError(
            f"{path} is missing: the run has not finished, or this is no run folder. "
            "Run the experiment again with the same recipe; finished stages are kept."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise explained(error) or StoreError(f"cannot read {path}: {error}") from error


def _corrupt(path: Path, problem: str) -> StoreError:
    return StoreError(
        f"{path} is corrupt: {problem}. Delete it and run the experiment again with the same "
        "recipe; finished stages are kept."
    )
