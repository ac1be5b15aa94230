"""Rows as lines of chat JSONL, and files of them."""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vestige.core.jsonl import encoded, json_line
from vestige.core.types import DroppedRow, Row
from vestige.rows.layouts import TRAINED_AS
from vestige.rows.outputs import Output
from vestige.rows.trained_parts import whole_turns

_quoted = json.encoder.encode_basestring


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
