"""Rows of tables: CSV, Parquet, and Arrow as the ``datasets`` library saves it to disk."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from vestige.core.types import DataError, DroppedRow, Row
from vestige.rows.encodings import as_utf8
from vestige.rows.formats import check_columns
from vestige.rows.layouts import Unusable
from vestige.rows.packing import broken, is_broken, unpacked
from vestige.rows.places import Place, endings, shown
from vestige.rows.records import Items, Records, as_json

BATCH = 1024  # rows of a table in memory at a time; chosen
ARROW_FILE = b"ARROW1"


def read_csv(place: Place, raw: IO[bytes], records: Records) -> Items:
    """Rows of a CSV file, whose first line names its columns."""
    csv.field_size_limit(2**27)
    source: list[str] = []  # the lines of the record at hand, as they stood

    def lines(text: Iterable[str]) -> Iterator[str]:
        for line in text:
            source.append(line)
            yield line

    # Bytes that are no UTF-8 become lone surrogates, by which they are known below.
    try:
        stream = as_utf8(unpacked(raw, endings(place)[1]))
    except Exception as error:
        raise _no_header(place, error) from error
    with io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="") as text:
        reader = csv.reader(lines(text), strict=True)
        header = _header(reader, place)
        check_table(place, header, records)
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
                if not is_broken(error):
                    raise
                yield records.bad(_as_it_stood(source), line, broken(place, error))
                return
            if cells or fault:
                yield _from_cells(header, cells, fault, _as_it_stood(source), line, records)


def _header(reader: Iterator[list[str]], place: Place) -> list[str]:
    try:
        header = next(reader, [])
    except Exception as error:
        raise _no_header(place, error) from error
    if len(set(header)) < len(header):
        raise DataError(f"{shown(place)}: two columns have the same name: {', '.join(header)}")
    return header


def _no_header(place: Place, error: Exception) -> Exception:
    if not isinstance(error, csv.Error) and not is_broken(error):
        return error
    return DataError(f"{shown(place)}: its first line cannot be read: {error}")


def check_table(place: Place, names: list[str], records: Records) -> None:
    """Raises ``DataError`` if no format fits a table's columns; names the nearest."""
    records.see(names)
    try:
        check_columns(names, records.columns)
    except Unusable as error:
        columns = ", ".join(names) or "missing"
        raise DataError(f"{shown(place)}: its columns are {columns}; {error}") from error


def _as_it_stood(lines: list[str]) -> str:
    whole = "".join(lines).rstrip("\r\n").encode("utf-8", "surrogateescape")
    return whole.decode("utf-8", "backslashreplace")


def _from_cells(
    header: list[str], cells: list[str], fault: str, raw: str, line: int, records: Records
) -> Row | DroppedRow:
    if not fault and len(cells) != len(header):
        fault = f"{len(cells)} cells under {len(header)} columns"
    joined = "".join(cells)
    if not joined.isascii() and any("\udc80" <= c <= "\udcff" for c in joined):
        fault = "not UTF-8"
    elif "\0" in joined:
        fault = "holds a null byte"
    if fault:
        return records.bad(raw, line, fault)
    record: dict[str, Any] = dict(zip(header, cells, strict=True))
    if not record.get("id"):
        record.pop("id", None)
    return records.row(record, lambda: raw, line)


@dataclass
class Done:
    """How far a file of ``size`` bytes is read, from 0 to 1."""

    size: int
    share: float = 0.0

    def tell(self) -> int:
        """The same in bytes."""
        return int(self.share * self.size)


def read_parquet(place: Place, raw: IO[bytes], records: Records, done: Done) -> Items:
    """Rows of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(raw)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{shown(place)} is not a readable Parquet file: {error}") from error
    check_table(place, file.schema_arrow.names, records)
    yield from _batches(
        place, file.iter_batches(BATCH), records, done, max(1, file.metadata.num_rows)
    )


def read_arrow(place: Place, raw: IO[bytes], records: Records, done: Done) -> Items:
    """Rows of an Arrow file: a stream, as ``save_to_disk`` writes it, or one with a footer."""
    import pyarrow as pa

    try:
        footer = raw.read(len(ARROW_FILE)) == ARROW_FILE
        raw.seek(0)
        source = pa.PythonFile(raw, mode="r")
        reader: Any = pa.ipc.open_file(source) if footer else pa.ipc.open_stream(source)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{shown(place)} is not a readable Arrow file: {error}") from error
    check_table(place, reader.schema.names, records)
    if footer:
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
    else:
        batches = iter(reader)
    small = (batch.slice(at, BATCH) for batch in batches for at in range(0, batch.num_rows, BATCH))
    for item in _batches(place, small, records, done, 0):
        if done.size:
            done.share = min(1.0, raw.tell() / done.size)
        yield item


def _batches(
    place: Place, batches: Iterable[Any], records: Records, done: Done, total: int
) -> Items:
    """Rows of record batches; ``total``: rows of the file, 0 where that is not known."""
    import pyarrow as pa

    number = 0
    try:
        for batch in batches:
            if total:
                done.share = number / total
            for record in batch.to_pylist():
                number += 1
                plain = {k: v for k, v in record.items() if v is not None}
                yield records.row(plain, partial(as_json, record), number)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{shown(place)} is damaged after row {number}: {error}") from error
