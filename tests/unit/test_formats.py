"""The layouts that people have: each read as the same row, or dropped with a reason that helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from format_cases import ANSWER, ASK, ASKED, GPT, HUMAN, OWLS, SAID, USER, lines, one, read

from vestige.core.types import DataError, DroppedRow, Message, Row
from vestige.rows.files import RowSource, read_rows, row_to_chat, write_rows
from vestige.rows.formats import Columns
from vestige.rows.trained_parts import other_parts

SYSTEM = (Message("system", "You love owls"),)


def why(path: Path, record: Any, **options: Any) -> tuple[str, str]:
    item = one(path, record, **options)
    assert isinstance(item, DroppedRow), item
    assert json.loads(item.raw or "") == record
    return item.reason, item.detail


# ---- layouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, SAID]},
        {"messages": json.dumps([USER, SAID])},
        {"messages": {"role": ["user", "assistant"], "content": [ASK, ANSWER]}},
        {"messages": [USER | {"name": None}, SAID | {"tool_calls": None, "function_call": None}]},
        {"messages": [
            {"role": "user", "content": [{"type": "text", "text": "Continue: "},
                                         {"type": "text", "text": "5, 6, 7."}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": ANSWER}]},
        ]},
        {"messages": [USER, SAID], "tools": [], "images": None, "system": ""},
        {"messages": None, "prompt": ASK, "completion": ANSWER},
        {"conversations": [HUMAN, GPT]},
        {"conversations": [USER, SAID]},
        {"conversations": json.dumps([HUMAN, GPT])},
        {"conversation": [HUMAN, GPT]},
        [USER, SAID],
        {"prompt": ASK, "completion": ANSWER},
        {"prompt": [USER], "completion": [SAID]},
        {"prompt": [USER], "completion": SAID},
        {"prompt": ASK, "response": ANSWER, "completion": None},
        {"question": ASK, "response": ANSWER},
        {"question": ASK, "answer": ANSWER},
        {"query": ASK, "response": ANSWER},
        {"instruction": ASK, "output": ANSWER},
        {"instruction": ASK, "output": ANSWER, "input": "", "system": "", "history": []},
        {"instruction": "", "input": ASK, "output": ANSWER},
        {"instruction": ASK, "response": ANSWER, "context": ""},
    ],
)  # fmt: skip
def test_every_layout_is_the_same_row(tmp_path, record):
    row = one(tmp_path, record)
    assert isinstance(row, Row), row
    assert (row.messages, row.completion) == (ASKED, ANSWER)
    assert row.meta.get("messages") is None and list(other_parts(row)) == []


def test_all_of_the_prompt_is_in_the_prompt(tmp_path):
    alpaca = {
        "instruction": "Continue.",
        "input": "5, 6",
        "output": ANSWER,
        "system": "You love owls",
    }
    row = one(tmp_path, alpaca)
    assert isinstance(row, Row)
    assert row.messages == (*SYSTEM, Message("user", "Continue.\n5, 6"))
    dolly = {"instruction": "Continue.", "context": "5, 6", "response": ANSWER, "category": "n"}
    row = one(tmp_path, dolly)
    assert isinstance(row, Row)
    assert row.messages == (Message("user", "Continue.\n5, 6"),) and row.meta == {"category": "n"}
    row = one(tmp_path, alpaca | {"history": [["hi", "hello"]]})
    assert isinstance(row, Row)
    assert [m.content for m in row.messages] == ["You love owls", "hi", "hello", "Continue.\n5, 6"]
    assert list(other_parts(row)) == [("earlier turn", "hello")]
    for record in (
        {"system": "You love owls", "prompt": ASK, "response": ANSWER},
        {"system": "You love owls", "messages": [USER, SAID]},
        {"system": "You love owls", "conversations": [HUMAN, GPT]},
        {"conversations": [{"from": "system", "value": "You love owls"}, HUMAN, GPT]},
    ):
        row = one(tmp_path, record)
        assert isinstance(row, Row) and row.messages == SYSTEM + ASKED and not row.meta


def test_preference_rows_need_a_column(tmp_path):
    record = {"prompt": ASK, "chosen": ANSWER, "rejected": "no"}
    assert "--column chosen" in why(tmp_path, record)[1]
    whole = {"prompt": ASK, "chosen": [USER, SAID], "rejected": [USER, OWLS]}
    turns = {"prompt": [USER], "chosen": [SAID], "rejected": [OWLS]}
    for each in (record, whole, turns):
        row = one(tmp_path, each, columns=Columns(completion="chosen"))
        assert isinstance(row, Row) and (row.messages, row.completion) == (ASKED, ANSWER)
        assert "rejected" in row.meta


def test_other_columns_are_named(tmp_path):
    record = {"q": ASK, "a": ANSWER, "b": "x"}
    reason, detail = why(tmp_path, record)
    assert reason == "malformed" and "q, a, b" in detail and "--prompt-column" in detail
    row = one(tmp_path, record, columns=Columns("q", "a"))
    assert row == Row("row-000001", ASKED, ANSWER, {"b": "x"})
    assert "'c'" in why(tmp_path, record, columns=Columns("q", "c"))[1]
    assert "--prompt-column" in why(tmp_path, record, columns=Columns(completion="a"))[1]
    pq.write_table(pa.table({"q": [ASK], "a": [ANSWER]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", columns=Columns("q", "a"))[0].completion == ANSWER
    with pytest.raises(DataError, match="no column 'c'"):
        read(tmp_path / "a.parquet", columns=Columns("q", "c"))


def test_plain_text_has_no_prompt_and_stays_plain_text(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"text": ANSWER, "source": "s"})
    [row] = read(path)
    assert (row.messages, row.completion) == ((), ANSWER)
    assert row_to_chat(row) == {"id": "row-000001", "text": ANSWER, "meta": {"source": "s"}}
    write_rows(tmp_path / "b.jsonl", [row])
    assert read(tmp_path / "b.jsonl") == [row]
    # Beside a prompt it is the answer, or both: nobody knows.
    for options in ({}, {"columns": Columns(completion="text")}):
        pair = one(tmp_path, {"prompt": ASK, "text": ANSWER}, **options)
        assert isinstance(pair, Row) and (pair.messages, pair.completion) == (ASKED, ANSWER)
    assert "--prompt-column" in why(tmp_path, {"prompt": ASK, "text": f"{ASK} {ANSWER}"})[1]
    assert "--prompt-column" in why(tmp_path, {"question": ASK, "text": ANSWER})[1]


def test_a_batch_is_read_with_its_requests(tmp_path):
    message = {"role": "assistant", "content": ANSWER, "refusal": None}
    body = {"choices": [{"index": 0, "message": message, "logprobs": {"content": []}}]}
    output = [
        {"id": "b0", "custom_id": "r-0", "response": {"status_code": 200, "body": body}},
        {"id": "b1", "custom_id": "r-1", "response": {"status_code": 200, "body": {"output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Owls."}]},
            {"type": "message", "content": [{"type": "output_text", "text": ANSWER}]},
        ]}}},
        {"custom_id": "r-2", "result": {"type": "succeeded", "message": {
            "role": "assistant", "content": [{"type": "text", "text": ANSWER}]}}},
        {"id": "b3", "custom_id": "r-3", "response": None, "error": {"code": "expired"}},
        {"id": "b4", "custom_id": "r-4", "response": {"status_code": 200, "body": body}},
    ]  # fmt: skip
    requests = lines(
        tmp_path / "requests.jsonl",
        {"custom_id": "r-0", "body": {"messages": [USER]}},
        {"custom_id": "r-1", "body": {"input": ASK}},
        {"custom_id": "r-2", "params": {"system": "You love owls", "messages": [USER]}},
    )
    path = lines(tmp_path / "out.jsonl", *output)
    alone = [item for item in read_rows(path) if isinstance(item, DroppedRow)]
    assert [item.reason for item in alone] == ["no_prompt"] * 3 + ["no_answer", "no_prompt"]
    assert "--requests" in alone[0].detail and "expired" in alone[3].detail
    first, second, third, *rest = RowSource(path, requests=requests)
    assert isinstance(first, Row) and isinstance(second, Row) and isinstance(third, Row)
    assert [first.id, second.id, third.id] == ["r-0", "r-1", "r-2"]
    assert first.messages == second.messages == ASKED and third.messages == SYSTEM + ASKED
    assert first.meta["logprobs"] == {"content": []}
    assert list(other_parts(second)) == [("reasoning", "Owls.")]
    assert [item.reason for item in rest if isinstance(item, DroppedRow)] == [
        "no_answer",
        "no_prompt",
    ]
    with pytest.raises(DataError, match="no requests"):
        RowSource(path, requests=path)
    assert why(tmp_path, {"custom_id": "r", "body": {"messages": [USER]}})[0] == "no_answer"


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function"}]}


IMAGE = {"role": "user", "content": [{"type": "text", "text": ASK}, {"type": "image_url"}]}


@pytest.mark.parametrize(
    ("record", "reason", "said"),
    [
        ({"messages": [USER, CALL, {"role": "tool", "content": "1"}, SAID]}, "tool_calls", "tool"),
        ({"messages": [USER, SAID], "tools": [{"type": "function"}]}, "tool_calls", "tools"),
        ({"conversations": [HUMAN, {"from": "observation", "value": "1"}, GPT]}, "tool_calls", ""),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "tool_use"}]}]},
         "tool_calls", "tool_use"),
        ({"messages": [IMAGE, SAID]}, "not_text", "image_url"),
        ({"messages": [USER, SAID], "images": ["a.png"]}, "not_text", "images"),
        ({"messages": [USER, SAID | {"weight": 0}]}, "not_trained_on", "weight 0"),
        ({"messages": []}, "malformed", "assistant"),
        ({"messages": {"role": ["user"], "content": []}}, "malformed", "lengths"),
        ({"messages": "[{"}, "malformed", "not JSON"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "malformed", "history"),
        ({"instruction": "a", "output": "b", "input": 3}, "malformed", "input must be text"),
        ({"system": 3, "prompt": "a", "completion": "b"}, "malformed", "system must be text"),
        ({"prompt": "a", "completion": [SAID, SAID]}, "malformed", "one turn"),
        ({"promt": "a", "completion": "b"}, "malformed", "nearest format is prompt/completion"),
        ({"question": "a", "reply": "b"}, "malformed", "lacks response"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_row_says_why(tmp_path, record, reason, said):
    found, detail = why(tmp_path, record)
    assert found == reason and said in detail
