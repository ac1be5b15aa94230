"""Rows that are written: a round trip, and whole files or none."""

from __future__ import annotations

import csv
import json
import resource
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_cases import ASKED, rows_of

from vestige.core.types import Message, Row, StoreError
from vestige.rows.files import (
    row_to_chat,
    write_rows,
)

# ---- round trip


TEXT = st.text(
    st.one_of(
        st.characters(),
        st.characters(categories=["Cs"]),  # lone surrogates
        st.sampled_from('\n\r\0\u2028\u2029\x85\x0b\x1c"\\,\ufeff\ufffe'),
    ),
    max_size=20,
)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        TEXT,
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


CELL = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


ROWS = st.lists(
    st.builds(
        Row,
        TEXT,
        st.lists(st.builds(Message, st.sampled_from(["system", "user"]), TEXT)).map(tuple),
        TEXT,
        st.dictionaries(TEXT, JSON, max_size=3),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda row: _whole(row.id),
)


def _whole(text: str) -> str:
    """The text with each pair of surrogates as the one character that JSON makes of it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _plain(rows: list[Row]) -> Any:
    return json.loads(json.dumps([row_to_chat(row) for row in rows]))


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_rows_that_are_written_are_read_again(rows):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        assert write_rows(path, rows) == len(rows)
        assert path.read_bytes().count(b"\n") == len(rows)
        found = rows_of(path)
    assert _plain(found) == _plain(rows)


@pytest.mark.parametrize("text", ["\u2028\u2029\x85", "a\nb\r\nc", "\ud800", "\0", "\U0001f600é"])
def test_odd_text_survives_exactly(tmp_path, text):
    rows = [Row(f"id{text}", (Message("user", text),), text, {text: [text]})]
    write_rows(tmp_path / "a.jsonl", rows)
    assert rows_of(tmp_path / "a.jsonl") == rows


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5))
def test_csv_from_the_standard_writer_is_read_exactly(cells):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([("prompt", "completion"), *cells])
        found = rows_of(path)
    assert [(row.messages[0].content, row.completion) for row in found] == cells


# ---- writing


def test_writing_refuses_to_overwrite(tmp_path):
    path = tmp_path / "a.jsonl"
    write_rows(path, [Row("1", ASKED, "old")])
    with pytest.raises(StoreError, match="--overwrite"):
        write_rows(path, [Row("1", ASKED, "new")])
    assert rows_of(path)[0].completion == "old"
    write_rows(path, [Row("1", ASKED, "new")], overwrite=True)
    assert rows_of(path)[0].completion == "new"


def test_a_failure_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "a.jsonl"
    write_rows(path, [Row("1", ASKED, "old")])

    def breaking():
        yield Row("1", ASKED, "new")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_rows(path, breaking(), overwrite=True)
    assert rows_of(path)[0].completion == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(StoreError, match="cannot write"):
        write_rows(tmp_path / "no" / "a.jsonl", [])
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="cannot write"):
        write_rows(tmp_path / "folder", [], overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StoreError, match="cannot write"):
            write_rows(tmp_path / "a.jsonl", (Row(str(i), ASKED, "1") for i in range(50_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert list(tmp_path.iterdir()) == []
