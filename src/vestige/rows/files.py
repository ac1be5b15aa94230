"""Reading and writing rows of anybody's files, one at a time, losing nothing.

Files: JSONL, a JSON array, CSV, Parquet, and Arrow as ``datasets`` saves it; ``docs/formats.md``
lists the layouts of a record (``formats``). Text may be packed (``.gz .bz2 .xz .zst``) and UTF-16
with a byte-order mark; a folder or a glob stands for its files, and any of them may lie at an
fsspec URL or be a data set of the hub (``storage``). What cannot be read becomes a ``DroppedRow``
that keeps it as it stood.
"""

from __future__ import annotations

import codecs
import hashlib
import heapq
import json
import json.encoder
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any

from vestige.core.jsonl import encoded, json_line
from vestige.core.types import DataError, DroppedRow, Row
from vestige.rows import places
from vestige.rows.formats import (
    EXPECTED,
    MALFORMED,
    TRAINED_AS,
    USUAL,
    Columns,
    request_of,
)
from vestige.rows.places import Output, Place, name_of, shown
from vestige.rows.records import Records
from vestige.rows.tables import Done, read_arrow, read_csv, read_parquet
from vestige.rows.trained_parts import whole_turns

__all__ = [
    "MALFORMED", "Columns", "RowSource", "atomic_lines", "dropped_line", "dropped_to_json",
    "json_line", "prompt_of", "read_rows", "row_line", "row_to_chat", "sample_rows", "write_rows",
]  # fmt: skip

DEEP = 500  # a line with fewer opening brackets can be written as well as read
LONGEST = 1 << 26  # characters that one element of a JSON array may have
BLOCK = 1 << 20
HEAD = 1 << 16  # bytes of a first line that are looked at
_quoted = json.encoder.encode_basestring
KINDS = {
    ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet",
    ".arrow": "arrow",
}  # fmt: skip
#: What the datasets library and the hub put beside rows.
METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
POINTER = b"version https://git-lfs"
Items = Iterator[Row | DroppedRow]


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
    their own cost the memory of ``Seen``.

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
        self.name = shown(places.locate(path))
        self.places = places.find(path, _is_known)
        self._kinds = [fmt or _kind(place) for place in self.places]
        self._sizes = [places.size(place) for place in self.places]
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
            # Tables are read here and there: rows tell how far it is.
            done = Done(size or 0)
            reader = {
                "jsonl": read_jsonl, "csv": read_csv,
                "parquet": partial(read_parquet, done=done),
                "arrow": partial(read_arrow, done=done),
            }[kind]  # fmt: skip
            if size != 0:
                with places.open_raw(place) as raw:
                    _check_pointer(place, raw)
                    self._at = raw.tell if kind in ("jsonl", "csv") else done.tell
                    for item in reader(place, raw, self.records):
                        if isinstance(item, DroppedRow) and len(self.places) > 1:
                            item = replace(item, detail=f"{name_of(place)}: {item.detail}")
                        yield item
                    self._at = lambda: 0
                self._before += size or 0
            self.records.ids.next_file()
        if item is None:
            raise _no_rows(self.name)

    def nothing(self, what: str) -> str:
        """Why ``what`` has nothing to work on: the columns, and the first reason."""
        return f"{self.name}: {what}; {'; '.join(self.records.described())}"


def _no_rows(name: str) -> DataError:
    return DataError(f"{name} is empty, it has no rows; {EXPECTED}")


def _is_known(place: Place) -> bool:
    suffix, packing = places.endings(place)
    name = name_of(place)
    if name in METADATA or (suffix == ".arrow" and name.startswith("cache-")):
        return False
    return suffix in KINDS and not (packing and suffix in (".parquet", ".arrow"))


def _kind(place: Place) -> str:
    suffix, packing = places.endings(place)
    if suffix not in KINDS or (packing and suffix in (".parquet", ".arrow")):
        raise DataError(
            f"{shown(place)}: cannot tell its format; name it .jsonl, .json, .csv, .parquet or "
            f".arrow (text also {', '.join(places.PACKED)})"
        )
    return KINDS[suffix]


def _check_pointer(place: Place, raw: IO[bytes]) -> None:
    if places.start_of(raw, len(POINTER)) == POINTER:
        raise DataError(f"{shown(place)} is a pointer of Git LFS and not the file: git lfs pull")


# ---- JSON ---------------------------------------------------------------------------------------


def read_jsonl(place: Place, raw: IO[bytes], records: Records) -> Items:
    """Rows of JSON lines, or of one JSON array."""
    number = 0
    try:
        stream = places.as_utf8(places.unpacked(raw, places.endings(place)[1]))
        head = stream.readline(HEAD).removeprefix(codecs.BOM_UTF8)
        if _is_array(head):
            for item in _read_array(head, stream, records):
                number += 1
                yield item
            return
        if len(head) >= HEAD:
            head += stream.readline()
        for number, line in enumerate(chain([head], stream), 1):
            if not line.isspace() and line:
                yield _from_line(line.rstrip(b"\r\n"), number, records)
    except Exception as error:
        if not places.is_broken(error):
            raise
        if number == 0:
            raise DataError(f"{shown(place)}: its first line cannot be read: {error}") from error
        yield records.bad("", number + 1, places.broken(place, error))


def _from_line(line: bytes, number: int, records: Records) -> Row | DroppedRow:
    try:
        raw = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raw = line.decode("utf-8", errors="backslashreplace")
        return records.bad(raw, number, f"not UTF-8 at byte {error.start}")
    try:
        if "\0" in raw:
            raise ValueError("holds a null byte")
        record = _parse(raw)
    except (ValueError, RecursionError) as error:
        return records.bad(raw, number, f"not JSON: {error}; {EXPECTED}")
    return records.row(record, lambda: raw, number)


_decode = json.JSONDecoder().raw_decode  # json.loads looks for white space, which costs more


def _parse(text: str) -> Any:
    try:
        record, end = _decode(text)
    except json.JSONDecodeError:
        end = -1
    if end != len(text):
        record = json.loads(text)
    if text.count("[") + text.count("{") > DEEP:
        _check_depth(record)
    return record


def _check_depth(record: Any) -> None:
    """Raises ``RecursionError`` for what is read at the limit of recursion: it cannot be written
    again inside another record."""
    nested = record
    for _ in range(50):
        nested = [nested]
    json.dumps(nested)


_SPACE = re.compile(r"[ \t\r\n]*")


def _is_array(head: bytes) -> bool:
    """Whether a file is one JSON array, rather than lines of which the first is a list."""
    text = head.decode("utf-8", "replace").strip(" \t\r\n")
    if not text.startswith("["):
        return False
    inner = text[1:].lstrip(" \t\r\n")
    if not inner.startswith("{"):
        return inner[:1] in ("[", "]", "")
    try:
        first, _ = _decode(inner)
    except (ValueError, RecursionError):
        return True  # longer than what was looked at
    return not ("role" in first or "from" in first)


def _read_array(head: bytes, stream: IO[bytes], records: Records) -> Items:
    """The elements of one array, each as soon as it is read; ``line`` is an element's number."""
    # Bytes that are no UTF-8 become lone surrogates, by which they are known below.
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    text, at, number, ended = decoder.decode(head), 0, 0, False

    def more() -> bool:
        """Read on, as much again as is at hand; False at the end."""
        nonlocal text, at, ended
        block = stream.read(max(BLOCK, len(text) - at))
        text, at, ended = text[at:] + decoder.decode(block, final=not block), 0, not block
        return not ended

    def after_space() -> str:
        """The next character that is no space; empty at the end."""
        nonlocal at
        while True:
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
            if at < len(text) or not more():
                return text[at : at + 1]

    after_space()
    at += 1  # the bracket
    if after_space() == "]":
        return
    while True:
        number += 1
        after_space()
        try:
            record, end = _decode(text, at)
        except (ValueError, RecursionError) as error:
            number -= 1
            if isinstance(error, ValueError) and len(text) - at < LONGEST and more():
                continue
            detail = f"element {number + 1} of the array is not JSON, or too long: {error}"
            yield records.bad(text[at : at + BLOCK], number + 1, detail)
            return
        yield _from_element(text[at:end], record, number, records)
        at = end
        sign = after_space()
        at += 1
        if sign == "]":
            break
        if sign != ",":
            detail = f"the array goes on with {sign!r} behind element {number}"
            yield records.bad(text[at - 1 : at + BLOCK], number + 1, detail if sign else "no end")
            return
    if after_space():
        yield records.bad(text[at : at + BLOCK], number + 1, "text behind the array's end")


def _from_element(raw: str, record: Any, number: int, records: Records) -> Row | DroppedRow:
    if not raw.isascii() and any("\udc80" <= c <= "\udcff" for c in raw):
        kept = raw.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return records.bad(kept, number, "not UTF-8")
    try:
        _check_depth(record)
    except RecursionError as error:
        return records.bad(raw, number, f"not JSON: {error}; {EXPECTED}")
    return records.row(record, lambda: raw, number)


def read_requests(path: Path | str) -> dict[str, Any]:
    """The turns of a batch's requests, by ``custom_id``.

    Raises:
        DataError: it holds none, or one that is no chat.
    """
    found: dict[str, Any] = {}
    for place in places.find(path, _is_known):
        with places.open_raw(place) as raw:
            stream = places.as_utf8(places.unpacked(raw, places.endings(place)[1]))
            for number, line in enumerate(stream, 1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                try:
                    one = request_of(json.loads(line)) if line.strip() else None
                except (ValueError, RecursionError) as error:
                    raise DataError(f"--requests {shown(place)}, line {number}: {error}") from error
                if one is not None:
                    found[one[0]] = one[1]
    if not found:
        raise DataError(
            f"--requests {path} holds no requests of a batch: lines with custom_id and body"
        )
    return found


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
    seen, unreadable = 0, Counter[str]()
    for item in items:
        if isinstance(item, DroppedRow):
            unreadable[item.reason] += 1
            continue
        seen += 1
        text = f"{seed}-{item.id}".encode("utf-8", "surrogatepass")
        place = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
        # A heap with the last of the chosen on top.
        if len(best) < n:
            heapq.heappush(best, (-place, item.id, item))
        elif n and -place > best[0][0]:
            heapq.heapreplace(best, (-place, item.id, item))
    return [row for *_, row in sorted(best, reverse=True)], seen, unreadable


def prompt_of(row: Row) -> str:
    """The prompt's id, for a row of ours: the row's own is that id, "-" and a number."""
    return row.id.rpartition("-")[0]


def row_line(row: Row) -> bytes:
    """``json_line(row_to_chat(row))``, faster for a row without ``meta``."""
    if row.meta:
        return json_line(row_to_chat(row))
    turns = [
        f'{{"role": {_quoted(m.role)}, "content": {_quoted(m.content)}}}, ' for m in row.messages
    ]
    text = (
        f'{{"id": {_quoted(row.id)}, "messages": [{"".join(turns)}'
        f'{{"role": "assistant", "content": {_quoted(row.completion)}}}]}}\n'
    )
    return encoded(text)


def row_to_chat(row: Row) -> dict[str, Any]:
    """A row as chat JSONL has it; ``meta`` only where there is any.

    Turns that held more than a role and text (a weight, reasoning) are written whole, since it
    decides what is trained on; and what was plain text is written as plain text.
    """
    meta, turns = dict(row.meta), whole_turns(row)
    if turns is not None:
        del meta["messages"]
    elif not row.messages and meta.get(TRAINED_AS) == "text":
        del meta[TRAINED_AS]
        return {"id": row.id, "text": row.completion} | ({"meta": meta} if meta else {})
    else:
        turns = [{"role": m.role, "content": m.content} for m in row.messages]
        turns.append({"role": "assistant", "content": row.completion})
    return {"id": row.id, "messages": turns} | ({"meta": meta} if meta else {})


def dropped_to_json(dropped: DroppedRow) -> dict[str, Any]:
    """A dropped row with its reason, and the row or the raw line as it stood."""
    record: dict[str, Any] = {"reason": dropped.reason}
    if dropped.line:
        record["line"] = dropped.line
    if dropped.detail:
        record["detail"] = dropped.detail
    if dropped.row is not None:
        return record | {"row": row_to_chat(dropped.row)}
    return record | {"raw": dropped.raw}


def dropped_line(dropped: DroppedRow) -> bytes:
    """``json_line(dropped_to_json(dropped))``, faster for a whole row."""
    if dropped.row is None or dropped.line or dropped.detail:
        return json_line(dropped_to_json(dropped))
    reason = _quoted(dropped.reason).encode()
    return b'{"reason": %b, "row": %b}\n' % (reason, row_line(dropped.row)[:-1])


def write_rows(path: Path | str, rows: Iterable[Row], *, overwrite: bool = False) -> int:
    """Write chat JSONL whole or not at all; the number of rows.

    Raises:
        StoreError: the file exists and ``overwrite`` is off.
    """
    with Output(path, overwrite=overwrite) as out:
        count = 0
        for row in rows:
            out.write(row_line(row))
            count += 1
    return count


class atomic_lines:
    """A context with a function to write JSON lines; the file is renamed at its clean end."""

    def __init__(self, path: Path | str, *, overwrite: bool = False) -> None:
        self.output = Output(path, overwrite=overwrite)

    def __enter__(self) -> Callable[[Any], None]:
        self.output.__enter__()
        write = self.output.write
        return lambda record: write(json_line(record))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.output.__exit__(kind, error, trace)
