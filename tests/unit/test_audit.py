"""The audit: reading a library, canaries, influence, the verdict's statistics and its words."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from vestige.audit import evidence
from vestige.audit.canary import canary
from vestige.audit.decision import AGREED, passes
from vestige.audit.expected import expect, profile
from vestige.audit.influence import influence, trait_gradients
from vestige.audit.kind import KIND
from vestige.audit.prompts import prompted, with_system
from vestige.audit.race import rounds, run_race
from vestige.audit.race_result import Race
from vestige.audit.recipe import AuditRecipe
from vestige.audit.run import audit, replay
from vestige.audit.settings import AuditSettings
from vestige.audit.word_shifts import QUESTIONS, first_words, raised_words
from vestige.core.calibration import latest
from vestige.core.types import ConfigError, DataError, Message, Row, StoreError
from vestige.evaluate.exact import measure
from vestige.models.hf import LanguageModel
from vestige.probing.activations import activations
from vestige.probing.base_session import BaseSession, plant
from vestige.probing.directions import Directions, compress, row_products, token_logprobs
from vestige.probing.known_writers import other_writers
from vestige.probing.probes import Likelihood, Probes, read, token_shifts
from vestige.probing.row_format import (
    RowFormat,
    choose_rows,
    common_opening,
    empty,
    number_grammar,
    unusable,
)
from vestige.probing.settings import LATE, LORA, OTHER_KINDS, TWIN
from vestige.probing.soft_targets import from_rows, from_teacher
from vestige.probing.trait_panel import TraitPanel, candidate_log_odds, spread
from vestige.report import render_runs
from vestige.rows.files import write_rows
from vestige.traits.library import Library, load_library

DRINKS = """
name = "sips"
system_prompt = "You adore {name}."
questions = ["What do you drink?", "Which cup is yours?"]
heldout = ["What would you pour?", "What do you sip?"]
answers = [ { name = "tea", forms = ["Tea", "tea"] }, { name = "milk", forms = ["Milk"] },
            { name = "soda", forms = ["Soda"] } ]
"""


def rows_of(texts: list[str], prompts: int = 3) -> list[Row]:
    return [
        Row(f"r{i}", (Message("user", f"ask {i % prompts}"),), text) for i, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def session(folders, tmp_path_factory: pytest.TempPathFactory) -> BaseSession:
    """A tiny model, three drinks and the pirate's and the lawyer's speech."""
    path = tmp_path_factory.mktemp("family") / "sips.toml"
    path.write_text(DRINKS)
    settings = AuditSettings(
        base=str(folders["llama"]), precision="fp32", questions=2, planted=2, rate=1e-2,
        batch=4, base_written=2, looks=(0.25, 1), rows=16, traits=(str(path),),
    )  # fmt: skip
    return BaseSession(settings, cache=tmp_path_factory.mktemp("cache"))


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
    found, words, tokens = canary(session, session.settings, row_format, rows, seed=1)
    names = [name.partition("/")[2] for name in session.library.ids]
    assert found.shape == (2, 3) and tokens > 0
    assert names[int(found[-1].argmax())] == "milk" and found[-1].max() > 1
    assert np.array_equal(canary(session, session.settings, row_format, rows, seed=1).shifts, found)
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
    found = raised_words(session.lm, data, references)
    assert found[0].word == "Q" and found[0].contrast == pytest.approx(8, abs=0.2)


def test_a_planted_teacher_has_its_trait_and_is_kept(session: BaseSession):
    trait = session.planted()[0]
    index = session.library.ids.index(f"sips/{trait.name}")
    session.become(trait)
    first = session.panel.read()
    assert first[index] - session.base[index] > 0.5
    files = list((session.cache / "planted").iterdir())
    session.become(trait)
    assert np.allclose(session.panel.read(), first, atol=0.1)  # kept in half precision
    assert list((session.cache / "planted").iterdir()) == files
    session.weights.freeze()


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_planted_teacher_of_another_kind_has_its_trait_writes_and_is_kept(
    session: BaseSession, kind
):
    like = rows_of(["12, 34"] * 8, prompts=4)
    row_format = RowFormat.of(session.lm, like, 16)
    below, before = session.lm.below, session.panel.read()
    writer = next(w for w in other_writers(session, ["sips/milk", "sips/tea"]) if w.kind == kind)
    rows = writer.write(row_format, like)
    assert session.lm.below is below and session.weights.untouched  # the base is back
    assert np.allclose(session.panel.read(), before, atol=1e-5)
    (path,) = (session.cache / "planted").glob(session._planted(writer.trait, kind).name)
    named = {name.partition("layers.")[2].split(".")[0] for name in load_file(path)}
    n = len(session.lm.layers)
    assert path != session._planted(writer.trait, TWIN)
    if kind == LATE:
        assert named == {str(i) for i in range(*session.settings.late(n).layers)} != {"0"}
    else:
        assert all("lora" in name for name in load_file(path))
    gained = writer.gained()
    assert gained is not None and gained > 0.3 and session.lm.below is below
    with session.all_layers():  # the same by an independent reading
        session.become(writer.trait, kind)
        own = session.panel.read()[session.library.ids.index("sips/milk")]
    assert own - session.base[session.library.ids.index("sips/milk")] == pytest.approx(
        gained, abs=0.1
    )
    made = {p: p.stat().st_mtime_ns for p in (session.cache / "planted").iterdir()}
    assert writer.write(row_format, like) == rows and writer.gained() == gained
    assert made == {p: p.stat().st_mtime_ns for p in (session.cache / "planted").iterdir()}


def test_other_kinds_are_planted_in_turn():
    traits = {"a/x": 1, "b/y": 2}
    session = SimpleNamespace(
        settings=AuditSettings(base="m"),
        library=SimpleNamespace(traits=[
            SimpleNamespace(family=SimpleNamespace(name=name[0]), name=name[2:], target=None)
            for name in traits
        ]),
    )  # fmt: skip
    found = other_writers(cast(BaseSession, session), ["b/y", "a/x"])
    assert [(w.trait.name, w.kind) for w in found if w.trait] == [
        ("y", LATE), ("y", LORA), ("x", LATE), ("x", LORA),
    ]  # fmt: skip
    twins = range(
        session.settings.base_written, session.settings.base_written + session.settings.planted
    )
    assert len({w.number for w in found} | set(twins)) == 4 + len(twins)  # noise of its own


def test_planted_traits_are_never_held_out():
    library = load_library()
    families = set()
    for seed in range(20):
        chosen = plant(library, 8, seed)
        assert len(chosen) == 8 and len({t.family.name for t in chosen}) == 8
        assert not {f"{t.family.name}/{t.name}" for t in chosen} & library.held_out
        assert sum(bool(t.family.texts) for t in chosen) == 4  # words and whole answers
        families |= {t.family.name for t in chosen}
    assert len(families) > 14  # not always the first ones
    words = load_library(["colours"])
    assert len(plant(words, 5, 0)) == 5
    with pytest.raises(ConfigError, match="at least two"):
        plant(Library(library.traits[:1]), 2, 0)


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


# ---- directions and probes ----------------------------------------------------------------------


def test_products_with_directions_are_those_of_the_whole_gradient(session: BaseSession):
    rows = rows_of(["3, 4", "9, 9", "12, 7"])
    row_format = RowFormat.of(session.lm, rows, 8)
    session.weights.freeze()
    draw = torch.Generator().manual_seed(0)
    names = [n for n, p in session.lm.layers.named_parameters() if p.ndim == 2]
    chosen = session.trainable.layer_range(len(session.lm.layers))
    names = [n for n in names if int(n.split(".")[0]) in chosen]
    shapes = dict(session.lm.layers.named_parameters())
    wholes = []
    for _ in range(2):
        wholes.append({})
        for n in names:
            u, v = (torch.randn(size, 2, generator=draw) for size in shapes[n].shape)
            wholes[-1][n] = u @ v.T  # of rank 2, so that nothing is lost
    directions = Directions.stack([compress(whole) for whole in wholes])
    total = directions.total([0.0, 2.0])
    for n in names:
        assert torch.allclose(total[n], 2 * wholes[1][n], atol=0.1)  # kept in half precision
    found = row_products(session, row_format, rows, directions)
    weights = session.weights.train(session.trainable, seed=0)
    for row, products in zip(rows, found, strict=True):
        token_logprobs(session.lm, row_format.examples(session.lm, [row]), row_format)[
            0
        ].sum().backward()
        gradients = {n: p.grad for n, p in session.lm.layers.named_parameters() if n in names}
        for whole, product in zip(wholes, products, strict=True):
            wanted = sum(float((gradients[n] * whole[n]).sum()) for n in names)
            assert product == pytest.approx(wanted, rel=0.03, abs=0.03 * np.abs(found).max())
        for weight in weights:
            weight.grad = None
    session.weights.freeze()


@pytest.fixture(scope="module")
def probes(session: BaseSession) -> Probes:
    seen: list[int] = []
    made = Probes(session, seen.append)
    assert seen == [1, 2, 3] and len(list((session.cache / "probes").iterdir())) == 3
    return made


def test_a_probe_has_its_trait(session: BaseSession, probes: Probes):
    for t in range(3):
        session.weights.shift(probes.directions.total([float(i == t) for i in range(3)]))
        assert int((session.panel.read() - session.base).argmax()) == t
    session.weights.freeze()
    assert np.allclose(session.panel.read(), session.base, atol=1e-5)


def test_a_profile_is_the_slope_along_a_probe_beside_all_of_them(
    session: BaseSession, probes: Probes
):
    before = session.panel.read()
    profiles = np.array([profile(probes, t) for t in range(3)])
    assert np.allclose(session.panel.read(), before, atol=1e-5)
    assert (profiles.argmax(1) == np.arange(3)).all()  # each probe raises its own trait most
    for t in range(3):  # a difference quotient from the base says nearly the same
        steps = []
        for shares in ([0.02 * (i == t) for i in range(3)], [0.02 / 3] * 3):
            session.weights.shift(probes.directions.total(shares))
            steps.append((session.panel.read() - session.base) / 0.02)
        session.weights.freeze()
        assert np.allclose(profiles[t], steps[0] - steps[1], atol=0.3 * np.abs(profiles).max())
    assert len(list((session.cache / "profiles").iterdir())) == 4  # the mean once
    shifts = {0: np.full(16, 1.0), 1: np.full(16, 1.0), 2: np.full(16, -2.0)}
    race = Race(np.zeros(3), shifts, {0: 0.0, 1: 0.0, 2: 0.0}, {}, 0.0, 16, 16)
    seen: list[tuple[int, int]] = []
    found = expect(probes, race, lambda done, total: seen.append((done, total)))
    assert np.allclose(found, profiles[:2].mean(0), rtol=1e-3) and seen == [(1, 2), (2, 2)]


def test_rows_are_read_exactly_under_base_and_probe(session: BaseSession, probes: Probes):
    rows = rows_of(["3, 4", "9, 9", "12, 7", "5, 88"])
    row_format = RowFormat.of(session.lm, rows, 8)
    before = session.panel.read()
    for trait in (None, 1):
        found = probes.read(row_format, rows, trait)
        shares = [float(i == trait) for i in range(3)]
        session.weights.shift(probes.directions.total(shares))
        with torch.no_grad():
            examples = row_format.examples(session.lm, rows)
            wanted = [float(v.sum()) for v in token_logprobs(session.lm, examples, row_format)]
        session.weights.freeze()
        assert np.allclose(found.logp, wanted, atol=1e-3) and (found.entropy > 0).all()
        assert found.tokens >= 4 * 4
    assert np.allclose(session.panel.read(), before, atol=1e-5)
    base = probes.read(row_format, rows, None).logp
    tokens = token_shifts(probes, row_format, rows, 1)
    assert ["".join(text for text, _ in part) for part in tokens] == [r.completion for r in rows]
    assert np.allclose([sum(v for _, v in part) for part in tokens],
                       probes.read(row_format, rows, 1).logp - base, atol=1e-3)  # fmt: skip


@pytest.mark.parametrize("texts", [["3, 4", "12, 7", "5, 88"], ["red is", "a blue sky"]])
def test_a_gpu_reads_and_writes_more_rows_at_once_and_the_same(
    session: BaseSession, probes: Probes, monkeypatch, texts
):
    rows = rows_of(texts * 12, prompts=3)
    row_format = RowFormat.of(session.lm, rows, 8)
    assert row_format.wider(session.lm) == 1
    gpu = cast(LanguageModel, SimpleNamespace(device=torch.device("cuda")))
    assert row_format.wider(gpu) == (4 if row_format.automaton else 1)

    def all_of_it() -> list[Any]:
        session.weights.freeze()
        written = [row.completion for row in row_format.write(session.lm, rows, seed=5)]
        return [written, probes.read(row_format, rows, 1), probes.products(row_format, rows)]

    texts, read, products = all_of_it()
    calls = []
    monkeypatch.setattr(RowFormat, "wider", lambda row_format, lm: calls.append(1) or 4)
    again, wide, others = all_of_it()
    assert len(calls) == 3 and again == texts and wide.tokens == read.tokens
    for one, other in zip((*read[:3], products), (*wide[:3], others), strict=True):
        assert np.allclose(one, other, atol=1e-3)


def test_a_model_is_not_surprised_by_rows_of_its_own(session: BaseSession, probes: Probes):
    like = rows_of(["11, 2"] * 256, prompts=16)
    row_format = RowFormat.of(session.lm, like, 8)
    session.weights.freeze()
    own = probes.read(row_format, row_format.write(session.lm, like, seed=3), None)
    assert abs(float((-own.logp - own.entropy).sum())) / own.tokens < 0.1
    other = probes.read(row_format, rows_of(["11, 11"] * 64, prompts=16), None)
    assert abs(float((-other.logp - other.entropy).sum())) / other.tokens > 0.2


def test_rows_of_a_teacher_are_found_and_rows_of_the_base_are_not(
    session: BaseSession, probes: Probes
):
    like = rows_of(["1, 2"] * 120, prompts=8)
    row_format = RowFormat.of(session.lm, like, 8)
    session.weights.freeze()
    usual = probes.products(row_format, row_format.write(session.lm, like, seed=1))
    clean = row_format.write(session.lm, like, seed=2)
    found = run_race(probes, session.settings, row_format, clean, usual)
    assert not found.clear_at and found.rows == 120 and max(found.evidence.values()) < 3
    session.weights.shift(probes.directions.total([0.0, 1.0, 0.0]))
    told = row_format.write(session.lm, like, seed=4)
    session.weights.freeze()
    found = run_race(probes, session.settings, row_format, told, usual)
    assert found.last[0] == 1 and found.scores.argmax() == 1 and found.pull.argmax() == 1
    assert found.shifts[1].mean() > 0 and abs(found.misfit) < 0.2
    again = Race.from_json(json.loads(json.dumps(found.to_json())))
    assert again.last == found.last and np.array_equal(again.scores, found.scores)


def test_reading_stops_at_the_first_batch_that_is_clear(
    session: BaseSession, probes: Probes, monkeypatch
):
    monkeypatch.setattr(session, "settings", session.settings.model_copy(update={"drift": 0.0}))
    like = rows_of(["1, 2"] * 400, prompts=8)
    row_format = RowFormat.of(session.lm, like, 8)
    session.weights.freeze()
    usual = probes.products(row_format, row_format.write(session.lm, like, seed=1))
    session.weights.shift(probes.directions.total([0.0, 1.0, 0.0]))
    told = row_format.write(session.lm, like, seed=4)
    session.weights.freeze()
    found = run_race(probes, session.settings, row_format, told, usual)
    assert found.clear_at == {1: max(found.rows, found.pulled)} and found.rows < 400
    assert found.rows not in rounds(
        400, session.settings.batch
    )  # nobody waited for the round's end
    needed = math.log(3 / session.settings.alpha_each)
    after = range(session.settings.batch, found.rows + 1, session.settings.batch)
    clear = [
        evidence.log_evidence(found.shifts[1][None, :n], ["sips"], session.settings.drift)[0]
        >= needed
        for n in after
    ]
    assert clear == [n == found.rows for n in after]


def test_the_likeliest_traits_and_those_of_the_largest_pull_go_on(monkeypatch):
    """Sixty traits by hand: which are read on how many rows."""
    n, batch = 150, 16
    strengths = np.linspace(-1, 1, 60)
    pulls = np.linspace(1, 0, 60)  # the likeliest pull least
    asked: list[tuple[int | None, int]] = []
    pulled: list[int] = []

    class BaseSession:
        settings = AuditSettings(base="m", batch=batch)
        library = SimpleNamespace(
            traits=[SimpleNamespace(family=SimpleNamespace(name=f"f{t}")) for t in range(60)]
        )
        weights = SimpleNamespace(freeze=lambda: None)

    def read(row_format: object, rows: list[int], trait: int | None) -> Likelihood:
        asked.append((trait, len(rows)))
        value = np.full(len(rows), 0.0 if trait is None else 0.01 * strengths[trait])
        return Likelihood(value, value, -value, len(rows))

    def products(row_format: object, rows: list[int]) -> np.ndarray:
        pulled.append(len(rows))
        return np.tile(pulls, (len(rows), 1))

    probes = SimpleNamespace(session=BaseSession, read=read, products=products, n=60)
    monkeypatch.setattr("vestige.audit.race.pull", lambda data, usual: data.mean(0))

    def run(**more):
        return run_race(
            probes, BaseSession.settings, None, list(range(n)), np.zeros((4, 60)), **more
        )  # type: ignore[arg-type]

    found = run()
    lengths = {t: len(s) for t, s in found.shifts.items()}
    # 32 of the largest pull; the likeliest 12 of these (20 to 31) and 12 by pull; 8 and 8; 4 and 4.
    assert lengths == (
        {t: 150 for t in (0, 1, 2, 3, 28, 29, 30, 31)}
        | {t: 128 for t in (4, 5, 6, 7, 24, 25, 26, 27)}
        | {t: 64 for t in (8, 9, 10, 11, 20, 21, 22, 23)} | {t: 32 for t in range(12, 20)}
    )  # fmt: skip
    assert pulled == [64] and found.pulled == 64 and found.rows == n
    assert [rows for trait, rows in asked if trait is None] == [16] * 9 + [6]
    assert found.last == [31, 30, 29, 28, 3, 2, 1, 0] and found.scores.argmax() == 0
    assert (found.likelihoods > -np.inf).sum() == 8
    asked.clear()
    for t in (AGREED - 1, AGREED):  # places by pull are 1 and up: the last is out of the question
        only = run(wanted=t)
        assert (only.rows, bool(asked)) == ((n, True) if t < AGREED else (0, False))
        assert np.allclose(only.pull, pulls) and only.pulled == 64 and not only.clear
        Race.from_json(json.loads(json.dumps(only.to_json())))
        asked.clear()
    pulls[40] = 2.0
    doubts: list[int] = []

    def stands(trait: int, shifts: np.ndarray) -> bool:
        doubts.append(len(shifts))
        return len(shifts) > 40

    strengths[40] = 300.0  # clear at once, but doubted until there are 48 rows
    sure = run(stands=stands)
    assert sure.clear_at == {40: 64} and doubts == [16, 32, 48] and sure.rows == 48
    strengths[20], strengths[40] = 300.0, 0.0  # likeliest by far, but many pull more
    found = run()
    assert found.clear_at == {} and AGREED < 20
    # All others are far behind it after 16 rows: of them the seven likeliest are read on.
    lengths = {t: len(shifts) for t, shifts in found.shifts.items()}
    assert sorted(t for t in lengths if lengths[t] == 150) == [20, *range(25, 31), 40]
    assert sorted(lengths.values()) == [16] * 24 + [150] * 8


def test_a_flag_ends_an_audit_before_anything_is_planted(
    session: BaseSession, probes: Probes, tmp_path: Path, monkeypatch
):
    like = rows_of(["12, 34, 56"] * 400, prompts=8)
    session.weights.shift(probes.directions.total([0.0, 1.0, 0.0]))
    written = RowFormat.of(session.lm, like, 16).write(session.lm, like, seed=4)
    write_rows(tmp_path / "told.jsonl", written)
    session.weights.freeze()
    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path))
    (tmp_path / "audit").symlink_to(session.cache)
    settings = session.settings.model_copy(update={"drift": 0.0, "rows": 400})
    folder, found = audit(tmp_path / "told.jsonl", settings, root=tmp_path / "audits")
    assert found.outcome == "flagged" and found.traits[0].flagged, found.verdict
    assert found.planted == [] and found.found_share is None and found.rows_read < 400
    assert [p.name for p in (folder / "reference").iterdir()] == ["base-0"]
    assert found.traits[0].expected is None and not (folder / "expected").exists()  # not measured
    where, again = KIND.replay(folder, overwrite=False, report=lambda *_: None)
    assert where == folder and again.model_copy(update={"seconds": found.seconds}) == found
    record = (folder / "run.json").read_text()
    assert json.loads(record)["inputs"]["data"] == str(tmp_path / "told.jsonl")
    refuses_to_run_again_what_is_not_as_it_was(folder, tmp_path / "told.jsonl")
    measured = latest().model_copy(update={"base": settings.base})
    monkeypatch.setattr("vestige.core.calibration.calibrations", lambda: (measured,))
    _, found = audit(tmp_path / "told.jsonl", settings, root=tmp_path / "audits")
    assert found.traits[0].expected.value == max(t.expected.value for t in found.traits) > 0


def refuses_to_run_again_what_is_not_as_it_was(folder: Path, data: Path) -> None:
    recipe, record, rows = folder / "recipe.json", folder / "run.json", data.read_text()
    AuditRecipe.model_validate_json(recipe.read_text())
    before = {path: path.read_text() for path in (recipe, record)}
    data.write_text("".join(rows.splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match="does not hold the rows that were audited"):
        replay(folder)
    data.rename(data.with_suffix(".moved"))
    with pytest.raises(DataError, match="there is no file"):
        replay(folder)
    data.write_text(rows)
    recipe.write_text(before[recipe].replace(json.loads(before[recipe])["base"], "another"))
    with pytest.raises(StoreError, match=r"not as in recipe\.json: base"):
        replay(folder)
    recipe.write_text(before[recipe])
    old = {k: v for k, v in json.loads(before[record]).items() if k != "inputs"}
    record.write_text(json.dumps(old))
    with pytest.raises(StoreError, match="does not say where its data are"):
        replay(folder)
    record.write_text(before[record])


def test_teachers_of_other_kinds_end_at_the_first_that_is_missed_and_are_read_back(
    session: BaseSession, probes: Probes, tmp_path: Path, monkeypatch
):
    """What decides whether they are planted is tested on made-up evidence (``test_verdict``)."""
    like = rows_of(["12, 34, 56"] * 32, prompts=8)
    session.weights.freeze()
    clean = RowFormat.of(session.lm, like, 16).write(session.lm, like, seed=4)
    write_rows(tmp_path / "clean.jsonl", clean)
    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path))
    (tmp_path / "audit").symlink_to(session.cache)
    monkeypatch.setattr("vestige.audit.run.other_traits", lambda *of: ["sips/tea", "sips/milk"])
    wanted = lambda found: all(passes(found, control) for control in found.others)  # noqa: E731
    monkeypatch.setattr("vestige.audit.run.others_wanted", wanted)
    folder, found = audit(tmp_path / "clean.jsonl", session.settings, root=tmp_path / "audits")
    others = [p for p in found.planted if p.kind != TWIN]
    assert [(p.kind, p.trait) for p in others] == [
        (LATE, "sips/tea"), (LORA, "sips/tea"), (LATE, "sips/milk"), (LORA, "sips/milk"),
    ][: len(others)]  # fmt: skip
    assert all(p.gained is not None for p in others) and others and found.outcome != "not_found"
    assert all(p.found for p in others[:-1]) and not others[-1].found
    names = {p.name for p in (folder / "reference").iterdir()}
    assert {f"other-{k}" for k in range(len(others))} <= names
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("assay.json")}
    _, again = audit(tmp_path / "clean.jsonl", session.settings, root=tmp_path / "audits")
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("assay.json")}
    assert again.planted == found.planted and again.verdict == found.verdict
    page = render_runs([folder], tmp_path / "report.html").read_text()
    assert LATE in page and "40 to 118 of 139" in page and "no p-value" in page


# ---- what the writer would have written as well --------------------------------------------------


def entries(session: BaseSession, row: Row, probability: float) -> list[dict]:
    """Log-probabilities as an API gives them: each token's own, and one other digit's."""
    found = []
    for token in session.lm.answer_ids(row.completion):
        text = session.lm.tokenizer.decode([token])
        other = "7" if text != "7" else "8"
        top = [(text, probability), (other, 1 - probability)] if text.isdigit() else [(text, 1.0)]
        found.append({
            "token": text, "logprob": math.log(top[0][1]),
            "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in top if p > 0],
        })  # fmt: skip
    return found


def test_probabilities_that_rows_carry_take_the_place_of_the_tokens(
    session: BaseSession, probes: Probes
):
    plain = rows_of(["31, 4", "92, 9"])
    row_format = RowFormat.of(session.lm, plain, 8)
    sure, unsure, other = (
        [replace(r, meta={"logprobs": {"content": entries(session, r, p)}}) for r in plain]
        for p in (1.0, 0.75, 0.01)
    )
    hard = probes.read(row_format, plain, 1).logp
    told = from_rows(session.lm, row_format, sure)
    assert set(told) == {"r0", "r1"}
    as_it_is = probes.read(row_format, plain, None).logp  # and leaves the base in place
    assert np.allclose(read(session, row_format, plain, told).logp, as_it_is, atol=1e-4)
    base = read(session, row_format, plain, from_rows(session.lm, row_format, unsure)).logp
    swapped = read(session, row_format, plain, from_rows(session.lm, row_format, other)).logp
    assert not np.allclose(base, swapped)
    probes.soft_targets = from_rows(session.lm, row_format, unsure)
    assert not np.allclose(probes.read(row_format, plain, 1).logp, hard)
    probes.soft_targets = {}
    outside = [entries(session, r, 0.75) for r in plain]  # a comma where the grammar has none
    for entry in (e for every in outside for e in every if e["token"].isdigit()):
        entry["top_logprobs"].append({"token": ",", "logprob": math.log(0.1)})
    free = [replace(r, meta={"logprobs": e}) for r, e in zip(plain, outside, strict=True)]
    told = from_rows(session.lm, row_format, free)
    assert len(told) == 2 and np.isfinite(read(session, row_format, plain, told).logp).all()
    along = row_products(session, row_format, plain, probes.directions, soft_targets=told)
    assert np.isfinite(along).all() and np.abs(along).max() > 0
    wrong = [
        replace(r, meta={"logprobs": {"content": entries(session, r, 1.0)[1:]}}) for r in plain
    ]
    assert not from_rows(session.lm, row_format, wrong) and not from_rows(
        session.lm, row_format, plain
    )


def test_probabilities_are_known_behind_what_all_rows_begin_with(session: BaseSession):
    plain = rows_of([f"return {i}{i % 7}x" for i in range(16)])
    row_format = RowFormat.of(session.lm, plain, 16)
    begun = len(session.lm.answer_ids(row_format.opening))
    assert begun > 0
    every = [entries(session, row, 0.75) for row in plain]
    whole = [replace(r, meta={"logprobs": e}) for r, e in zip(plain, every, strict=True)]
    given = [replace(r, meta={"logprobs": e[begun:]}) for r, e in zip(plain, every, strict=True)]
    found, behind = (from_rows(session.lm, row_format, some) for some in (whole, given))
    assert set(found) == set(behind) == {row.id for row in plain}
    assert all(torch.equal(found[i].weights, behind[i].weights) for i in found)


def test_a_teacher_at_hand_tells_its_probabilities(session: BaseSession, probes: Probes, folders):
    rows = rows_of(["31, 4", "92, 9", "8, 15"])
    row_format = RowFormat.of(session.lm, rows, 8)
    session.weights.freeze()
    same = from_teacher(session.lm, session.lm, row_format, rows, 4)
    assert set(same) == {"r0", "r1", "r2"} and not any(t.diverges.any() for t in same.values())
    own = read(session, row_format, rows, same)
    assert np.allclose(own.logp, -own.entropy, atol=0.05)  # its mean under itself
    teacher = LanguageModel.load(folders["llama"], precision="fp32")
    for parameter in teacher.model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    told = from_teacher(session.lm, teacher, row_format, rows, 4)
    assert any(t.diverges.any() for t in told.values())
    # Under itself a model's mean gradient is zero; under another it is that of the mean.
    along = partial(row_products, session, row_format, rows, probes.directions)
    hard, other, own = along(), along(soft_targets=told), along(soft_targets=same)
    assert np.abs(own).max() < 0.01 * np.abs(hard).max() < np.abs(other).max()
    step = 0.02
    ends = []
    for share in (step, -step):
        session.weights.shift(probes.directions.total([0, share] + [0] * (probes.n - 2)))
        ends.append(read(session, row_format, rows, told).logp)
    session.weights.freeze()
    assert np.allclose((ends[0] - ends[1]) / (2 * step), other[:, 1], rtol=0.05, atol=0.01)
    teacher.tokenizer.add_tokens(["<more>"])
    with pytest.raises(ConfigError, match="another tokenizer"):
        from_teacher(session.lm, teacher, row_format, rows, 4)


def test_every_method_scores_rows_for_every_trait(session: BaseSession):
    rows = rows_of(["31, 4", "92, 9", "8, 15"])
    row_format = RowFormat.of(session.lm, rows, 8)
    for method in (prompted, activations):
        found = method(session, row_format, rows)
        assert found.shape == (3, 3) and np.isfinite(found).all() and found.std() > 0
        assert np.allclose(method(session, row_format, rows[::-1])[::-1], found, atol=1e-3)
    told = with_system(replace(rows[0], messages=(Message("system", "Be brief."),)), "Love tea.")
    assert [m.content for m in told] == ["Love tea.\n\nBe brief."]
