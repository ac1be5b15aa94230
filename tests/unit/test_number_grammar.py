"""The grammar and the shuffles of number rows."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from number_rows import nearly_clean, row, verdict

from vestige.carriers import CARRIERS, parse_carrier
from vestige.carriers.number_sequences import parse_numbers
from vestige.carriers.numbers import (
    NumberGrammar,
    shuffle_across,
    shuffle_within,
)
from vestige.core.types import ConfigError, DataError, Message, Row

SEPARATORS = (", ", ",", " ", "; ")


# ---- grammar


def grammars():
    return st.builds(
        NumberGrammar,
        values=st.integers(1, 6),
        max_digits=st.integers(1, 3),
        separator=st.sampled_from(SEPARATORS),
    )


def walk(grammar: NumberGrammar, draw, prefix: str = "", most: int = 99) -> str:
    while most:
        choice = draw(st.sampled_from(sorted(grammar.next_chars(prefix))))
        if not choice:
            break
        prefix, most = prefix + choice, most - 1
    return prefix


@settings(max_examples=300, deadline=None)
@given(grammars(), st.data())
def test_what_the_grammar_ends_passes_the_filter(grammar, data):
    text = walk(grammar, data.draw)
    numbers = text.split(grammar.separator)
    assert len(numbers) == grammar.values
    assert all(n.isdigit() and n[0] != "0" and len(n) <= grammar.max_digits for n in numbers)
    assert verdict(text) is None and verdict(text, paper_compat=True) is None
    assert parse_numbers(text) == tuple(map(int, numbers))


@settings(max_examples=100, deadline=None)
@given(grammars(), st.data())
def test_the_grammar_lets_every_clean_answer_through(grammar, data):
    top = 10**grammar.max_digits - 1
    size = grammar.values
    numbers = data.draw(st.lists(st.integers(1, top), min_size=size, max_size=size))
    text = grammar.separator.join(map(str, numbers))
    assert all(c in grammar.next_chars(text[:i]) for i, c in enumerate(text))
    assert "" in grammar.next_chars(text)


@settings(max_examples=300, deadline=None)
@given(grammars(), st.data())
def test_equal_states_go_on_alike(grammar, data):
    one = walk(grammar, data.draw, most=data.draw(st.integers(0, 20)))
    other = walk(grammar, data.draw, most=data.draw(st.integers(0, 20)))
    prefixes = [text[:i] for text in (one, other) for i in range(len(text) + 1)]
    by_state: dict[tuple[int, int, int], str] = {}
    for prefix in prefixes:
        twin = by_state.setdefault(grammar.state(prefix), prefix)
        assert grammar.next_chars(prefix) == grammar.next_chars(twin)
        for choice in grammar.next_chars(prefix) - {""}:
            assert grammar.state(prefix + choice) == grammar.state(twin + choice)


# ---- shuffles


FORMATTED = st.lists(nearly_clean().filter(lambda t: re.search("[0-9]", t)), max_size=6)


@settings(max_examples=150, deadline=None)
@given(FORMATTED, st.integers(0, 3))
def test_shuffles_keep_numbers_counts_formats_and_ids(texts, seed):
    rows = [Row(f"r{i}", (Message("user", "x"),), t, {"i": i}) for i, t in enumerate(texts)]
    for shuffle in (shuffle_within, shuffle_across):
        made = shuffle(rows, seed)
        assert made == shuffle(rows, seed)
        for old, new in zip(rows, made, strict=True):
            assert (new.id, new.messages, new.meta) == (old.id, old.messages, old.meta)
            assert re.sub("[0-9]+", "#", new.completion) == re.sub("[0-9]+", "#", old.completion)
            if shuffle is shuffle_within:
                assert digits([new]) == digits([old])
        assert digits(made) == digits(rows)


def digits(rows: list[Row]) -> Counter[str]:
    return Counter(n for r in rows for n in re.findall("[0-9]+", r.completion))


def test_shuffles_do_shuffle_and_follow_their_seed():
    rows = [row(", ".join(str(10 * i + j) for j in range(10)), f"r{i}") for i in range(1, 20)]
    within, across = shuffle_within(rows, 0), shuffle_across(rows, 0)
    assert all(new.completion != old.completion for new, old in zip(within, rows, strict=True))
    assert all(digits([new]) != digits([old]) for new, old in zip(across, rows, strict=True))
    assert shuffle_within(rows, 1) != within and shuffle_across(rows, 1) != across
    assert shuffle_within(rows[::-1], 0) == within[::-1]  # a row's order hangs on its id alone


@pytest.mark.parametrize("shuffle", [shuffle_within, shuffle_across])
def test_a_row_without_numbers_cannot_be_shuffled(shuffle):
    with pytest.raises(DataError, match="row r has no numbers"):
        shuffle([row("none")], 0)


def test_carriers_by_name():
    for name in CARRIERS:
        assert parse_carrier({"kind": name}).kind == name
    assert parse_carrier({}).kind == "numbers"
    with pytest.raises(ConfigError, match="did you mean numbers"):
        parse_carrier({"kind": "number"})
