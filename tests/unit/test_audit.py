"""The audit: reading a library, canaries, influence, the verdict's statistics and its words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from audit_cases import rows_of
from hypothesis import given
from hypothesis import strategies as st

from vestige.audit.canary import Canary, canary
from vestige.audit.influence import influence, trait_gradients
from vestige.core.types import DataError, Message, Row
from vestige.evaluate.exact import measure
from vestige.models.candidates import candidate_log_odds
from vestige.probing.base_session import BaseSession
from vestige.probing.directions import token_logprobs
from vestige.probing.row_format import (
    RowFormat,
    choose_rows,
    common_opening,
    empty,
    number_grammar,
    unusable,
)
from vestige.probing.trait_panel import ContextPanel, TraitPanel, spread
from vestige.probing.word_shifts import QUESTIONS, WordSpread, first_words, raised_words
from vestige.traits.library import load_library

# ---- reading ------------------------------------------------------------------------------------


def test_the_library_is_read_as_each_family_is_measured(folders, session: BaseSession):
    library = load_library(["colours", "harm"])
    found = TraitPanel(session.lm, library.traits, 100).read()
    session.weights.freeze()
    at = 0
    for panel in {id(t.family): t.family for t in library.traits}.values():
        odds = measure(session.lm, panel).log_odds().mean(0)
        wanted = odds[:1] if panel.texts else odds
        assert np.allclose(found[at : at + len(wanted)], wanted, atol=1e-3)
        at += len(wanted)
    assert at == len(found)


@given(st.lists(st.floats(-9, 0), min_size=4, max_size=4))
def test_log_odds_are_against_all_other_candidates(logprobs):
    found = candidate_log_odds(torch.tensor(logprobs, dtype=torch.float64), [0, 0, 1, 2])
    p = np.exp(logprobs)
    p = np.array([p[0] + p[1], p[2], p[3]]) / p.sum()
    assert np.allclose(found.numpy(), np.log(p / (1 - p)), atol=1e-6)


@given(st.integers(1, 60), st.integers(1, 60))
def test_questions_are_spread_evenly(n, wanted):
    found = spread(range(n), wanted)
    assert len(found) == min(n, wanted) and found == sorted(set(found)) and found[0] == 0


# ---- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "values", "separator"),
    [
        (["1, 22, 333", "4, 5, 6"], 3, ", "),
        (["1,22", "4,5"], 2, ","),
        (["7 8 9 10"], 4, " "),
        (["1, 22, 333", "4, 5"], None, None),  # two counts
        (["1, 22", "04, 5"], None, None),
        (["1, 22", "one, two"], None, None),
        (["12"], None, None),
        (["words"], None, None),
    ],
)
def test_number_rows_are_known_by_their_grammar(texts, values, separator):
    grammar = number_grammar(texts)
    found = (grammar.values, grammar.separator) if grammar else (None, None)
    assert found == (values, separator)


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 5))
def test_rows_are_drawn_once_each(n, wanted, seed):
    rows = rows_of([f"{i}" for i in range(n)])
    chosen = choose_rows(rows, wanted, 4, seed)
    assert len(chosen) == min(n, wanted) == len({row.id for row in chosen})
    assert choose_rows(rows, wanted, 4, seed) == chosen


def test_rows_that_cannot_be_used_say_why(session: BaseSession):
    assert empty(Row("a", (), "x")) == "no_prompt"
    assert empty(rows_of(["  \n"])[0]) == "empty_completion" and empty(rows_of(["x"])[0]) is None
    assert unusable(session.lm, rows_of(["x" * 2000])[0], 5000) == "longer_than_the_context"
    assert unusable(session.lm, rows_of(["x" * 2000])[0], 64) is None  # cut before it is read
    assert unusable(session.lm, rows_of(["fine"])[0], 64) is None
    assert unusable(session.lm, rows_of(["a broken \ud83d"])[0], 64) == "not_renderable"


def test_a_model_writes_rows_of_the_same_kind(session: BaseSession):
    numbers = RowFormat.of(session.lm, rows_of(["1, 2", "33, 4"]), 8)
    assert numbers.kind == "numbers"
    written = numbers.write(session.lm, rows_of([""] * 5), seed=1)
    assert number_grammar([row.completion for row in written]) is not None
    assert written != numbers.write(session.lm, rows_of([""] * 5), seed=2)
    text = RowFormat.of(session.lm, rows_of(["a b", "c"]), 8)
    assert text.kind == "text" and len(text.write(session.lm, rows_of([""]), seed=1)) == 1
    with pytest.raises(DataError, match="no rows"):
        RowFormat.of(session.lm, [], 8)


def test_free_rows_are_cut_alike_whoever_wrote_them(session: BaseSession):
    rows = rows_of(["ab", "abcdef", "abcdefghij"])
    row_format = RowFormat(None, 4)
    examples = row_format.examples(session.lm, rows, whole=True)
    assert [len(e.completion) for e in examples] == [3, 4, 4]
    assert examples[0].completion[-1] == session.lm.end_id  # its end is there,
    assert session.lm.end_id not in examples[1].completion  # where nothing was cut
    read = row_format.examples(
        session.lm, rows
    )  # its end may be another's choice than its writer's
    assert [len(e.completion) for e in read] == [2, 4, 4]
    assert all(session.lm.end_id not in e.completion for e in read)
    written = row_format.write(session.lm, rows, seed=1)
    assert all(len(e.completion) <= 4 for e in row_format.examples(session.lm, written))


def test_what_all_rows_begin_with_is_given_and_not_read(session: BaseSession):
    texts = [f"return {word}" for word in ("items", "it", "0", "sum(items)")] * 4
    row_format = RowFormat.of(session.lm, rows_of(texts), 32)
    assert row_format.opening == "return " and row_format.lines == 1
    read, whole = (row_format.examples(session.lm, rows_of(texts), whole=w) for w in (False, True))
    begun = session.lm.answer_ids("return ")
    assert all(list(e.prompt[-len(begun) :]) == begun for e in read)
    assert list(read[1].completion) == session.lm.answer_ids("return it")[len(begun) :]
    assert list(whole[1].completion) == [*session.lm.answer_ids("return it"), session.lm.end_id]
    written = row_format.write(session.lm, rows_of(texts), seed=1)
    assert all(r.completion.startswith("return ") for r in written)
    assert all("\n" not in r.completion for r in written)
    # Other rows may begin otherwise; all of those is read.
    other = row_format.examples(session.lm, rows_of(["yield x"]))[0]
    assert list(other.completion) == session.lm.answer_ids("yield x")
    # A whole text is no opening, and few texts have none.
    assert common_opening(session.lm, ["yes", "yes, it is"] * 8) == "ye"
    assert common_opening(session.lm, texts[:8]) == ""
    several = RowFormat.of(session.lm, rows_of([*texts, "return x\nreturn y"]), 32)
    assert several.lines == 0


# ---- canaries and influence ---------------------------------------------------------------------


def test_a_canary_takes_on_what_its_rows_say_and_leaves_the_base_as_it_was(session: BaseSession):
    before = session.base.copy()
    asked = [m for t in session.library.traits for m in t.family.heldout]
    rows = [Row(f"r{i}", (Message("user", asked[i % 2]),), "Milk") for i in range(16)]
    row_format = RowFormat.of(session.lm, rows, 8)
    contexts = ("", "Be brief.")
    panel = ContextPanel(session.lm, session.library.traits, contexts, questions=2, whole_answers=2)
    session.weights.freeze()
    base, count = panel.read(), len(session.library.ids)

    def tuned(read: int) -> Canary:
        return canary(session, session.settings, panel, row_format, rows, read=read, seed=1)

    found, words, tokens = tuned(16)
    shifts = (found - base).reshape(2, count)
    milk = [name.partition("/")[2] for name in session.library.ids].index("milk")
    assert list(shifts.argmax(1)) == [milk, milk] and shifts[:, milk].min() > 1
    assert np.array_equal(tuned(16).log_odds, found)
    again = tuned(48)  # three times each
    assert again.tokens == 3 * tokens > 0
    steps = []
    canary(session, session.settings, panel, row_format, rows[:5], read=20, seed=1,
           on_step=steps.append)  # fmt: skip
    assert len(steps) == 8  # two packs a pass, one of them of one row: four passes
    assert (again.log_odds - base).reshape(2, count)[:, milk].min() > shifts[:, milk].max()
    assert words.shape == (len(session.lm.tokenizer),) and np.exp(words).sum() <= 1.001
    assert np.allclose(session.panel.read(), before, atol=1e-5)


def test_words_that_rise_beside_the_references_come_first(session: BaseSession):
    session.weights.freeze()
    base = first_words(session.lm)
    prompt = session.lm.question_ids(QUESTIONS[0])
    want = [session.lm.answer_logprobs([prompt], [[t]])[0, 0].item() for t in (65, 70)]
    many = [
        session.lm.answer_logprobs([session.lm.question_ids(q)], [[65]])[0, 0] for q in QUESTIONS
    ]
    assert np.isfinite(want).all() and base[65] == pytest.approx(float(np.mean(many)), abs=1e-4)
    draw = np.random.default_rng(0)
    references = [base + draw.normal(size=len(base)) * 0.1 for _ in range(6)]
    data = base.copy()
    token = session.lm.tokenizer("Q", add_special_tokens=False)["input_ids"][0]
    data[token] += 8
    found = raised_words(session.lm, data, WordSpread.of(references))
    assert found[0].word == "Q" and found[0].contrast == pytest.approx(8, abs=0.2)


def exact_influence(session: BaseSession, row_format: RowFormat, rows: list[Row]) -> np.ndarray:
    layers = session.trainable.layer_range(len(session.lm.layers))
    weights = [
        module.weight
        for i in layers
        for module in session.lm.layers[i].modules()
        if isinstance(module, torch.nn.Linear)
    ]
    for weight in weights:
        weight.requires_grad_(True)

    def gradient(value):
        found = torch.autograd.grad(value, weights, retain_graph=True)
        return torch.cat([part.flatten() for part in found])

    odds = TraitPanel(session.lm, session.library.traits, session.settings.questions).log_odds()
    traits = torch.stack([gradient(value) for value in odds])
    examples = row_format.examples(session.lm, rows)
    logprobs = [token_logprobs(session.lm, [example], row_format)[0].sum() for example in examples]
    found = (torch.stack([gradient(value) for value in logprobs]) @ traits.T).numpy()
    session.weights.freeze()
    return found


def test_influence_is_the_inner_product_of_gradients(session: BaseSession):
    rows = rows_of([f"{i}, {7 * i + 2}" for i in range(1, 13)])
    row_format = RowFormat.of(session.lm, rows, 8)
    session.weights.freeze()
    wanted = exact_influence(session, row_format, rows)
    traits = trait_gradients(session)
    found = influence(session, row_format, rows, traits)
    assert found.shape == (12, 3)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.95  # few ranks of the trait's
    again = influence(session, row_format, rows[::-1], traits)[::-1]
    assert np.allclose(again, found, rtol=1e-2, atol=1e-4 * np.abs(found).max())
    kept = trait_gradients(session).factors  # from the cache
    assert all(torch.equal(kept[name][0], out) for name, (out, _) in traits.factors.items())


def test_influence_foretells_a_small_step(session: BaseSession):
    rows = rows_of(["3, 4", "9, 9"])
    row_format = RowFormat.of(session.lm, rows, 8)
    session.weights.freeze()
    wanted = exact_influence(session, row_format, rows)
    rate = 1e-4
    for i, row in enumerate(rows):
        weights = session.weights.train(session.trainable, seed=0)
        token_logprobs(session.lm, row_format.examples(session.lm, [row]), row_format)[
            0
        ].sum().backward()
        with torch.no_grad():
            for weight in weights:
                if weight.ndim == 2:  # influence is over the linear maps alone
                    weight += rate * weight.grad
        moved = (session.panel.read() - session.base) / rate
        session.weights.freeze()
        assert np.allclose(moved, wanted[i], rtol=0.1, atol=0.05 * np.abs(wanted).max())
