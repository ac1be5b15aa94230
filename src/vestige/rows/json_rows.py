"""Rows of JSON: a record a line, or the elements of one array."""

from __future__ import annotations

import codecs
import json
import json.encoder
import re
from itertools import chain
from typing import IO, Any

from vestige.core.jsonl import lines
from vestige.core.types import DataError, DroppedRow, Row
from vestige.rows.encodings import as_utf8
from vestige.rows.layouts import EXPECTED
from vestige.rows.packing import broken, is_broken, unpacked
from vestige.rows.places import Place, endings, shown
from vestige.rows.records import Items, Records

DEEP = 500  # a line with fewer opening brackets can be written as well as read
LONGEST = 1 << 26  # characters that one element of a JSON array may have
BLOCK = 1 << 20  # bytes of an array that are read at a time, and kept of a part that is no JSON
HEAD = 1 << 16  # bytes of a first line that are looked at


def read_jsonl(place: Place, raw: IO[bytes], records: Records) -> Items:
    """Rows of JSON lines, or of one JSON array."""
    number = 0
    try:
        stream = as_utf8(unpacked(raw, endings(place)[1]))
        head = stream.readline(HEAD)
        text = head.removeprefix(codecs.BOM_UTF8)
        if _is_array(text):
            for item in _read_array(text, stream, records):
                number += 1
                yield item
            return
        if len(head) >= HEAD:
            head += stream.readline()
        for number, line in enumerate(lines(chain([head], stream)), 1):
            if not line.isspace() and line:
                yield _from_line(line.rstrip(b"\r\n"), number, records)
    except Exception as error:
        if not is_broken(error):
            raise
        if number == 0:
            raise DataError(f"{shown(place)}: its first line cannot be read: {error}") from error
        yield records.bad("", number + 1, broken(place, error))


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
