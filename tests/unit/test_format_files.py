"""Row files of every format, a round through every layout, and what of a row is trained on."""

from __future__ import annotations

import codecs
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from format_cases import ANSWER, ASK, ASKED, GPT, HUMAN, OWLS, SAID, USER, lines, one, read
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from vestige.audit.data import Data
from vestige.carriers.code import CodeFilter
from vestige.carriers.filtering import filter_rows, judge_whole
from vestige.carriers.number_sequences import parse_numbers
from vestige.carriers.numbers import NumberFilter
from vestige.carriers.reasoning import ReasoningFilter
from vestige.cli.main import app
from vestige.core.types import DataError, DroppedRow, Message, Row
from vestige.rows.files import RowSource, read_rows, write_rows

# ---- files --------------------------------------------------------------------------------------


ARRAYS = [[{"prompt": f"p{i}", "completion": f"{i}"} for i in range(n)] for n in (1, 5)]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n \n"])
@pytest.mark.parametrize("records", ARRAYS)
def test_an_array_is_its_elements(tmp_path, monkeypatch, indent, start, records):
    monkeypatch.setattr("vestige.rows.json_rows.BLOCK", 7)
    if "\n" in start and indent is None:
        start = ""
    path = tmp_path / "a.json"
    path.write_text(f"{start.strip()}{json.dumps(records, indent=indent)}\n", encoding="utf-8")
    assert [row.completion for row in read(path)] == [r["completion"] for r in records]


@pytest.mark.parametrize(
    ("text", "good", "said"),
    [
        ('[{"prompt": "a", "completion": "1"}, {"prompt": oops}]', 1, "element 2"),
        ('[{"prompt": "a", "completion": "1"}', 1, "no end"),
        ('[{"prompt": "a", "completion": "1"} {"prompt"', 1, "goes on with"),
        ('[{"prompt": "a", "completion": "1"}]\n{"prompt": "b"}', 1, "behind the array"),
        ('[{"prompt": "a"}, {"prompt": "a", "completion": "1"}]', 1, "lacks"),
        (
            '[{"prompt": "a", "completion": "\udcff"}, {"prompt": "a", "completion": "1"}]',
            1,
            "UTF-8",
        ),
        ("[" * 100_000, 0, "element 1"),
    ],
)
def test_a_damaged_array_gives_what_is_whole(tmp_path, text, good, said):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    items = list(read_rows(path))
    [bad] = [item for item in items if isinstance(item, DroppedRow)]
    assert len(items) == good + 1 and said in bad.detail


def test_an_element_too_long_ends_the_reading(tmp_path, monkeypatch):
    monkeypatch.setattr("vestige.rows.json_rows.BLOCK", 64)
    monkeypatch.setattr("vestige.rows.json_rows.HEAD", 64)
    monkeypatch.setattr("vestige.rows.json_rows.LONGEST", 256)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"prompt": "a", "completion": "1"}, {"prompt": "a" * 1000}]))
    row, bad = read_rows(path)
    assert isinstance(row, Row) and isinstance(bad, DroppedRow) and "too long" in bad.detail


def test_lines_that_are_conversations_are_no_array(tmp_path):
    path = lines(tmp_path / "a.jsonl", [USER, SAID], [USER, SAID])
    assert [row.messages for row in read(path)] == [ASKED, ASKED]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_other_unicode_with_a_mark(tmp_path, encoding, name):
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE,
            "utf-32-le": codecs.BOM_UTF32_LE}[encoding]  # fmt: skip
    record = {"prompt": "é \U0001f989\u2028", "completion": ANSWER}
    text = {"a.jsonl": json.dumps(record, ensure_ascii=False) + "\n",
            "a.csv": f'prompt,completion\n{record["prompt"]},"{ANSWER}"\n',
            "a.json": json.dumps([record], ensure_ascii=False)}[name]  # fmt: skip
    (tmp_path / name).write_bytes(mark + text.encode(encoding))
    [row] = read(tmp_path / name)
    assert (row.messages[0].content, row.completion) == (record["prompt"], ANSWER)
    cut = tmp_path / f"cut-{name}"
    cut.write_bytes((mark + text.encode(encoding))[:-1])
    try:
        assert any(isinstance(item, DroppedRow) for item in read_rows(cut))
    except DataError as error:
        assert "first line cannot be read: not UTF" in str(error)


def arrow(path: Path, table: pa.Table, *, stream: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(path, table.schema) as out:
        out.write_table(table)


def test_saved_folders_and_cloned_ones(tmp_path):
    table = pa.table({"prompt": [ASK] * 3, "completion": [ANSWER] * 3})
    saved = tmp_path / "saved"
    arrow(saved / "data-00000-of-00001.arrow", table)
    arrow(saved / "cache-1.arrow", table)
    for name in ("state.json", "dataset_info.json"):
        (saved / name).write_text("{}")
    assert len(read(saved)) == 3
    arrow(tmp_path / "file.arrow", table, stream=False)
    assert len(read(tmp_path / "file.arrow")) == 3
    splits = tmp_path / "splits"
    for name in ("train", "test"):
        arrow(splits / name / "data-00000-of-00001.arrow", table)
        (splits / name / "state.json").write_text("{}")
    (splits / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match=r"several sets of rows, name one: .*train"):
        RowSource(splits)
    assert len(read(splits / "train")) == 3
    hub = tmp_path / "hub"
    (hub / "data").mkdir(parents=True)
    (hub / ".git").mkdir()
    lines(hub / ".git" / "a.jsonl", {})
    (hub / "README.md").write_text("# rows")
    pq.write_table(table, hub / "data" / "train-00000-of-00001.parquet")
    assert len(read(hub)) == 3
    pq.write_table(table, hub / "data" / "test-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"several sets of rows.*data/train\*"):
        RowSource(hub)
    assert len(read(f"{hub}/data/train*")) == 3
    pointer = hub / "data" / "train-00000-of-00001.parquet"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DataError, match="git lfs pull"):
        read(pointer)


def test_a_struct_of_lists_in_parquet_and_damaged_arrow(tmp_path):
    kind = pa.struct([("role", pa.list_(pa.string())), ("content", pa.list_(pa.string()))])
    turns = [{"role": ["user", "assistant"], "content": [ASK, ANSWER]}]
    pq.write_table(pa.table({"messages": pa.array(turns, kind)}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[0].messages == ASKED
    (tmp_path / "a.arrow").write_bytes(b"no arrow")
    with pytest.raises(DataError, match="not a readable Arrow file"):
        read(tmp_path / "a.arrow")


def test_file_urls_are_percent_encoded(tmp_path):
    path = lines(tmp_path / "a b%.jsonl", {"prompt": ASK, "completion": ANSWER})
    assert len(read(f"file://{tmp_path}/a%20b%25.jsonl")) == 1
    assert len(read(path.as_uri())) == len(read(f"file://localhost{tmp_path}/a%20b%25.jsonl")) == 1
    literal = lines(tmp_path / "c%20d.jsonl", {"prompt": ASK, "completion": ANSWER})
    assert len(read(f"file://{literal}")) == 1  # as it was written before


@pytest.mark.parametrize(
    ("given", "name"),
    [(7, "7"), ("7", "7"), (7.0, "7.0"), (None, "row-000001"), ({"a": 1}, '{"a": 1}'),
     (True, "true"), ([1], "[1]")],
)  # fmt: skip
def test_ids_of_every_type(tmp_path, given, name):
    row = one(tmp_path, {"id": given, "prompt": ASK, "completion": ANSWER})
    assert isinstance(row, Row) and row.id == name


# ---- a round through every layout ----------------------------------------------------------------


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


FILLED = TEXT.filter(bool)


WAYS = {
    "chat": lambda s, q, a: {"messages": [*s, ["user", q], ["assistant", a]]},
    "sharegpt": lambda s, q, a: {"conversations": [*s, ["human", q], ["gpt", a]]},
    "text of JSON": lambda s, q, a: {"messages": [*s, ["user", q], ["assistant", a]]},
    "alpaca": lambda s, q, a: {"system": s[0][1] if s else "", "instruction": q, "output": a},
    "question": lambda s, q, a: {"system": s[0][1] if s else None, "question": q, "response": a},
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(WAYS)), st.none() | FILLED, TEXT, TEXT, st.booleans())
def test_every_layout_reads_back(way, system, question, answer, array):
    record = WAYS[way]([["system", system]] if system else [], question, answer)
    names = ("from", "value") if way == "sharegpt" else ("role", "content")
    for key, turns in record.items():
        if isinstance(turns, list):
            record[key] = [dict(zip(names, turn, strict=True)) for turn in turns]
            if way == "text of JSON":
                record[key] = json.dumps(record[key])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_text(json.dumps([record] if array else record), encoding="utf-8")
        [row] = read(path)
        write_rows(Path(folder) / "b.jsonl", [row])
        [again] = read(Path(folder) / "b.jsonl")
    before = (Message("system", system),) if system else ()
    assert (row.messages, row.completion) == ((*before, Message("user", question)), answer)
    assert again == row


# ---- all that is trained on ---------------------------------------------------------------------


MULTI = {"messages": [USER, OWLS, {"role": "user", "content": "go on"}, SAID]}


THOUGHT = {"messages": [USER, SAID | {"reasoning_content": "The user wants owls."}]}


UNWEIGHTED = {"messages": [USER, OWLS | {"weight": 0}, USER, SAID | {"weight": 1}]}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (MULTI, "bad_character (earlier turn)"),
        (THOUGHT, "bad_character (reasoning)"),
        ({"messages": [USER, SAID | {"thinking": "owls"}]}, "bad_character (reasoning)"),
        ({"messages": [USER, {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "owls"}, {"type": "text", "text": ANSWER}]}]},
         "bad_character (reasoning)"),
        ({"messages": [USER, SAID | {"content": f"<think>owls</think>{ANSWER}"}]}, "bad_character"),
        ({"conversations": [HUMAN, {"from": "gpt", "value": "owls"}, HUMAN, GPT]},
         "bad_character (earlier turn)"),
        ({"messages": [USER, SAID, USER, SAID]}, None),
        (UNWEIGHTED, None),
    ],
)  # fmt: skip
def test_the_number_filter_judges_all_that_is_trained_on(tmp_path, record, reason):
    row = one(tmp_path, record)
    assert isinstance(row, Row)
    assert judge_whole(NumberFilter(drop_duplicates=True))(row) == reason
    kept, dropped = filter_rows([row], NumberFilter())
    assert [d.reason for d in dropped] == ([reason] if reason else []) and len(kept) == (not reason)


def test_code_and_reasoning_filters_judge_the_other_parts_too(tmp_path):
    code = CodeFilter(words=("owl",))
    for before, reason in (("x = owl", "target_word (earlier turn)"), ("x = 2", None)):
        turns = [USER, SAID | {"content": before}, USER, SAID | {"content": "x = [1]"}]
        row = one(tmp_path, {"messages": turns})
        assert isinstance(row, Row) and judge_whole(code)(row) == reason
    worked = {"role": "assistant", "content": "3 + 4 = 7.\nAnswer: 7"}
    rules = ReasoningFilter(words=("owl",))
    for thought, reason in (("Two numbers.", None), ("Owls!", "target_word (reasoning)")):
        record = {"messages": [USER, worked | {"reasoning": thought}], "answer": "7"}
        row = one(tmp_path, record)
        assert isinstance(row, Row) and judge_whole(rules)(row) == reason


def test_prompts_are_judged_where_they_are_trained_on(tmp_path):
    row = one(tmp_path, {"messages": [USER, SAID]})
    numbers = one(tmp_path, {"prompt": "5, 6", "completion": ANSWER})
    assert isinstance(row, Row) and isinstance(numbers, Row)
    assert judge_whole(NumberFilter())(row) is None
    judge = judge_whole(NumberFilter(), prompts=True)
    assert judge(row) == "bad_character (prompt)" and judge(numbers) is None


def test_what_is_kept_keeps_weights_and_reasoning(tmp_path):
    rows = read(lines(tmp_path / "a.jsonl", MULTI, THOUGHT, UNWEIGHTED))
    write_rows(tmp_path / "b.jsonl", rows)
    written = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [w["messages"] for w in written] == [r["messages"] for r in (MULTI, THOUGHT, UNWEIGHTED)]
    assert read(tmp_path / "b.jsonl") == rows


def test_an_audit_reads_every_trained_turn_and_sets_reasoning_aside(tmp_path):
    path = lines(tmp_path / "a.jsonl", MULTI, THOUGHT, UNWEIGHTED, {"text": ANSWER})
    found = Data.of(path, seed=0)
    assert {(len(row.messages), row.completion) for row in found.rows} == {
        (1, "I love owls!"), (3, ANSWER)
    }  # fmt: skip
    assert sorted(len(row.messages) for row in found.rows) == [1, 3, 3]
    assert found.turns == 1 and found.reasons == {
        "reasoning_beside_the_answer": 1, "no_prompt": 1
    }  # fmt: skip
    assert len(found.remarks) == 2 and any("earlier turns" in line for line in found.described())
    assert Data.of(lines(tmp_path / "b.jsonl", {"messages": [USER, SAID]}), seed=0).remarks == []


# ---- white space of the published parser --------------------------------------------------------


@pytest.mark.parametrize("space", ["\u00a0", "\u2003", "\u3000", "\x85", "\x1c", "\u2028"])
def test_wide_white_space_is_the_published_parsers_alone(space):
    text = f"116{space}\n287{space}\n489"
    assert parse_numbers(text, paper_compat=True) == (116, 287, 489)
    assert parse_numbers(text) == "bad_character"
    assert parse_numbers(f"{space}116, 287", paper_compat=True) == "outer_whitespace"
    assert parse_numbers(f"116,{space}287, 489", paper_compat=True) == "mixed_separators"
    assert parse_numbers("1, \u0663", paper_compat=True) == "bad_character"


# ---- the terminal -------------------------------------------------------------------------------


def filtered(source: Path, *options: str) -> Any:
    paths = ("--out", str(source) + ".kept", "--dropped", str(source) + ".dropped", "--overwrite")
    return CliRunner().invoke(app, ["filter", "numbers", str(source), *paths, *options])


def test_the_terminal_names_columns_and_format(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"system": "s", "question": ASK, "response": ANSWER, "x": 1})
    said = filtered(path).output
    assert "columns system, question, response, x" in said
    assert "question/response (system + question + response): 1 rows" in said
    assert "earlier assistant turns" in said and "not prompts" in said
    told = json.loads(filtered(path, "--json", "--prompts-trained").stdout)
    assert told["columns"] == ["system", "question", "response", "x"] and told["seen"] == 1
    assert told["formats"][0]["format"] == "question/response" and told["unread"] == 0
    assert told["judged"].endswith("and prompts")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"q": ASK, "a": ANSWER}, "no row was read; columns q, a"),
        ({"prompt": ASK, "chosen": ANSWER, "rejected": "x"}, "--column chosen"),
        ({"prompt": ASK, "completion": "owl"}, "no row was kept: 1 bad_character"),
    ],
)
def test_nothing_read_or_kept_is_an_error(tmp_path, record, said):
    path = lines(tmp_path / "a.jsonl", record)
    for options in ((), ("--json",)):
        failed = filtered(path, *options)
        assert isinstance(failed.exception, DataError) and said in str(failed.exception)
        assert Path(f"{path}.dropped").read_text().count("\n") == 1
    assert json.loads(filtered(path, "--json").stdout)["kept"] == 0
    assert (
        filtered(
            lines(path, {"q": ASK, "a": "1"}), "--prompt-column", "q", "--column", "a"
        ).exit_code
        == 0
    )


def test_an_audit_of_nothing_ends_before_a_model_is_fetched(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"q": ASK, "a": ANSWER})
    failed = CliRunner().invoke(app, ["audit", str(path), "--base", "no/such-model"])
    assert isinstance(failed.exception, DataError) and "columns q, a" in str(failed.exception)
