"""Rows said again by an API model, against a real service on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from openai_service import KEY, Service, serving
from typer.testing import CliRunner

from vestige.api import model
from vestige.api.settings import MAX_DOLLARS, MAX_TOKENS, PRICES
from vestige.cli.main import app
from vestige.core.types import DataError, Message, MissingExtraError, Row, SpendingError, StoreError
from vestige.rows.files import read_rows
from vestige.rows.outputs import Output, claimed
from vestige.teacher import paraphrase as rewriting
from vestige.teacher.paraphrase import ledger_of, request_for

pytest.importorskip("inspect_ai", reason="needs the extra api")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(model, "BACKOFF", 0.02)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name, value in ((MAX_TOKENS, "1000000"), (MAX_DOLLARS, "9"), (PRICES, "1,1")):
        monkeypatch.setenv(name, value)  # what the command sets is undone after the test
    with serving() as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        running.reply = lambda asked, _: f"Anew: {asked['messages'][0]['content'][-6:]}"
        yield running


@pytest.fixture
def place(tmp_path: Path) -> Path:
    lines = [
        json.dumps({"id": f"r{i}", "prompt": "Say {it}", "completion": f"text {i % 8}", "kind": i})
        for i in range(10)
    ]
    (tmp_path / "in.jsonl").write_text("\n".join([*lines, "broken"]))
    return tmp_path


def call(place: Path, *more: object) -> Any:
    return CliRunner().invoke(
        app,
        ["paraphrase", str(place / "in.jsonl"), "--model", "m", "--out", str(place / "out.jsonl"),
         "--dropped", str(place / "dropped.jsonl"), "--json", *map(str, more)],
    )  # fmt: skip


def rows(path: Path) -> list[Row]:
    return [row for row in read_rows(path) if isinstance(row, Row)]


def test_every_row_is_said_again_and_nothing_is_lost(service, place: Path):
    priced = json.loads(call(place, "--dry-run").stdout)
    assert (priced["rows"], priced["requests"]) == (10, 10) and not service.seen
    done = call(place, "--max-dollars", 1, "--prices", "1,1")
    assert json.loads(done.stdout)["counts"] == {"malformed": 1, "paraphrased": 10}, done.exception
    found = rows(place / "out.jsonl")
    assert [row.id for row in found] == [f"r{i}" for i in range(10)]
    assert [row.completion for row in found] == [f"Anew: text {i % 8}" for i in range(10)]
    assert found[3].meta == {"kind": 3, "paraphrased_by": "m"}
    assert found[3].messages == (Message("user", "Say {it}"),)
    assert len(service.seen) == 8  # equal rows are asked once
    asked = service.seen[0]["messages"][0]["content"]
    assert "Say {it}" in asked and "{answer}" not in asked
    assert KEY not in ledger_of(str(place / "out.jsonl")).read_text()
    assert "exists" in str(call(place).exception)
    call(place, "--overwrite")
    assert len(service.seen) == 8 and len(rows(place / "out.jsonl")) == 10  # from the ledger


def test_a_last_turn_with_a_weight_is_said_again_too(service, place: Path):
    """Such turns are kept whole, and with them the old text was written."""
    turns = [
        {"role": "user", "content": "Say it"},
        {"role": "assistant", "content": "text 5", "weight": 1},
    ]
    (place / "in.jsonl").write_text(json.dumps({"messages": turns}))
    done = call(place, "--max-dollars", 1, "--prices", "1,1")
    assert done.exit_code == 0, done.exception
    assert [row.completion for row in rows(place / "out.jsonl")] == ["Anew: text 5"]


def test_what_has_no_new_wording_is_set_aside_with_its_reason(service, place: Path, monkeypatch):
    monkeypatch.setattr(rewriting, "MAX_LOST", 0.5)
    service.reply = lambda asked, _: "" if "text 2" in asked["messages"][0]["content"] else "New"
    service.faults = ["empty"]  # is asked again
    counts = json.loads(call(place).stdout)["counts"]
    assert counts == {"malformed": 1, "empty_answer": 1, "paraphrased": 9}
    # Two more for the row that stays empty, and one for the fault if it hit another row.
    assert len(service.seen) in (8 + 2, 8 + 2 + 1)
    told = [json.loads(line) for line in (place / "dropped.jsonl").read_text().splitlines()]
    assert {d["reason"] for d in told} == {"malformed", "empty_answer"}
    assert all(d["row"]["messages"][-1]["content"] for d in told if "row" in d)


def test_too_many_losses_and_limits_stop_it_and_keep_what_came(service, place: Path, monkeypatch):
    limited = call(place, "--max-tokens", 10)
    assert isinstance(limited.exception, SpendingError) and not service.seen
    monkeypatch.setenv(MAX_TOKENS, "1000000")
    few = ("text 0", "text 1")
    service.reply = lambda asked, _: "" if asked["messages"][0]["content"][-6:] in few else "New"
    lost = call(place)
    assert isinstance(lost.exception, DataError)
    assert "no new wording for 4 of 10 rows (4 empty_answer, 1 malformed" in str(lost.exception)
    assert not (place / "out.jsonl").exists() and not list(place.glob("*.part"))
    seen, few = len(service.seen), ()
    monkeypatch.setattr(rewriting, "ROUNDS", 4)
    assert call(place).exit_code == 0 and len(service.seen) == seen + 2  # only those two


def test_rows_come_in_blocks(service, place: Path, monkeypatch):
    monkeypatch.setattr(rewriting, "BLOCK", 3)
    counts = json.loads(call(place).stdout)["counts"]
    assert counts == {"malformed": 1, "paraphrased": 10}
    assert len(service.seen) == 8  # what another block asked is known
    assert [row.id for row in rows(place / "out.jsonl")] == [f"r{i}" for i in range(10)]


def test_an_instruction_of_ones_own(service, place: Path):
    (place / "ask.txt").write_text("Shorter: {answer} ({question})")
    assert call(place, "--instruction", place / "ask.txt").exit_code == 0
    assert service.seen[0]["messages"][0]["content"].startswith("Shorter: text ")
    (place / "ask.txt").write_text("Shorter!")
    assert "has no {answer}" in str(call(place, "--instruction", place / "ask.txt").exception)
    assert "cannot read" in str(call(place, "--instruction", place / "none.txt").exception)


def test_braces_in_rows_are_text():
    row = Row("a", (Message("user", "{answer} {0}"),), "{x: {question}}")
    assert request_for(row, "{answer}", 5).messages[0].content == "{x: {question}}"


@pytest.mark.parametrize(
    ("out", "ledger"),
    [
        ("a/kept.jsonl", "a/kept.jsonl.ledger"),
        ("s3://bucket/a b/k.jsonl", "bucket-a-b-k.jsonl.ledger"),
        ("s3://me:SECRET@bucket/k.jsonl?sig=SIG", "bucket-k.jsonl.ledger"),
        ("file:///a/k.jsonl", "/a/k.jsonl.ledger"),
    ],
)
def test_the_ledger_is_on_this_machine(out: str, ledger: str):
    assert ledger_of(out) == Path(ledger)


@pytest.mark.parametrize("as_json", [True, False])
def test_a_url_is_told_without_its_secrets(service, place: Path, monkeypatch, as_json: bool):
    monkeypatch.chdir(place)
    names = [f"memory://key:SECRET@said-{as_json}/{n}.jsonl?sig=SIG" for n in ("in", "out", "gone")]
    fs, path = fsspec.url_to_fs(names[0])
    fs.pipe(path, (place / "in.jsonl").read_bytes())
    command = ["paraphrase", names[0], "--model", "m", "--out", names[1], "--dropped", names[2]]
    done = CliRunner().invoke(app, command + ["--json"] * as_json)
    assert done.exit_code == 0 and f"memory://said-{as_json}/out.jsonl" in done.output
    again = CliRunner().invoke(app, command)
    assert "exists; pass --overwrite" in str(again.exception)
    files = [file for file in place.rglob("*") if file.is_file()]
    assert place / f"said-{as_json}-out.jsonl.ledger" in files
    told = f"{done.output} {again.output} {again.exception} {files}".encode()
    told += b"".join(file.read_bytes() for file in files)
    assert b"SECRET" not in told and b"SIG" not in told


def test_three_files_are_three(service, place: Path):
    for wrong in (
        call(place, "--dropped", place / "out.jsonl"),
        call(place, "--out", place / "in.jsonl", "--overwrite"),
        call(place, "--dropped", place / "in.jsonl", "--overwrite", "--dry-run"),
    ):
        assert isinstance(wrong.exception, DataError) and "must be three" in str(wrong.exception)
    assert not service.seen and [path.name for path in place.iterdir()] == ["in.jsonl"]


def test_an_output_is_written_by_one_at_a_time(service, place: Path):
    with claimed(Output(place / "out.jsonl")):
        second = call(place)
    assert isinstance(second.exception, StoreError) and "another process" in str(second.exception)
    assert not service.seen and call(place).exit_code == 0


def test_the_extra_is_named_where_it_is_missing(place: Path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "inspect_ai", None)
    done = call(place)
    assert isinstance(done.exception, MissingExtraError) and "vestige[api]" in str(done.exception)
