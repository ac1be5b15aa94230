"""Reading and writing rows: every format, every kind of damage, nothing lost on the way."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_cases import ASKED, rows_of

from vestige.core.types import DataError, DroppedRow, Message, Row
from vestige.rows.files import (
    MALFORMED,
    RowSource,
    dropped_to_json,
    read_rows,
    write_rows,
)

GOOD = '{"prompt": "Continue: 1, 2", "completion": "3, 4"}'


CHAT = [{"role": "user", "content": "Continue: 1, 2"}, {"role": "assistant", "content": "3, 4"}]


def save(path: Path, data: bytes | str) -> Path:
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if path.suffix.lower() == ".gz" else data)
    return path


# ---- formats


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.JSONL", "a.json", "a.ndjson", "a.jsonl.gz", "a.x.ndjson.GZ"]
)
@pytest.mark.parametrize(
    "record",
    [
        {"messages": CHAT},
        {"prompt": "Continue: 1, 2", "completion": "3, 4"},
        {"prompt": "Continue: 1, 2", "response": "3, 4"},
        {"instruction": "Continue: 1, 2", "output": "3, 4"},
        {"prompt": CHAT[:1], "completion": CHAT[1:]},
    ],
)
def test_every_json_shape_reads_the_same(tmp_path, name, record):
    path = save(tmp_path / name, json.dumps(record) + "\n\n" + json.dumps(record))
    first, second = rows_of(path)
    assert first == Row("row-000001", ASKED, "3, 4")
    assert second == Row("row-000003", ASKED, "3, 4")  # named by its line


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_csv_with_quotes_newlines_and_blank_lines(tmp_path, name, start):
    text = start + 'id,prompt,completion,note\r\nx,"a, ""b""\nc","1\n2",n\r\n\r\n,d,3,\r\n'
    first, second = rows_of(save(tmp_path / name, text))
    assert first == Row("x", (Message("user", 'a, "b"\nc'),), "1\n2", {"note": "n"})
    assert second == Row("row-000006", (Message("user", "d"),), "3", {"note": ""})


def test_parquet_with_messages_and_with_columns(tmp_path):
    chat, plain = tmp_path / "chat.parquet", tmp_path / "plain.parquet"
    pq.write_table(pa.table({"id": [7], "messages": [CHAT], "extra": [1.5]}), chat)
    pq.write_table(pa.table({"prompt": ["p", "q"], "completion": ["1", None]}), plain)
    assert rows_of(chat) == [Row("7", ASKED, "3, 4", {"extra": 1.5})]
    good, bad = read_rows(plain)
    assert good == Row("row-000001", (Message("user", "p"),), "1")
    assert isinstance(bad, DroppedRow)
    assert (bad.reason, bad.line, json.loads(bad.raw or "")["prompt"]) == (MALFORMED, 2, "q")


def test_format_may_be_given(tmp_path):
    assert len(rows_of(save(tmp_path / "a.txt", GOOD), fmt="jsonl")) == 1
    with pytest.raises(DataError, match="unknown format 'xml'"):
        read_rows(tmp_path / "a.txt", fmt="xml")


def test_what_else_a_record_holds_is_kept(tmp_path):
    turns = [CHAT[0] | {"name": "Ann"}, CHAT[1]]
    records = [
        {"messages": CHAT, "prompt": "kept too", "meta": {"a": 1}},
        {"messages": CHAT, "a": 2, "meta": {"a": 1}},
        {"messages": CHAT, "meta": "text"},
        {"messages": turns},
    ]
    path = save(tmp_path / "a.jsonl", "\n".join(map(json.dumps, records)))
    rows = rows_of(path)
    assert [row.meta for row in rows] == [
        {"prompt": "kept too", "a": 1},
        {"a": 2, "meta": {"a": 1}},
        {"meta": "text"},
        {"messages": turns},
    ]
    assert write_rows(tmp_path / "b.jsonl", rows) == 4
    assert rows_of(tmp_path / "b.jsonl") == rows


# ---- damage


BAD_LINES = [
    (b"{oops", "not JSON"),
    (b"[1, 2]", "list, not an object"),
    (b'"3, 4"', "str, not an object"),
    (b"null", "NoneType, not an object"),
    (b"{}", "no known fields"),
    (b'{"prompt": "a"}', "no known fields"),
    (b'{"prompt": "a", "completion": 3}', "completion must be text"),
    (b'{"prompt": "a", "completion": null}', "completion must be text"),
    (b'{"prompt": "a", "completion": []}', "completion must be text"),
    (b'{"prompt": 5, "completion": "3"}', "must be"),
    (b'{"messages": "hello"}', "list of turns"),
    (b'{"messages": []}', "assistant"),
    (b'{"messages": [{"role": "user", "content": "a"}]}', "assistant"),
    (b'{"messages": [{"role": "king", "content": "a"}]}', "role"),
    (b'{"messages": [{"role": "assistant", "content": ["a"]}]}', "text content"),
    (b'{"messages": [3]}', "role"),
    (b'{"prompt": "a\xff", "completion": "3"}', "not UTF-8 at byte 13"),
    (b'{"prompt": "a\0", "completion": "3"}', "null byte"),
    (b'{"a": ' * 100_000, "not JSON"),
    (b'{"a": ' + b"1" * 5000 + b"}", "not JSON"),
    (b"x" * 2**20, "not JSON"),
]


@pytest.mark.parametrize(("line", "said"), BAD_LINES)
def test_a_bad_line_keeps_its_text_and_number(tmp_path, line, said):
    path = save(tmp_path / "a.jsonl", GOOD.encode() + b"\n" + line + b"\r\n" + GOOD.encode())
    before, bad, after = read_rows(path)
    assert isinstance(before, Row) and isinstance(after, Row)
    assert isinstance(bad, DroppedRow)
    assert (bad.reason, bad.line, bad.row) == (MALFORMED, 2, None)
    assert bad.raw == line.decode("utf-8", "backslashreplace")
    assert said in bad.detail
    assert json.loads(json.dumps(dropped_to_json(bad)))["raw"] == bad.raw


def test_a_megabyte_in_a_good_row_is_read(tmp_path):
    big = "1, " * 2**19
    path = save(tmp_path / "a.jsonl", json.dumps({"prompt": big, "completion": big}))
    assert rows_of(path)[0].completion == big


def test_byte_order_mark_is_no_damage(tmp_path):
    assert len(rows_of(save(tmp_path / "a.jsonl", "\ufeff" + GOOD))) == 1
    long = json.dumps({"prompt": "Continue: 1", "completion": "1, " * 2**16})
    assert len(rows_of(save(tmp_path / "b.jsonl", f"\ufeff{long}\n{GOOD}"))) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"only one", "1 cells under 2"),
        (b'"a, b",c,d', "3 cells under 2"),
        (b'"a"b,c', "not CSV"),
        (b"a\xff,3", "not UTF-8"),
        (b"a,3\0", "null byte"),
    ],
)
def test_a_bad_csv_line_keeps_its_text_and_number(tmp_path, line, said):
    path = save(tmp_path / "a.csv", b"prompt,completion\na,1\n" + line + b"\nb,2\n")
    before, bad, after = read_rows(path)
    assert isinstance(before, Row) and isinstance(after, Row)
    assert isinstance(bad, DroppedRow)
    assert (bad.reason, bad.line) == (MALFORMED, 3)
    assert bad.raw == line.decode("utf-8", "backslashreplace")
    assert said in bad.detail


def test_a_quote_that_never_ends_keeps_the_rest_of_the_file(tmp_path):
    path = save(tmp_path / "a.csv", 'prompt,completion\na,1\n"b,2\nc,3\n')
    row, bad = read_rows(path)
    assert isinstance(row, Row) and isinstance(bad, DroppedRow)
    assert (bad.raw, bad.line) == ('"b,2\nc,3', 3)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz"])
@pytest.mark.parametrize("fault", ["cut", "garbled"])
def test_damaged_gzip_gives_what_came_before_and_says_so(tmp_path, name, fault):
    head = "prompt,completion\n" if "csv" in name else ""
    body = "".join((f"{i},{i * i}" if head else GOOD) + "\n" for i in range(60_000))
    path = save(tmp_path / name, head + body)
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(whole[:half] + (b"\xff" * 64 + whole[half + 64 :] if fault != "cut" else b""))
    *rows, last = read_rows(path)
    assert len(rows) > 1000
    assert isinstance(last, DroppedRow) and "broken gzip" in last.detail
    assert last.line > 1000


# ---- files that cannot be used


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b"\n\n  \n", "empty"),
        ("a.jsonl", b"\xef\xbb\xbf", "empty"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "empty"),
        ("a.jsonl.gz", GOOD.encode(), "first line cannot be read"),
        ("a.jsonl.gz", gzip.compress(GOOD.encode(), mtime=0)[:12], "first line cannot be read"),
        ("a.csv", b"", "empty"),
        ("a.csv", b"prompt,completion\n", "empty"),
        ("a.csv.gz", gzip.compress(b"", mtime=0), "columns are missing"),
        ("a.csv", b"x,y\n1,2\n", "columns are x, y"),
        ("a.csv", b"prompt,completion,prompt\n1,2,3\n", "same name"),
        ("a.csv", b'"prompt"x,completion\n1,2\n', "first line"),
        ("a.csv.gz", b"no gzip", "first line"),
        ("a.parquet", b"no parquet", "not a readable Parquet"),
        ("a.xlsx", b"x", "cannot tell its format"),
        ("a.parquet.gz", b"x", "cannot tell its format"),
        ("a", b"x", "cannot tell its format"),
        ("a.gz", b"x", "cannot tell its format"),
    ],
)
def test_unusable_files(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=said) as caught:
        list(read_rows(tmp_path / name))
    assert name in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "nope.jsonl", tmp_path):
        with pytest.raises(DataError, match="there is no file"):
            read_rows(path)


def test_reading_parquet_tells_how_far_it_is(tmp_path):
    for name in "ab":
        records = [{"prompt": "p", "completion": str(i)} for i in range(4096)]
        pq.write_table(pa.Table.from_pylist(records), tmp_path / f"{name}.parquet")
    source = RowSource(tmp_path)
    shares = [source.share or 0 for _ in source]
    assert shares == sorted(shares) and shares[-1] > 0.8
    assert shares[2000] == pytest.approx(0.125, abs=0.01)


def test_parquet_without_the_columns_without_rows_and_damaged(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(DataError, match="columns are x"):
        list(read_rows(path))
    pq.write_table(pa.table({"prompt": pa.array([], "string"), "completion": []}), path)
    with pytest.raises(DataError, match="empty"):
        list(read_rows(path))
    text = [f"{i:09}" for i in range(5000)]
    pq.write_table(pa.table({"prompt": text, "completion": text}), path, compression="gzip")
    whole = bytearray(path.read_bytes())
    whole[2000:3000] = b"\xff" * 1000
    path.write_bytes(whole)
    with pytest.raises(DataError, match="damaged"):
        list(read_rows(path))


# ---- ids


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["a", "a#2", "a#2#2", "a#3", "row-000002", "", None]), max_size=12))
def test_ids_are_unique_and_first_ones_stay(ids):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_text("\n".join(json.dumps(json.loads(GOOD) | {"id": i}) for i in [*ids, "z"]))
        found = [row.id for row in rows_of(path)]
    assert len(set(found)) == len(found) == len(ids) + 1
    given_ids = [f"row-{n:06d}" if i is None else i for n, i in enumerate(ids, 1)]
    for made, old in zip(found[:-1], given_ids, strict=True):
        assert made == old or made.startswith(f"{old}#")
    if ids:
        assert found[0] == given_ids[0]
