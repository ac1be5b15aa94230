"""Rows as they are drawn: added to a local file in batches, and read back after a kill."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vestige.core.types import Row
from vestige.rows.files import read_rows, row_line
from vestige.store.files import disk_full_explained


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to a local file and see them on the disk. A kill leaves a part of them at most.

    Raises:
        StoreError: the disk is full.
    """
    with disk_full_explained(path), path.open("ab") as file:
        file.write(b"".join(map(row_line, rows)))
        file.flush()
        os.fsync(file.fileno())


def whole_rows(path: Path, batch: int, total: int) -> list[Row]:
    """The rows that ``append_rows`` has added in batches; what a kill left of a batch is cut off.

    Args:
        total: all rows that the file will have: its last batch may be short.
    """
    if not path.exists():
        return []
    with path.open("rb") as file:
        lines = file.readlines()
    whole = len(lines) - bool(lines and not lines[-1].endswith(b"\n"))
    whole = whole if whole == total else whole - whole % batch
    size = sum(map(len, lines[:whole]))
    if size < path.stat().st_size:
        os.truncate(path, size)
    return [row for row in read_rows(path) if isinstance(row, Row)] if whole else []
