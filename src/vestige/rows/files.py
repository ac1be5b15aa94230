"""Reading rows of anybody's files, one at a time, losing nothing.

Files: JSONL, a JSON array, CSV, Parquet, and Arrow as ``datasets`` saves it; ``docs/formats.md``
lists the layouts of a record (``formats``). Text may be packed (``.gz .bz2 .xz .zst``) and UTF-16
with a byte-order mark; a folder or a glob stands for its files, and any of them may lie at an
fsspec URL or be a data set of the hub (``places``). What cannot be read becomes a ``DroppedRow``
that keeps it as it stood.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import IO

from vestige.core.jsonl import json_line
from vestige.core.types import DataError, DroppedRow, Row
from vestige.rows import file_sets, open_files
from vestige.rows.batch_files import read_requests
from vestige.rows.file_kinds import KINDS, check_pointer, is_known, kind_of
from vestige.rows.json_rows import read_jsonl
from vestige.rows.layouts import EXPECTED, MALFORMED, USUAL, Columns
from vestige.rows.places import Place, locate, name_of, shown
from vestige.rows.records import Items, Records
from vestige.rows.tables import Done, read_arrow, read_csv, read_parquet
from vestige.rows.writing import (
    atomic_lines,
    dropped_line,
    dropped_to_json,
    prompt_of,
    row_line,
    row_to_chat,
    write_rows,
)

__all__ = [
    "MALFORMED",
    "Columns",
    "RowSource",
    "atomic_lines",
    "dropped_line",
    "dropped_to_json",
    "json_line",
    "prompt_of",
    "read_rows",
    "row_line",
    "row_to_chat",
    "sample_rows",
    "write_rows",
]


def read_rows(path: Path | str, *, fmt: str | None = None) -> Items:
    """Rows of ``RowSource(path)`` in order; unreadable lines as ``DroppedRow`` with their reason.

    Raises:
        DataError: as ``RowSource``; or broken packing from the start, or a table without the
            columns.
    """
    return iter(RowSource(path, fmt=fmt))


class RowSource:
    """The rows of one or several files, read once.

    Rows without an id are numbered by their line, those of a second file after the first's. A
    repeated id gets ``#2``, ``#3`` ... so that rows can be joined by id; files that have ids of
    their own cost the memory of ``TextSet``.

    Attributes:
        records: what was found so far: columns, formats, the first line that could not be read.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        fmt: str | None = None,
        columns: Columns = USUAL,
        requests: Path | str | None = None,
    ) -> None:
        """
        Args:
            path: a file, a folder, a glob, or an fsspec URL of one.
            fmt: ``jsonl`` (a JSON array too), ``csv``, ``parquet`` or ``arrow``; default: by each
                file's ending.
            columns: which columns are the prompt and the completion; default: by their names.
            requests: the file of the requests of the batch whose output ``path`` is.

        Raises:
            DataError: no such file, an unknown ending, or a file without rows.
        """
        if fmt is not None and fmt not in KINDS.values():
            raise DataError(f"unknown format {fmt!r}: use jsonl, csv, parquet or arrow")
        self.name = shown(locate(path))
        self.places = file_sets.find(path, is_known)
        self._kinds = [fmt or kind_of(place) for place in self.places]
        self._sizes = [open_files.size(place) for place in self.places]
        if not any(size is None or size for size in self._sizes):
            raise _no_rows(self.name)
        self.records = Records(columns, read_requests(requests) if requests else None)
        self._before, self._at = 0, lambda: 0

    @property
    def share(self) -> float | None:
        """How far the reading is, from 0 to 1 of the files' bytes; None where that is unknown."""
        if any(size is None for size in self._sizes):
            return None
        return min(1.0, (self._before + self._at()) / sum(size or 0 for size in self._sizes))

    def __iter__(self) -> Items:
        item = None
        for place, kind, size in zip(self.places, self._kinds, self._sizes, strict=True):
            if size != 0:
                with open_files.open_raw(place) as raw:
                    check_pointer(place, raw)
                    for item in self._read(place, kind, raw, size or 0):
                        if isinstance(item, DroppedRow) and len(self.places) > 1:
                            item = replace(item, detail=f"{name_of(place)}: {item.detail}")
                        yield item
                    self._at = lambda: 0
                self._before += size or 0
            self.records.ids.next_file()
        if item is None:
            raise _no_rows(self.name)

    def _read(self, place: Place, kind: str, raw: IO[bytes], size: int) -> Items:
        """The rows of one file; ``share`` follows them."""
        if kind in ("jsonl", "csv"):
            self._at = raw.tell
            return (read_jsonl if kind == "jsonl" else read_csv)(place, raw, self.records)
        # Tables are read here and there: rows tell how far it is.
        done = Done(size)
        self._at = done.tell
        read_table = read_parquet if kind == "parquet" else read_arrow
        return read_table(place, raw, self.records, done=done)

    def nothing(self, problem: str) -> str:
        """Why ``what`` has nothing to work on: the columns, and the first reason."""
        return f"{self.name}: {problem}; {'; '.join(self.records.described())}"


def _no_rows(name: str) -> DataError:
    return DataError(f"{name} is empty, it has no rows; {EXPECTED}")


def sample_rows(
    items: Iterable[Row | DroppedRow], n: int, *, seed: int
) -> tuple[list[Row], int, Counter[str]]:
    """``n`` rows drawn from a stream of any length, in memory for ``n`` rows.

    A row's place in the draw hangs on its id and ``seed`` alone, so that other rows added to the
    file leave it as it is.

    Returns:
        The rows in the order of the draw, the number of readable rows, and the unreadable ones
        by reason.
    """
    best: list[tuple[int, str, Row]] = []
    readable, unreadable = 0, Counter[str]()
    for item in items:
        if isinstance(item, DroppedRow):
            unreadable[item.reason] += 1
            continue
        readable += 1
        text = f"{seed}-{item.id}".encode("utf-8", "surrogatepass")
        place = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
        # A heap with the last of the chosen on top.
        if len(best) < n:
            heapq.heappush(best, (-place, item.id, item))
        elif n and -place > best[0][0]:
            heapq.heapreplace(best, (-place, item.id, item))
    return [row for *_, row in sorted(best, reverse=True)], readable, unreadable
