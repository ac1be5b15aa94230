"""Data changed by each method: what is changed, what is not, and what is refused."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_cases import rows_of
from hypothesis import given
from hypothesis import strategies as st

from command import vestige
from vestige.cli.mitigate import mitigate_settings
from vestige.core.settings import Optimisation
from vestige.core.types import ConfigError, DataError, Message, Row
from vestige.mitigate import scores
from vestige.mitigate.forms import other_digits, plain_code, sorted_numbers
from vestige.mitigate.methods import METHODS
from vestige.mitigate.run import MORE, mitigate
from vestige.mitigate.scores import find_trait
from vestige.mitigate.tokens import (
    NOT_REBUILT,
    at_random,
    changeable,
    largest,
    redrawn,
    token_gains,
)
from vestige.probing.base_session import BaseSession
from vestige.probing.directions import token_logprobs
from vestige.probing.row_format import RowFormat
from vestige.rows.files import RowSource, read_rows
from vestige.rows.outputs import Output
from vestige.rows.trained_parts import with_completion
from vestige.student.loop import train


def one(text: str, **meta: object) -> Row:
    return Row("r", (Message("user", "ask"),), text, meta=meta)


def text_of(made: Row | str) -> str:
    assert isinstance(made, Row)
    return made.completion


# ---- forms --------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=8), st.sampled_from([", ", " ", "; "]))
def test_numbers_are_put_in_rising_order_where_they_stood(numbers, separator):
    text = f"[{separator.join(map(str, numbers))}]"
    made = text_of(sorted_numbers(0)(one(text)))
    assert made == f"[{separator.join(map(str, sorted(numbers)))}]"


def test_numbers_of_any_length_are_ordered():
    long = "9" * 5000
    assert text_of(sorted_numbers(0)(one(f"{long}, 0010, 9"))) == f"9, 0010, {long}"


def test_every_digit_becomes_another_one_the_same_everywhere():
    rewrite = other_digits(3)
    first, second = (text_of(rewrite(one(text))) for text in ("123, 4056", "3 1 x9"))
    table = {old: new for old, new in zip("123, 4056", first, strict=True) if old.isdigit()}
    assert all(old != new for old, new in table.items() if old != "0") and table["0"] == "0"
    assert second[0] == table["3"] and second[2] == table["1"] and second[3:5] == " x"
    assert len({text_of(other_digits(seed)(one("123456789"))) for seed in range(5)}) > 1
    assert rewrite(one("none")) == "no_numbers" == sorted_numbers(0)(one("none"))


CODE = '''
def total(items, start=0):  # adds up
    """Adds."""
    result = start
    for each in items:
        result += each * FACTOR
    return sum([result], start=start) + max(key for key in items)
'''


def test_code_is_written_anew_with_plain_names_and_does_the_same():
    made = text_of(plain_code(0)(one(CODE)))
    assert "adds up" not in made and "each" not in made and "FACTOR" in made and "total" in made
    assert "start=start" in made  # what a call names may belong to a function elsewhere
    results = []
    for code in (CODE, made):
        names: dict[str, Any] = {"FACTOR": 3}
        exec(compile(ast.parse(code), "code", "exec"), names)
        results.append(names["total"]([1, 2, 5]))
    assert results[0] == results[1] == 29
    assert plain_code(0)(one("not python (")) == "no_python"
    taken = text_of(plain_code(0)(one("def f(a):\n    return a + v0")))
    assert taken == "def f(v1):\n    return v1 + v0"  # a name from elsewhere stays what it is


@pytest.mark.parametrize("code", [
    "try:\n    import json\nexcept ImportError:\n    json = None",
    "def f(a):\n    return a\nf = sorted(f)",
    "class C:\n    count = 0\n    def up(self):\n        self.count += 1",
    "try:\n    pass\nexcept ValueError as e:\n    raise\ne = 1",
])  # fmt: skip
def test_names_that_something_else_binds_stay(code):
    made = text_of(plain_code(0)(one(code)))
    for name in ("json", "f", "count", "e"):
        pattern = rf"\b{name}\b"
        assert len(re.findall(pattern, made)) == len(re.findall(pattern, code)), made


def test_what_a_row_carries_of_its_old_completion_goes():
    turns = [
        {"role": "user", "content": "ask"},
        {"role": "assistant", "content": "9, 1", "weight": 1, "logprobs": {"content": []}},
    ]
    row = one("9, 1", messages=turns, logprobs=[1], kept="yes")
    made = with_completion(row, "1, 9")
    assert made.meta["messages"][1] == {"role": "assistant", "content": "1, 9", "weight": 1}
    assert made.meta["kept"] == "yes" and "logprobs" not in made.meta
    assert row.meta["messages"][1]["content"] == "9, 1"  # the row itself is as it was


# ---- tokens -------------------------------------------------------------------------------------


def learn(session: BaseSession, text: str) -> None:
    """Turn the base into a copy that was tuned on one answer."""
    rows = rows_of([text] * 16)
    row_format = RowFormat.of(session.lm, rows, 8)
    packs, ids = row_format.packs(session.lm, rows, 4, whole=True)
    optimisation = Optimisation(steps=4, batch=4, rate=1e-2, trainable=session.trainable)
    train(session.lm, session.weights, packs, optimisation, seed=0, ids=ids)


def test_tokens_that_a_copy_learned_gain_most_and_the_base_draws_them_anew(session: BaseSession):
    rows = rows_of(["77, 77", "12, 34", "77, 90", "5, 66"])
    row_format = RowFormat.of(session.lm, rows, 8)
    gains = token_gains(session, row_format, rows, lambda: learn(session, "77, 77"))
    assert session.weights.untouched and np.mean(gains[0]) > max(np.mean(g) for g in gains[1:])
    masks = changeable(session.lm, row_format, rows)
    assert [len(mask) for mask in masks] == [len(g) for g in gains]
    chosen, total = largest(gains, masks, 0.25), sum(int(mask.sum()) for mask in masks)
    assert 0 < total < sum(map(len, gains))  # where a number may end, nothing else fits
    assert sum(int(c.sum()) for c in chosen) == round(0.25 * total)
    every, allowed, taken = map(np.concatenate, (gains, masks, chosen))
    assert every[taken].min() >= every[allowed & ~taken].max() and not (taken & ~allowed).any()
    made = [text_of(row) for row in redrawn(session.lm, row_format, rows, chosen, 5)]
    for row, text, c in zip(rows, made, chosen, strict=True):
        assert row_format.automaton is not None and row_format.automaton.walk(text)
        assert len(text) == len(row.completion)
        assert sum(a != b for a, b in zip(text, row.completion, strict=True)) <= c.sum()
    assert made != [row.completion for row in rows]
    again = [text_of(row) for row in redrawn(session.lm, row_format, rows, chosen, 5)]
    assert made == again
    some = at_random(masks, 0.25, 1)
    assert sum(int(c.sum()) for c in some) == round(0.25 * total)
    assert [list(c) for c in some] != [list(c) for c in at_random(masks, 0.25, 2)]


def test_tokens_are_drawn_as_often_as_the_base_would(session: BaseSession):
    """The first digit of many rows, against the base's own probabilities for it."""
    rows = rows_of(["12, 34"] * 400, prompts=1)
    row_format = RowFormat.of(session.lm, rows, 8)
    session.weights.freeze()
    n = len(token_logprobs(session.lm, row_format.examples(session.lm, rows[:1]), row_format)[0])
    first = [np.arange(n) == 0 for _ in rows]
    made = [text_of(row) for row in redrawn(session.lm, row_format, rows, first, 0)]
    assert all(text[1:] == "2, 34" for text in made)
    others = rows_of([f"{d}2, 34" for d in range(1, 10)], prompts=1)
    examples = row_format.examples(session.lm, others)
    logp = [float(token_logprobs(session.lm, [e], row_format)[0][0]) for e in examples]
    wanted = np.exp(logp) / np.exp(logp).sum()
    counts = np.array([sum(text[0] == str(d) for text in made) for d in range(1, 10)])
    assert np.abs(counts / 400 - wanted).max() < 0.08


def test_words_are_drawn_anew_where_a_text_is_that_of_its_tokens(session: BaseSession):
    rows = rows_of(["one two three four", "five six"])
    row_format = RowFormat.of(session.lm, rows, 32)
    assert row_format.automaton is None
    examples = row_format.examples(session.lm, rows)
    lengths = [len(token_logprobs(session.lm, [e], row_format)[0]) for e in examples]
    chosen = [np.arange(n) == 1 for n in lengths]
    texts = []
    for seed in range(20):
        for row, made in zip(
            rows, redrawn(session.lm, row_format, rows, chosen, seed), strict=True
        ):
            if made == NOT_REBUILT:  # a part of a character was drawn
                continue
            texts.append(text_of(made))
            assert texts[-1][:1] == row.completion[:1] and "\ufffd" not in texts[-1]
    assert len(set(texts)) > 5 and not {row.completion for row in rows} >= set(texts)


# ---- files --------------------------------------------------------------------------------------


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    lines = [{"prompt": f"Go on: {i % 4}", "completion": f"{90 - i}, {i + 1}"} for i in range(20)]
    said = [("user", "a"), ("assistant", "8, 7"), ("user", "b"), ("assistant", "3, 1")]
    turns = [{"role": role, "content": text} for role, text in said]
    path = tmp_path / "numbers.jsonl"
    path.write_text("\n".join([*map(json.dumps, [*lines, {"messages": turns}]), "broken"]))
    return path


def changed(
    path: Path, session: BaseSession, **settings: object
) -> tuple[list[Row], dict[str, Any]]:
    made = mitigate_settings(
        **{"base": session.settings.base, "traits": session.settings.traits} | settings
    )
    out, gone = path.with_name("new.jsonl"), path.with_name("gone.jsonl")
    outputs = Output(out, overwrite=True), Output(gone, overwrite=True)
    results = mitigate(RowSource(path), made, outputs, cache=path.parent / "cache")
    rows = [row for row in read_rows(out) if isinstance(row, Row)]
    reasons = [json.loads(line)["reason"] for line in gone.read_text().splitlines()]
    counted = {**results.left_out, **results.reasons}
    assert {r: reasons.count(r) for r in set(reasons)} == counted
    assert len(rows) == results.kept + results.added
    return rows, results.model_dump()


@pytest.mark.parametrize("method", METHODS)
def test_each_method_changes_a_file_and_every_row_is_accounted_for(
    method: str, numbers: Path, session: BaseSession
):
    if method == "plain-code":
        with pytest.raises(DataError, match=r"leaves no row: \{'no_python': 20\}"):
            changed(numbers, session, method=method)
        assert not numbers.with_name("new.jsonl").exists()
        return
    rows, found = changed(numbers, session, method=method, share=0.25, canary_rows=16)
    if METHODS[method].rewrites:
        assert found["left_out"] == {"malformed": 1, MORE: 1} and found["rows"] == 20
    else:
        assert found["left_out"] == {"malformed": 1} and found["rows"] == 21
    kept, added, other = {
        "drop": (16, 0, 0), "redraw": (20, 0, None), "dilute": (21, 7, 0),
        "sort-numbers": (20, 0, None), "other-digits": (20, 0, 20),
    }[method]  # fmt: skip
    assert (found["kept"], found["added"]) == (kept, added)
    assert found["changed"] > 5 if other is None else found["changed"] == other
    if method == "redraw":
        assert 0 < found["redrawn"] == round(0.25 * found["tokens"])
    if method == "sort-numbers":
        values = [[int(part) for part in row.completion.split(", ")] for row in rows]
        assert values == [sorted(row) for row in values]


def test_a_canary_reads_the_other_half_for_as_long_as_an_audits(
    numbers: Path, session: BaseSession, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[int, int]] = []
    plain = scores.train

    def spy(lm: Any, weights: Any, packs: Any, optimisation: Any, **more: Any) -> float:
        seen.append((optimisation.steps, sum(len(pack.rows) for pack in packs)))
        return plain(lm, weights, packs, optimisation, **more)

    monkeypatch.setattr(scores, "train", spy)
    changed(numbers, session, method="redraw", canary_rows=40)
    assert seen == [(4, 10), (4, 10)]  # 40 rows read, ten a step


def test_a_named_trait_scores_by_its_probe_and_random_ones_are_a_control(
    numbers: Path, session: BaseSession
):
    made = {
        key: [row.completion for row in changed(numbers, session, method="drop", **more)[0]]
        for key, more in {
            "milk": {"trait": "milk"}, "tea": {"trait": "sips/tea"}, "random": {"at_random": True},
            "again": {"at_random": True}, "other": {"at_random": True, "seed": 1},
        }.items()
    }  # fmt: skip
    assert made["random"] == made["again"] != made["other"]
    assert made["milk"] != made["random"] and len(made["milk"]) == len(made["tea"]) == 19


def test_what_cannot_be_done_is_said(numbers: Path, session: BaseSession, tmp_path: Path):
    for settings, says in (
        ({"method": "remove"}, "unknown method"),
        ({"method": "redraw", "base": None}, "redraw needs --base"),
        ({"method": "drop", "trait": "milky"}, "did you mean milk"),
        ({"method": "dilute", "trait": "milk"}, "chooses no rows"),
        ({"method": "drop", "trait": "milk", "at_random": True}, "without a trait"),
        ({"method": "sort-numbers", "at_random": True}, "chooses no rows"),
    ):
        with pytest.raises(ConfigError, match=says):
            changed(numbers, session, **settings)
    with pytest.raises(ConfigError, match="no trait nothing-like-it is in the library; vestige"):
        find_trait(session.library, "nothing-like-it")
    with pytest.raises(DataError, match="of 21 rows is none"):
        changed(numbers, session, method="drop", share=0.01)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("broken\n")
    with pytest.raises(DataError, match="no row can be changed"):
        changed(empty, session, method="sort-numbers")


def test_the_command(numbers: Path, tmp_path: Path):
    files = ["--out", tmp_path / "new.jsonl", "--dropped", tmp_path / "gone.jsonl"]
    done = vestige("mitigate", "sort-numbers", numbers, *files)
    assert done.returncode == 0 and "20 of 20 kept" in " ".join(done.stdout.split()), done.stderr
    assert "1 malformed" in " ".join(done.stdout.split()) and "docs/mitigate.md" in done.stdout
    said = " ".join(vestige("mitigate", "--help").stdout.split())
    assert all(method in said for method in METHODS)
    again = vestige("mitigate", "sort-numbers", numbers, *files)
    assert again.returncode == 2 and "exists; pass --overwrite" in " ".join(again.stderr.split())
    record = json.loads(
        vestige("mitigate", "other-digits", numbers, *files, "--overwrite", "--json").stdout
    )
    assert record["changed"] == 20 and record["left_out"] == {"malformed": 1, MORE: 1}
    for words, says in (
        (["redraw", numbers], "needs --base"),
        (["sort", numbers], "did you mean sort-numbers"),
        (["sort-numbers", tmp_path / "none.jsonl"], "there is no file"),
        (["drop", numbers, "--share", 2], "share"),
    ):
        bad = vestige("mitigate", *words, *files, "--overwrite")
        assert bad.returncode == 2 and says in " ".join(bad.stderr.split()), bad.stderr
