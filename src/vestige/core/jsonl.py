"""Lines of JSON and text files: the one place where the package reads and writes them.

A line ends at ``\\n`` alone: U+2028, U+2029 and U+0085, at which ``str.splitlines`` breaks too, are
characters of a row like any others. Everything is UTF-8, whatever the locale is; a byte-order mark
is left out. What is written can always be read back, here and by any other reader of JSON: a lone
surrogate is written as its escape, and NaN and infinities, for which JSON has no form, as null.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# Made once: json.dumps makes a new encoder for every call with options.
_encode = json.JSONEncoder(ensure_ascii=False, default=str, allow_nan=False).encode


def json_line(record: Any) -> bytes:
    """A record as a line of JSON."""
    try:
        text = _encode(record)
    except ValueError:
        text = _encode(finite(record))
    return encoded(text + "\n")


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON in ASCII, which every terminal and every encoding can take."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """The same value with None for every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {finite(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value


def encoded(text: str) -> bytes:
    """Text as UTF-8. A lone surrogate has no such form: its escape stands for it, which JSON reads
    as what it was."""
    return text.encode("utf-8", "backslashreplace")


def lines(stream: Iterable[bytes]) -> Iterator[bytes]:
    """A binary file's lines with their ends, as they are, the first without its byte-order mark."""
    for number, line in enumerate(stream):
        yield line if number else line.removeprefix(codecs.BOM_UTF8)


def read_jsonl(path: Path) -> list[Any]:
    """The records of a JSONL file that fits in memory; empty lines are left out.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is not JSON or not UTF-8; names the line.
    """
    records = []
    with path.open("rb") as file:
        for number, line in enumerate(lines(file), 1):
            if line.strip():
                try:
                    records.append(json.loads(line.decode("utf-8")))
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"line {number}: {error}") from error
    return records


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Records as the lines of a file, over what is there."""
    with path.open("wb") as file:
        file.writelines(map(json_line, records))


def read_text(path: Path) -> str:
    """A text file, with ``\\n`` for other ends of lines.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read, or is not UTF-8.
    """
    return path.read_text(encoding="utf-8-sig")


def write_text(path: Path, text: str) -> None:
    """Text as it stands, over what is there."""
    path.write_bytes(encoded(text))


def text_lines(text: str) -> list[str]:
    """The lines of a text that ``read_text`` gave, without their ends."""
    return text.removesuffix("\n").split("\n") if text else []
