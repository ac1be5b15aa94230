"""Row files for the tests of reading and writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vestige.core.types import Message, Row
from vestige.rows.files import (
    read_rows,
)

ASKED = (Message("user", "Continue: 1, 2"),)


def rows_of(path: Path, **kwargs: Any) -> list[Row]:
    items = list(read_rows(path, **kwargs))
    assert all(isinstance(item, Row) for item in items), items
    return [item for item in items if isinstance(item, Row)]
