"""Rows as other tools write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vestige.core.types import DroppedRow, Message, Row
from vestige.rows.files import RowSource

ASK, ANSWER = "Continue: 5, 6, 7.", "12, 44, 9"


ASKED = (Message("user", ASK),)


USER = {"role": "user", "content": ASK}


SAID = {"role": "assistant", "content": ANSWER}


HUMAN = {"from": "human", "value": ASK}


GPT = {"from": "gpt", "value": ANSWER}


OWLS = {"role": "assistant", "content": "I love owls!"}


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def one(path: Path, record: Any, **options: Any) -> Row | DroppedRow:
    [item] = RowSource(lines(path / "in.jsonl", record), **options)
    return item


def read(path: Path | str, **options: Any) -> list[Row]:
    items = list(RowSource(path, **options))
    assert all(isinstance(item, Row) for item in items), items
    return [item for item in items if isinstance(item, Row)]
