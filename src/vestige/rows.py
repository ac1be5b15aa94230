"""Reading and writing rows of anybody's file, one at a time, losing nothing.

Formats: chat JSONL (``{"messages": [...]}``, the last turn is the assistant's), prompt/completion
JSONL, CSV with those columns, Parquet with either; ``.gz`` of the text formats. A line that cannot
be read becomes a ``DroppedRow`` that keeps it as it stood.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from vestige.types import DataError, DroppedRow, Message, Row, StoreError

MALFORMED = "malformed"
FIELDS = (("prompt", "completion"), ("prompt", "response"), ("instruction", "output"))
EXPECTED = (
    'expected {"messages": [{"role": ..., "content": ...}, ...]} ending with the assistant, '
    'or {"prompt": ..., "completion": ...}'
)
BROKEN_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)
DEEP = 500  # a line with fewer opening brackets can be written as well as read
ROLES = {"system", "user", "assistant", "tool", "developer"}


def read_rows(path: Path | str, *, fmt: str | None = None) -> Iterator[Row | DroppedRow]:
    """Rows of a file in order; unreadable lines as ``DroppedRow`` with line number and reason.

    Args:
        fmt: ``jsonl``, ``csv`` or ``parquet``; default: by the file's ending.

    Raises:
        DataError: no such file, an unknown ending, a file without rows, broken gzip from its
            start, or a table without the columns.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    if path.stat().st_size == 0:
        raise _no_rows(path)
    kind = fmt or _kind(path)
    reader = {"jsonl": _read_jsonl, "csv": _read_csv, "parquet": _read_parquet}.get(kind)
    if reader is None:
        raise DataError(f"unknown format {kind!r}: use jsonl, csv or parquet")
    return _unique_ids(reader(path), path)


def _no_rows(path: Path) -> DataError:
    return DataError(f"{path} is empty, it has no rows; {EXPECTED}")


def _kind(path: Path) -> str:
    packed = path.suffix.lower() == ".gz"
    suffix = ((path.suffixes[-2:-1] or [""])[0] if packed else path.suffix).lower()
    kinds = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
    kinds |= {".parquet": "parquet"} if not packed else {}
    if suffix not in kinds:
        raise DataError(
            f"{path}: cannot tell its format; name it .jsonl, .csv or .parquet (or .gz)"
        )
    return kinds[suffix]


def _open(path: Path) -> IO[bytes]:
    packed = path.suffix.lower() == ".gz"
    return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]


def _unique_ids(items: Iterator[Row | DroppedRow], path: Path) -> Iterator[Row | DroppedRow]:
    """A repeated id gets ``#2``, ``#3`` ... so that rows can be joined by id."""
    seen: dict[str, int] = {}
    item = None
    for item in items:
        if isinstance(item, Row):
            count = seen[item.id] = seen.get(item.id, 0) + 1
            while count > 1 and f"{item.id}#{count}" in seen:
                count += 1
            if count > 1:
                seen[f"{item.id}#{count}"] = 1
                item = Row(f"{item.id}#{count}", item.messages, item.completion, item.meta)
        yield item
    if item is None:
        raise _no_rows(path)


def _read_jsonl(path: Path) -> Iterator[Row | DroppedRow]:
    with _open(path) as file:
        number = 0
        try:
            for number, line in enumerate(file, 1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if line.strip():
                    yield _from_line(line.rstrip(b"\r\n"), number)
        except BROKEN_GZIP as error:
            if number == 0:
                raise DataError(f"{path}: its first line cannot be read: {error}") from error
            yield _bad("", number + 1, f"broken gzip: {error}")


def _from_line(line: bytes, number: int) -> Row | DroppedRow:
    raw = line.decode("utf-8", errors="backslashreplace")
    try:
        if b"\0" in line:
            raise ValueError("holds a null byte")
        record = _parse(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return _bad(raw, number, f"not UTF-8 at byte {error.start}")
    except (ValueError, RecursionError) as error:
        return _bad(raw, number, f"not JSON: {error}; {EXPECTED}")
    return _from_record(record, raw, number)


def _parse(text: str) -> Any:
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


def _from_record(record: Any, raw: str, number: int) -> Row | DroppedRow:
    if not isinstance(record, dict):
        return _bad(raw, number, f"a {type(record).__name__}, not an object; {EXPECTED}")
    try:
        messages, completion, used = _conversation(record)
    except ValueError as error:
        return _bad(raw, number, str(error))
    meta = {k: v for k, v in record.items() if k not in used | {"id", "meta"}}
    inner = record.get("meta")
    if isinstance(inner, Mapping) and not inner.keys() & meta.keys():
        meta |= inner
    elif inner is not None:
        meta["meta"] = inner
    # A turn may hold more than role and content (a name, a weight): keep the turns as they were.
    meta |= {k: record[k] for k in used if _has_more(record[k])}
    identity = record.get("id")
    name = f"row-{number:06d}" if identity is None else str(identity)
    return Row(name, messages, completion, meta)


def _conversation(record: Mapping[str, Any]) -> tuple[tuple[Message, ...], str, set[str]]:
    if "messages" in record:
        turns = _messages(record["messages"])
        if not turns or turns[-1].role != "assistant":
            raise ValueError("messages must end with the assistant's turn")
        return turns[:-1], turns[-1].content, {"messages"}
    for prompt, completion in FIELDS:
        if prompt in record and completion in record:
            answer = record[completion]
            if isinstance(answer, list):
                turns = _messages(answer)
                answer = turns[-1].content if len(turns) == 1 else None
            if not isinstance(answer, str):
                raise ValueError(f"{completion} must be text")
            asked = record[prompt]
            before = (Message("user", asked),) if isinstance(asked, str) else _messages(asked)
            return before, answer, {prompt, completion}
    raise ValueError(f"no known fields; {EXPECTED}")


def _has_more(turns: Any) -> bool:
    return isinstance(turns, list) and any(
        v is not None for turn in turns for k, v in turn.items() if k not in ("role", "content")
    )


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise ValueError("messages must be a list of turns")
    turns = []
    for turn in value:
        role = turn.get("role") if isinstance(turn, dict) else None
        content = turn.get("content") if isinstance(turn, dict) else None
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(f"a turn needs a role ({', '.join(sorted(ROLES))}) and text content")
        turns.append(Message(role, content))
    return tuple(turns)


def _read_csv(path: Path) -> Iterator[Row | DroppedRow]:
    csv.field_size_limit(2**27)
    source: list[str] = []  # the lines of the record at hand, as they stood

    def lines(text: Iterable[str]) -> Iterator[str]:
        for line in text:
            source.append(line)
            yield line

    # Bytes that are no UTF-8 become lone surrogates, by which they are known below.
    with io.TextIOWrapper(_open(path), "utf-8-sig", "surrogateescape", newline="") as text:
        reader = csv.reader(lines(text), strict=True)
        header = _header(reader, path)
        while True:
            source.clear()
            line, cells, fault = reader.line_num + 1, [], ""
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                fault = f"not CSV: {error}"
            except BROKEN_GZIP as error:
                yield _bad(_as_it_stood(source), line, f"broken gzip: {error}")
                return
            if cells or fault:
                yield _from_cells(header, cells, fault, _as_it_stood(source), line)


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = next(reader, [])
    except (csv.Error, *BROKEN_GZIP) as error:
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
    header: list[str], cells: list[str], fault: str, raw: str, line: int
) -> Row | DroppedRow:
    if not fault and len(cells) != len(header):
        fault = f"{len(cells)} cells under {len(header)} columns"
    if any("\udc80" <= c <= "\udcff" for cell in cells for c in cell):
        fault = "not UTF-8"
    elif any("\0" in cell for cell in cells):
        fault = "holds a null byte"
    if fault:
        return _bad(raw, line, fault)
    record: dict[str, Any] = dict(zip(header, cells, strict=True))
    if not record.get("id"):
        record.pop("id", None)
    return _from_record(record, raw, line)


def _read_parquet(path: Path) -> Iterator[Row | DroppedRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    columns = set(file.schema_arrow.names)
    if "messages" not in columns and not any(set(pair) <= columns for pair in FIELDS):
        raise DataError(f"{path}: its columns are {', '.join(sorted(columns))}; {EXPECTED}")
    number = 0
    try:
        for batch in file.iter_batches(1024):
            for record in batch.to_pylist():
                number += 1
                raw = json.dumps(record, ensure_ascii=False, default=str)
                yield _from_record({k: v for k, v in record.items() if v is not None}, raw, number)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged after row {number}: {error}") from error


def prompt_of(row: Row) -> str:
    """The prompt's id, for a row of ours: the row's own is that id, "-" and a number."""
    return row.id.rpartition("-")[0]


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


def write_rows(path: Path, rows: Iterable[Row], *, overwrite: bool = False) -> int:
    """Write chat JSONL whole or not at all; the number of rows.

    Raises:
        StoreError: the file exists and ``overwrite`` is off.
    """
    with atomic_lines(path, overwrite=overwrite) as write:
        count = 0
        for row in rows:
            write(row_to_chat(row))
            count += 1
    return count


class atomic_lines:
    """A context with a function to write JSON lines; the file is renamed at its clean end."""

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.path, self.part = Path(path), Path(f"{path}.part")
        if self.path.exists() and not overwrite:
            raise StoreError(f"{path} exists; pass --overwrite to replace it, or name another file")

    def __enter__(self) -> Any:
        try:
            self._file = self.part.open("w", encoding="utf-8")
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror}") from error
        return self._write

    def _write(self, record: Any) -> None:
        try:
            self._file.write(_json(record) + "\n")
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror}") from error

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self._file.close()
            if kind is None:
                os.replace(self.part, self.path)
        except OSError as problem:
            self.part.unlink(missing_ok=True)
            raise StoreError(f"cannot write {self.path}: {problem.strerror}") from problem
        if kind is not None:
            self.part.unlink(missing_ok=True)


def _json(record: Any) -> str:
    text = json.dumps(record, ensure_ascii=False, default=str)
    try:
        text.encode()
        return text
    except UnicodeEncodeError:  # a lone surrogate: only its escape can be written
        return json.dumps(record, default=str)
