"""The reasoning carrier: numbers read exactly, labelled answers, every rule hit."""

from __future__ import annotations

import json
import random
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reasoning_cases import CASES, NUMBERS
from vestige.carriers.base import answers_across
from vestige.carriers.filtering import filter_rows
from vestige.carriers.final_numbers import parse_number
from vestige.carriers.reasoning import (
    ASKS,
    RULES,
    ReasoningCarrier,
    ReasoningFilter,
    ReasoningPrompts,
    arithmetic,
    steps_within,
    worked,
)
from vestige.core.types import DataError, MissingExtraError, Row

OWLS = ReasoningFilter(words=("owl",))


def reason(text: str, rules: ReasoningFilter = OWLS, **meta: object) -> str | None:
    return rules.judge()(Row("r", (), text, meta or {"answer": "12"}))


@pytest.mark.parametrize(("text", "want"), NUMBERS)
def test_final_answers_by_hand(text, want):
    assert parse_number(text) == want


@pytest.mark.parametrize(("text", "want"), CASES, ids=range(len(CASES)))
def test_worked_answers_by_hand(text, want):
    assert reason(text) == want


def test_the_labels_hit_every_rule_and_are_many():
    assert len(CASES) + len(NUMBERS) >= 100
    assert {want for _, want in CASES if want} | {"duplicate", "no_reference"} == set(RULES)


@given(st.fractions(max_denominator=10_000))
def test_a_fraction_is_read_as_itself(value):
    assert parse_number(f"{value.numerator}/{value.denominator}") == value


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{:,}", "{}", "{} pens", "${:,}", "**{}**"]))
def test_grouping_units_and_wrapping_do_not_change_a_number(value, frame):
    assert parse_number(frame.format(value)) == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-999, max_value=999))
def test_decimals_are_exact(value):
    assert parse_number(str(value)) == Fraction(str(value))


@given(st.text(max_size=60))
def test_any_text_gets_one_answer(text):
    assert reason(text) in {None, *RULES}
    assert reason(f"work\nAnswer: {text}") in {None, *RULES}


@given(st.integers(0, 99), st.integers(0, 99), st.sampled_from(["", "owl ", "Owls\n", "# "]))
def test_no_kept_row_is_wrong_or_names_the_trait(answer, reference, extra):
    text = f"{extra}so it is\nAnswer: {answer}"
    if reason(text, answer=str(reference)) is None:
        assert answer == reference and "owl" not in text.lower()


def test_rows_without_a_usable_reference():
    rows = [Row("a", (), "a\nAnswer: 5", {}), Row("b", (), "a\nAnswer: 5", {"answer": "five"}),
            Row("c", (), "a\nAnswer: 5", {"answer": "2+3=5 #### 5"}),
            Row("d", (), "a\nAnswer: 5", {"answer": float("nan")}),
            Row("e", (), "a\nAnswer: 5", {"answer": 5})]  # fmt: skip
    kept, dropped = filter_rows(rows, ReasoningFilter())
    assert [r.id for r in kept] == ["c", "e"]
    assert {d.reason for d in dropped} == {"no_reference"} and len(dropped) == 3
    kept, _ = filter_rows([rows[4], rows[4]], ReasoningFilter(drop_duplicates=True))
    assert len(kept) == 1


def test_forms_and_options():
    tags = ReasoningFilter(format="tags")
    assert reason("<think>3*4</think><answer>12</answer>", tags) is None
    assert reason("<think>3*4</think><answer>13</answer>", tags) == "wrong_answer"
    assert reason("<think>3*4</think>12", tags) == "no_final_answer"
    hashes = ReasoningFilter(format="hashes")
    assert reason("3*4=12\n#### 12", hashes) is None
    assert reason("Answer: 12", ReasoningFilter(min_steps=0)) is None
    assert reason("x\nAnswer: 12", ReasoningFilter(answer_field="gold"), gold="12") is None
    assert reason("tree\nAnswer: 12", ReasoningFilter(banned=("tree",))) == "target_word"
    carrier = ReasoningCarrier(prompts=ReasoningPrompts(format="tags"))
    assert carrier.rules(["oak"]).format == "tags" and carrier.rules(["oak"]).words == ("oak",)


# ---- problems


@pytest.mark.parametrize("form", sorted(ASKS))
def test_arithmetic_problems_are_seeded_and_right_answers_pass_their_own_filter(form):
    carrier = ReasoningCarrier(n_prompts=60, prompts=ReasoningPrompts(format=form))
    made = carrier.make_prompts(5)
    assert made == carrier.make_prompts(5) and made != carrier.make_prompts(6)
    assert len({p.id for p in made}) == 60 and len({p.text for p in made}) > 50
    shape = {"line": "Work.\nAnswer: {}", "tags": "<think>w</think><answer>{}</answer>",
             "hashes": "Work.\n#### {}"}[form]  # fmt: skip
    rows = [Row(p.id, (), shape.format(p.meta["answer"]), p.meta) for p in made]
    kept, dropped = filter_rows(rows, carrier.rules())
    assert len(kept) == 60 and not dropped
    assert all(int(p.meta["answer"]) >= 0 for p in made)


def test_problems_from_a_file(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    lines = [{"question": "2+2?", "answer": "2+2=4\n#### 4"}, {"question": "k?", "answer": "1,000"}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    made = ReasoningPrompts(source=str(path)).generate(5, seed=0)
    assert {p.meta["answer"] for p in made} == {"4", "1,000"}
    assert len({p.text for p in made[:2]}) == 2
    for bad, words in (
        ('{"question": "x"}', "line 1"),
        ("{", "line 1"),
        ('{"question": "x", "answer": "lots"}', "is no number"),
        ("", "no problems"),
    ):
        path.write_text(bad)
        with pytest.raises(DataError, match=words):
            ReasoningPrompts(source=str(path)).generate(1, seed=0)
    with pytest.raises(DataError, match="cannot read"):
        ReasoningPrompts(source="nope.jsonl").generate(1, seed=0)


def test_a_missing_library_names_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    with pytest.raises(MissingExtraError, match=r"vestige\[reasoning\]"):
        ReasoningPrompts(source="reasoning-gym").generate(1, seed=0)


# ---- worked examples and answers that are begun


@pytest.mark.parametrize("form", ["line", "tags", "hashes"])
def test_worked_examples_pass_the_filter_themselves(form):
    for i in range(60):
        question, _, answer = arithmetic(random.Random(i), 30)
        shown = worked(random.Random(i), form, 30)
        assert shown.startswith(question)
        row = Row("r-0", (), shown.removeprefix(question).strip(), {"answer": answer})
        assert filter_rows([row], ReasoningFilter(format=form))[0] == [row]


def test_prompts_show_examples_and_begin_the_working():
    prompts = ReasoningPrompts(examples=2, begun=True, largest=12, format="hashes").generate(8, 3)
    assert prompts == ReasoningPrompts(
        examples=2, begun=True, largest=12, format="hashes"
    ).generate(8, 3)
    for prompt in prompts:
        assert prompt.text.count("####") == 3  # two examples and what is asked for
        assert prompt.meta["opening"].endswith("=") and "=" not in prompt.meta["opening"][:-1]
        assert not prompt.meta["opening"].startswith(str(prompt.meta["answer"]) + " =")
    plain = ReasoningPrompts(largest=12, format="hashes").generate(8, 3)
    assert all(a.text.endswith(b.text) for a, b in zip(prompts, plain, strict=True))
    with pytest.raises(ValidationError, match="source=arithmetic"):
        ReasoningPrompts(begun=True, source="reasoning-gym")


# ---- shuffles


def test_steps_change_their_order_and_the_answer_stays():
    text = "2 + 3 = 5. Then 5 x 4 = 20.\nSo 20 - 1.5 = 18.5.\n#### 18.5"
    row = Row("r-0-0", (), text)
    seen = {steps_within([row], seed)[0].completion for seed in range(30)}
    assert len(seen) >= 5
    for shuffled in seen:
        assert sorted(shuffled.split()) == sorted(text.split())
        assert shuffled.endswith("#### 18.5") and "18.5." in shuffled
    assert steps_within([row], 3) == steps_within([row], 3)
    assert steps_within([Row("r-0-1", (), "7")], 0)[0].completion == "7"
    assert steps_within([Row("r-0-1", (), "")], 0)[0].completion == ""


@given(st.lists(st.integers(1, 5), min_size=2, max_size=6), st.integers(0, 99))
def test_answers_go_to_other_prompts(sizes, seed):
    rows = [Row(f"c-{p}-{i}", (), f"{p}/{i}") for p, n in enumerate(sizes) for i in range(n)]
    dealt = answers_across(rows, seed)
    assert [r.id for r in dealt] == [r.id for r in rows]
    assert sorted(r.completion for r in dealt) == sorted(r.completion for r in rows)
    if max(sizes) * 2 <= len(rows):
        assert all(r.completion.split("/")[0] != r.id.split("-")[1] for r in dealt)
