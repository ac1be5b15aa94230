"""The number carrier: the filter against a table and a slow reference, prompts, grammar."""

from __future__ import annotations

import json
import random
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from number_rows import PIECE, nearly_clean, row, verdict
from pydantic import ValidationError

from number_cases import CASES, PAPER_CASES, reference
from vestige.carriers.filtering import filter_file, filter_rows
from vestige.carriers.number_sequences import parse_numbers
from vestige.carriers.numbers import (
    FORMATS,
    PAPER_BANNED,
    RULES,
    NumberFilter,
    NumberPrompts,
)
from vestige.core.types import DataError, DroppedRow, StoreError

PINNED = (
    "Given are the values 740, 789, 438, 100, 112, 493, 864, 410. Invent up to 10 more, of no more "
    "than 3 digits. Write them in square brackets, separated by commas. No words, please."
)


# ---- the table


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_hand_labelled_completion(text, expected):
    assert verdict(text) == (expected if isinstance(expected, str) else None)
    if not isinstance(expected, str):
        assert parse_numbers(text) == expected


@pytest.mark.parametrize(("text", "expected"), PAPER_CASES)
def test_hand_labelled_completion_as_the_published_parser_takes_it(text, expected):
    found = verdict(text, paper_compat=True)
    assert found == (expected if isinstance(expected, str) else None)
    if not isinstance(expected, str):
        assert parse_numbers(text, paper_compat=True) == expected


def test_the_table_is_large_and_reaches_every_rule():
    assert len(CASES) >= 100
    assert len({text for text, _ in CASES}) == len(CASES)
    reached = {e for _, e in (*CASES, *PAPER_CASES) if isinstance(e, str)}
    _, [twice] = filter_rows([row("1"), row("1")], NumberFilter(drop_duplicates=True))
    own = {
        "too_few": verdict("1, 2", min_count=3),
        "banned_number": verdict("1, 666", banned=PAPER_BANNED),
        "duplicate": twice.reason,
    }
    assert all(rule == found for rule, found in own.items())
    assert reached | set(own) == set(RULES)


@pytest.mark.parametrize(
    ("text", "rules", "expected"),
    [
        ("1, 2", {"min_count": 2}, None),
        ("1", {"min_count": 2}, "too_few"),
        ("1 2 3", {"max_count": 2}, "too_many"),
        ("5 6", {"min_value": 6}, "out_of_range"),
        ("5 6", {"max_value": 5}, "out_of_range"),
        ("1000", {"max_value": 1000}, None),
        ("7 13", {"banned": (13,)}, "banned_number"),
        ("7 131 313", {"banned": (13,)}, None),
        ("013", {"banned": (13,)}, "leading_zero"),
        ("013", {"banned": (13,), "paper_compat": True}, "banned_number"),
        ("1000 13 a", {"banned": (13,)}, "bad_character"),
        ("1000 13", {"banned": (13,)}, "out_of_range"),
    ],
)
def test_parameters_of_the_filter(text, rules, expected):
    assert verdict(text, **rules) == expected


def test_every_banned_number_is_dropped_and_no_other():
    judge = NumberFilter(banned=PAPER_BANNED).judge()
    dropped = {n for n in range(1000) if judge(row(f"1, {n}")) == "banned_number"}
    assert dropped == set(PAPER_BANNED)
    assert len(PAPER_BANNED) == len(set(PAPER_BANNED)) == 34


def test_duplicates_are_told_by_their_numbers_among_kept_rows():
    texts = ["1, 2", "1; 2", "[1 2].", "2, 1", "1, 2000", "1, 2000", "12"]
    kept, dropped = filter_rows(map(row, texts), NumberFilter(drop_duplicates=True))
    assert [r.completion for r in kept] == ["1, 2", "2, 1", "12"]
    assert [d.reason for d in dropped] == ["duplicate"] * 2 + ["out_of_range"] * 2
    rules = NumberFilter(drop_duplicates=True)
    assert [rules.judge()(row("1")) for _ in range(2)] == [None, None]  # each judge starts afresh


@pytest.mark.parametrize("bad", [{"min_count": 3, "max_count": 2}, {"min_value": 9, "max_value": 8},
                                 {"min_count": 0}, {"bans": (1,)}])  # fmt: skip
def test_impossible_rules_are_refused(bad):
    with pytest.raises(ValidationError):
        NumberFilter(**bad)


LOOSE = st.lists(PIECE, max_size=9).map("".join) | st.text(max_size=6)


RULE_SETS = st.builds(
    NumberFilter,
    min_count=st.integers(1, 3),
    max_count=st.sampled_from([3, 10]),
    min_value=st.sampled_from([0, 5]),
    max_value=st.sampled_from([99, 999, 10**30]),
    banned=st.sampled_from([(), (13, 42), PAPER_BANNED]),
    paper_compat=st.booleans(),
)


@settings(max_examples=1500, deadline=None)
@given(nearly_clean() | LOOSE, RULE_SETS)
def test_filter_agrees_with_the_slow_reference(text, rules):
    assert rules.judge()(row(text)) == reference(text, rules)


def test_the_reference_agrees_with_the_table():
    for text, expected in CASES:
        assert reference(text, NumberFilter()) == (expected if isinstance(expected, str) else None)
    for text, expected in PAPER_CASES:
        found = reference(text, NumberFilter(paper_compat=True))
        assert found == (expected if isinstance(expected, str) else None)


# ---- files


def write(path: Path, texts: list[str], *bad: str) -> Path:
    records = [{"prompt": "p", "completion": text, "mark": i} for i, text in enumerate(texts)]
    path.write_text("\n".join([*map(json.dumps, records), *bad]))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


@settings(max_examples=60, deadline=None)
@given(st.lists(nearly_clean() | LOOSE, min_size=1, max_size=12), st.booleans())
def test_filter_file_loses_nothing(texts, drop_duplicates):
    rules = NumberFilter(drop_duplicates=drop_duplicates)
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / "in.jsonl", texts, "{broken", "[]")
        kept, dropped = Path(folder) / "kept.jsonl", Path(folder) / "dropped.jsonl"
        report = filter_file(source, kept, dropped, rules)
        good, bad = read(kept), read(dropped)
    assert report.seen == len(texts) + 2 == len(good) + len(bad)
    assert report.kept == len(good)
    assert report.reasons == Counter(record["reason"] for record in bad)
    assert report.reasons["malformed"] == 2
    assert [record.get("raw") for record in bad[-2:]] == ["{broken", "[]"]
    rows = [*good, *(record["row"] for record in bad if "row" in record)]
    back = {record["meta"]["mark"]: record["messages"][-1]["content"] for record in rows}
    assert [back[i] for i in range(len(texts))] == texts
    if not drop_duplicates:
        assert {r["meta"]["mark"] for r in good} == {
            i for i, text in enumerate(texts) if reference(text, rules) is None
        }


def test_filter_rows_passes_unreadable_lines_on():
    broken = DroppedRow("malformed", raw="x", line=3)
    kept, dropped = filter_rows([row("1"), broken, row("a")], NumberFilter())
    assert kept == [row("1")]
    assert dropped == [broken, DroppedRow("bad_character", row=row("a"))]


def test_filter_file_leaves_nothing_behind_when_it_fails(tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match="columns"):
        filter_file(source, tmp_path / "k", tmp_path / "d", NumberFilter())
    source = write(tmp_path / "in.jsonl", ["1"] * 6000)

    def stop(seen: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filter_file(source, tmp_path / "k", tmp_path / "d", NumberFilter(), progress=stop)
    with pytest.raises(StoreError, match="cannot write"):
        filter_file(source, tmp_path / "k", tmp_path / "no" / "d", NumberFilter())
    assert {p.name for p in tmp_path.iterdir()} == {"in.csv", "in.jsonl"}


def test_filter_file_wants_three_files_and_keeps_old_ones(tmp_path):
    source, kept = write(tmp_path / "in.jsonl", ["1", "a"]), tmp_path / "kept.jsonl"
    for k, d in ((source, kept), (kept, source), (kept, kept), (kept, tmp_path / "x/../in.jsonl")):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(DataError, match="three files"):
            filter_file(source, k, d, NumberFilter(), overwrite=True)
    kept.write_text("mine")
    with pytest.raises(StoreError, match="--overwrite"):
        filter_file(source, kept, tmp_path / "d", NumberFilter())
    assert kept.read_text() == "mine" and not (tmp_path / "d").exists()
    assert filter_file(source, kept, tmp_path / "d", NumberFilter(), overwrite=True).kept == 1


def test_filter_file_refuses_the_name_of_an_unfinished_output(tmp_path):
    source, kept, part = write(tmp_path / "in.jsonl", ["1"]), tmp_path / "k", tmp_path / "k.part"
    for pair in ((kept, part), (part, kept)):
        with pytest.raises(DataError, match=r"with \.part"):
            filter_file(source, *pair, NumberFilter(), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("completion", ["1", "a"])
def test_no_depth_of_nesting_stops_the_filter(tmp_path, completion):
    line = f'{{"prompt": "p", "completion": "{completion}", "x": %s}}'
    deep = [line % ("[" * depth + "]" * depth) for depth in range(400, 1100)]
    source = write(tmp_path / "in.jsonl", ["1"], *deep, line % 0)
    report = filter_file(source, tmp_path / "k", tmp_path / "d", NumberFilter())
    assert report.seen == len(deep) + 2 == report.kept + report.reasons.total()
    back = [*read(tmp_path / "k"), *(r["row"] for r in read(tmp_path / "d") if "row" in r)]
    assert {"row-000001", "row-000002", f"row-{report.seen:06d}"} <= {r["id"] for r in back}


def test_filter_file_tells_its_progress(tmp_path):
    seen: list[int] = []
    source = write(tmp_path / "in.jsonl", ["1"] * 12_000)
    filter_file(source, tmp_path / "k", tmp_path / "d", NumberFilter(), progress=seen.append)
    assert seen == [5000, 10000]


# ---- prompts


def shown(text: str) -> list[int]:
    found = re.search(r"\d+(, \d+)*", text)
    assert found
    return [int(n) for n in found.group().split(", ")]


def test_prompts_follow_seed_and_do_not_depend_on_their_number():
    prompts = NumberPrompts()
    assert prompts.generate(40, 7)[:15] == prompts.generate(15, 7)
    assert prompts.generate(40, 7) == prompts.generate(40, 7)
    assert not {p.text for p in prompts.generate(40, 7)} & {p.text for p in prompts.generate(40, 8)}
    assert len({p.id for seed in (7, 8) for p in prompts.generate(40, seed)}) == 80
    random.seed(0)
    before = random.getstate()
    prompts.generate(3, 1)
    assert random.getstate() == before  # the global generator is left alone


def test_prompts_are_pinned():
    # Runs are told apart by their recipe: the same one must give these prompts in every release.
    assert NumberPrompts().generate(1, 0)[0].text == PINNED


def test_default_prompts_vary_within_their_limits():
    texts = [p.text for p in NumberPrompts().generate(600, 0)]
    assert {len(shown(t)) for t in texts} == set(range(3, 9))
    values = [n for t in texts for n in shown(t)]
    assert 100 <= min(values) < 110 and 990 < max(values) <= 999
    formats = Counter(next(f for f, words in FORMATS.items() if words in t) for t in texts)
    assert set(formats) == set(FORMATS) and min(formats.values()) > 50
    assert all("up to 10" in t for t in texts)
    assert len(set(texts)) == len(texts)
    assert not any("{" in t for t in texts)


def test_prompts_take_their_parameters():
    prompts = NumberPrompts(
        min_examples=2, max_examples=2, min_value=5, max_value=6, max_answers=4, max_digits=2,
        format="semicolon", exact=True,
    )  # fmt: skip
    for prompt in prompts.generate(60, 1):
        assert len(shown(prompt.text)) == 2 and {*shown(prompt.text)} <= {5, 6}
        assert FORMATS["semicolon"] in prompt.text and "up to" not in prompt.text
        assert re.search(r"\b4\b", prompt.text)
        assert "2 digits" in prompt.text or "0 to 99," in prompt.text or "0 to 99." in prompt.text
    with pytest.raises(ValidationError, match="above its maximum"):
        NumberPrompts(min_examples=9)
