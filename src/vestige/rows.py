"""Reading and writing rows of anybody's files, one at a time, losing nothing.

Formats: chat JSONL (``{"messages": [...]}``, the last turn is the assistant's), prompt/completion
JSONL, CSV with those columns, Parquet with either. Text may be packed (``.gz .bz2 .xz .zst``); a
folder or a glob stands for its files, and any of them may lie at an fsspec URL or be a data set of
the hub (``storage``). A line that cannot be read becomes a ``DroppedRow`` that keeps it as it
stood.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import heapq
import io
import json
import json.encoder
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from vestige import storage
from vestige.jsonl import encoded, json_line
from vestige.seen import Ids
from vestige.storage import Output, Place, name_of, shown
from vestige.types import DataError, DroppedRow, Message, Row

MALFORMED = "malformed"
FIELDS = (("prompt", "completion"), ("prompt", "response"), ("instruction", "output"))
EXPECTED = (
    'expected {"messages": [{"role": ..., "content": ...}, ...]} ending with the assistant, '
    'or {"prompt": ..., "completion": ...}'
)
DEEP = 500  # a line with fewer opening brackets can be written as well as read
ROLES = {"system", "user", "assistant", "tool", "developer"}
_quoted = json.encoder.encode_basestring
KINDS = {
    ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"
}  # fmt: skip


def read_rows(path: Path | str, *, fmt: str | None = None) -> Iterator[Row | DroppedRow]:
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
    """

    def __init__(self, path: Path | str, *, fmt: str | None = None) -> None:
        """
        Args:
            path: a file, a folder, a glob, or an fsspec URL of one.
            fmt: ``jsonl``, ``csv`` or ``parquet``; default: by each file's ending.

        Raises:
            DataError: no such file, an unknown ending, or a file without rows.
        """
        if fmt is not None and fmt not in KINDS.values():
            raise DataError(f"unknown format {fmt!r}: use jsonl, csv or parquet")
        self.name = shown(storage.locate(path))
        self.places = storage.find(path, _is_known)
        self._kinds = [fmt or _kind(place) for place in self.places]
        self._sizes = [storage.size(place) for place in self.places]
        if not any(size is None or size for size in self._sizes):
            raise _no_rows(self.name)
        self._before, self._at = 0, lambda: 0

    @property
    def share(self) -> float | None:
        """How far the reading is, from 0 to 1 of the files' bytes; None where that is unknown."""
        if any(size is None for size in self._sizes):
            return None
        return min(1.0, (self._before + self._at()) / sum(size or 0 for size in self._sizes))

    def __iter__(self) -> Iterator[Row | DroppedRow]:
        ids, item = Ids(), None
        for place, kind, size in zip(self.places, self._kinds, self._sizes, strict=True):
            # Parquet is read here and there, its footer first: rows tell how far it is.
            done = _Done(size or 0)
            reader = {
                "jsonl": _read_jsonl, "csv": _read_csv,
                "parquet": partial(_read_parquet, done=done),
            }[kind]  # fmt: skip
            if size != 0:
                with storage.open_raw(place) as raw:
                    self._at = raw.tell if kind != "parquet" else done.tell
                    for item in reader(place, raw, ids):
                        if isinstance(item, DroppedRow) and len(self.places) > 1:
                            item = replace(item, detail=f"{name_of(place)}: {item.detail}")
                        yield item
                    self._at = lambda: 0
                self._before += size or 0
            ids.next_file()
        if item is None:
            raise _no_rows(self.name)


def _no_rows(name: str) -> DataError:
    return DataError(f"{name} is empty, it has no rows; {EXPECTED}")


def _is_known(place: Place) -> bool:
    suffix, packing = storage.endings(place)
    return suffix in KINDS and not (packing and suffix == ".parquet")


def _kind(place: Place) -> str:
    if not _is_known(place):
        raise DataError(
            f"{shown(place)}: cannot tell its format; name it .jsonl, .csv or .parquet (text also "
            f"{', '.join(storage.PACKED)})"
        )
    return KINDS[storage.endings(place)[0]]


def _broken(place: Place, error: BaseException) -> str:
    kind = {".gz": "gzip", ".zst": "zstd"}.get(storage.endings(place)[1], storage.endings(place)[1])
    return f"broken {kind[kind.startswith('.') :]}: {error}"


def _read_jsonl(place: Place, raw: IO[bytes], ids: Ids) -> Iterator[Row | DroppedRow]:
    number = 0
    lines = iter(storage.unpacked(raw, storage.endings(place)[1]))
    while True:
        try:
            line = next(lines, None)
        except Exception as error:
            if not storage.is_broken(error):
                raise
            if number == 0:
                raise DataError(
                    f"{shown(place)}: its first line cannot be read: {error}"
                ) from error
            yield _bad("", number + 1, _broken(place, error))
            return
        if line is None:
            return
        number += 1
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if not line.isspace() and line:
            yield _from_line(line.rstrip(b"\r\n"), number, ids)


def _from_line(line: bytes, number: int, ids: Ids) -> Row | DroppedRow:
    try:
        raw = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raw = line.decode("utf-8", errors="backslashreplace")
        return _bad(raw, number, f"not UTF-8 at byte {error.start}")
    try:
        if "\0" in raw:
            raise ValueError("holds a null byte")
        record = _parse(raw)
    except (ValueError, RecursionError) as error:
        return _bad(raw, number, f"not JSON: {error}; {EXPECTED}")
    return _from_record(record, lambda: raw, number, ids)


_decode = json.JSONDecoder().raw_decode  # json.loads looks for white space, which costs more


def _parse(text: str) -> Any:
    try:
        record, end = _decode(text)
    except json.JSONDecodeError:
        end = -1
    if end != len(text):
        record = json.loads(text)
    if text.count("[") + text.count("{") > DEEP:
        # What is read at the limit of recursion cannot be written again inside another record.
        nested = record
        for _ in range(50):
            nested = [nested]
        json.dumps(nested)
    return record


def _bad(raw: str, number: int, detail: str) -> DroppedRow:
    return DroppedRow(MALFORMED, raw=raw, line=number, detail=detail)


def _from_record(record: Any, raw: Callable[[], str], number: int, ids: Ids) -> Row | DroppedRow:
    if not isinstance(record, dict):
        return _bad(raw(), number, f"a {type(record).__name__}, not an object; {EXPECTED}")
    try:
        messages, completion, used = _conversation(record)
    except ValueError as error:
        return _bad(raw(), number, str(error))
    name = ids.name(record.get("id"), number)
    return Row(name, messages, completion, _meta(record, used))


def _meta(record: dict[str, Any], used: Collection[str]) -> dict[str, Any]:
    """What a record holds besides its id and its turns."""
    meta = {}
    if len(record) > len(used):
        meta = {k: v for k, v in record.items() if k not in used and k not in ("id", "meta")}
        inner = record.get("meta")
        if isinstance(inner, Mapping) and not inner.keys() & meta.keys():
            meta |= inner
        elif inner is not None:
            meta["meta"] = inner
    # A turn may hold more than role and content (a name, a weight): keep the turns as they were.
    for key in used:
        if isinstance(record[key], list) and _has_more(record[key]):
            meta[key] = record[key]
    return meta


def _conversation(
    record: Mapping[str, Any],
) -> tuple[tuple[Message, ...], str, tuple[str, ...]]:
    if "messages" in record:
        turns = _turns(record["messages"])
        if not turns or turns[-1][0] != "assistant":
            raise ValueError("messages must end with the assistant's turn")
        return tuple([Message(*turn) for turn in turns[:-1]]), turns[-1][1], ("messages",)
    for prompt, completion in FIELDS:
        if prompt in record and completion in record:
            answer = record[completion]
            if isinstance(answer, list):
                turns = _turns(answer)
                answer = turns[-1][1] if len(turns) == 1 else None
            if not isinstance(answer, str):
                raise ValueError(f"{completion} must be text")
            asked = record[prompt]
            turns = [("user", asked)] if isinstance(asked, str) else _turns(asked)
            return tuple([Message(*turn) for turn in turns]), answer, (prompt, completion)
    raise ValueError(f"no known fields; {EXPECTED}")


def _has_more(turns: list[Any]) -> bool:
    for turn in turns:
        if len(turn) > 2 and any(
            v is not None for k, v in turn.items() if k not in ("role", "content")
        ):
            return True
    return False


def _turns(value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, list):
        raise ValueError("messages must be a list of turns")
    turns = []
    for turn in value:
        role = turn.get("role") if isinstance(turn, dict) else None
        content = turn.get("content") if isinstance(turn, dict) else None
        if not isinstance(content, str) or not isinstance(role, str) or role not in ROLES:
            raise ValueError(f"a turn needs a role ({', '.join(sorted(ROLES))}) and text content")
        turns.append((role, content))
    return turns


def _read_csv(place: Place, raw: IO[bytes], ids: Ids) -> Iterator[Row | DroppedRow]:
    csv.field_size_limit(2**27)
    source: list[str] = []  # the lines of the record at hand, as they stood

    def lines(text: Iterable[str]) -> Iterator[str]:
        for line in text:
            source.append(line)
            yield line

    # Bytes that are no UTF-8 become lone surrogates, by which they are known below.
    stream = storage.unpacked(raw, storage.endings(place)[1])
    with io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="") as text:
        reader = csv.reader(lines(text), strict=True)
        header = _header(reader, place)
        while True:
            source.clear()
            line, cells, fault = reader.line_num + 1, [], ""
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                fault = f"not CSV: {error}"
            except Exception as error:
                if not storage.is_broken(error):
                    raise
                yield _bad(_as_it_stood(source), line, _broken(place, error))
                return
            if cells or fault:
                yield _from_cells(header, cells, fault, _as_it_stood(source), line, ids)


def _header(reader: Iterator[list[str]], place: Place) -> list[str]:
    path = shown(place)
    try:
        header = next(reader, [])
    except Exception as error:
        if not isinstance(error, csv.Error) and not storage.is_broken(error):
            raise
        raise DataError(f"{path}: its first line cannot be read: {error}") from error
    if not any(set(pair) <= set(header) for pair in FIELDS):
        raise DataError(
            f"{path}: its columns are {', '.join(header) or 'missing'}; "
            "it needs prompt and completion in the first line"
        )
    if len(set(header)) < len(header):
        raise DataError(f"{path}: two columns have the same name: {', '.join(header)}")
    return header


def _as_it_stood(lines: list[str]) -> str:
    whole = "".join(lines).rstrip("\r\n").encode("utf-8", "surrogateescape")
    return whole.decode("utf-8", "backslashreplace")


def _from_cells(
    header: list[str], cells: list[str], fault: str, raw: str, line: int, ids: Ids
) -> Row | DroppedRow:
    if not fault and len(cells) != len(header):
        fault = f"{len(cells)} cells under {len(header)} columns"
    joined = "".join(cells)
    if not joined.isascii() and any("\udc80" <= c <= "\udcff" for c in joined):
        fault = "not UTF-8"
    elif "\0" in joined:
        fault = "holds a null byte"
    if fault:
        return _bad(raw, line, fault)
    record: dict[str, Any] = dict(zip(header, cells, strict=True))
    if not record.get("id"):
        record.pop("id", None)
    return _from_record(record, lambda: raw, line, ids)


@dataclass
class _Done:
    """How far a file of ``size`` bytes is read, from 0 to 1."""

    size: int
    share: float = 0.0

    def tell(self) -> int:
        """The same in bytes."""
        return int(self.share * self.size)


def _read_parquet(
    place: Place, raw: IO[bytes], ids: Ids, done: _Done
) -> Iterator[Row | DroppedRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = shown(place)
    try:
        file = pq.ParquetFile(raw)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name} is not a readable Parquet file: {error}") from error
    columns = set(file.schema_arrow.names)
    if "messages" not in columns and not any(set(pair) <= columns for pair in FIELDS):
        raise DataError(f"{name}: its columns are {', '.join(sorted(columns))}; {EXPECTED}")
    number = 0
    try:
        for batch in file.iter_batches(1024):
            done.share = number / file.metadata.num_rows
            for record in batch.to_pylist():
                number += 1
                plain = {k: v for k, v in record.items() if v is not None}
                yield _from_record(plain, partial(_as_json, record), number, ids)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name} is damaged after row {number}: {error}") from error


def _as_json(record: Any) -> str:
    return json_line(record)[:-1].decode()


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
    """A row as chat JSONL has it; ``meta`` only where there is any."""
    turns = [{"role": m.role, "content": m.content} for m in row.messages]
    turns.append({"role": "assistant", "content": row.completion})
    record: dict[str, Any] = {"id": row.id, "messages": turns}
    return record | ({"meta": dict(row.meta)} if row.meta else {})


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
