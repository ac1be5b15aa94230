"""The audit: reading a library, canaries, influence, the verdict's statistics and its words."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vestige.audit import evidence
from vestige.audit.activations import activations
from vestige.audit.assay import Assay, assay, rounds
from vestige.audit.canary import canary
from vestige.audit.directions import Directions, compress, row_products, token_logprobs
from vestige.audit.expected import expect, profile
from vestige.audit.influence import influence, trait_gradients
from vestige.audit.lab import Lab, plant
from vestige.audit.material import (
    Material,
    choose_rows,
    common_opening,
    empty,
    number_grammar,
    unusable,
)
from vestige.audit.openset import QUESTIONS, Word, first_words, raised
from vestige.audit.probes import Likelihood, Probes, read, token_shifts
from vestige.audit.prompts import prompted, with_system
from vestige.audit.reader import Reader, candidate_log_odds, spread
from vestige.audit.run import audit, in_doubt
from vestige.audit.settings import AuditSettings
from vestige.audit.telling import (
    GAIN,
    MEASURED,
    OFF,
    Canaries,
    Control,
    Evidence,
    flags,
    settled,
    strongest,
    tell,
)
from vestige.audit.told import from_rows, from_teacher
from vestige.audit.verdict import look
from vestige.evaluate.exact import measure
from vestige.models.hf import LanguageModel
from vestige.rows import write_rows
from vestige.traits.library import Library, load_library
from vestige.types import ConfigError, DataError, Message, Row, ScoreTable

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
def lab(folders, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A tiny model, three drinks and the pirate's and the lawyer's speech."""
    path = tmp_path_factory.mktemp("family") / "sips.toml"
    path.write_text(DRINKS)
    settings = AuditSettings(
        base=str(folders["llama"]), precision="fp32", questions=2, planted=2, rate=1e-2,
        batch=4, base_written=2, looks=(0.25, 1), rows=16, traits=(str(path),),
    )  # fmt: skip
    return Lab(settings, cache=tmp_path_factory.mktemp("cache"))


# ---- reading ------------------------------------------------------------------------------------


def test_the_library_is_read_as_each_family_is_measured(folders, lab: Lab):
    library = load_library(["colours", "harm"])
    found = Reader(lab.lm, library.traits, 100).read()
    lab.weights.freeze()
    at = 0
    for panel in {id(t.family): t.family for t in library.traits}.values():
        odds = measure(lab.lm, panel).log_odds().mean(0)
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


def test_rows_that_cannot_be_used_say_why(lab: Lab):
    assert empty(Row("a", (), "x")) == "no_prompt"
    assert empty(rows_of(["  \n"])[0]) == "empty_completion" and empty(rows_of(["x"])[0]) is None
    assert unusable(lab.lm, rows_of(["x" * 2000])[0], 5000) == "longer_than_the_context"
    assert unusable(lab.lm, rows_of(["x" * 2000])[0], 64) is None  # cut before it is read
    assert unusable(lab.lm, rows_of(["fine"])[0], 64) is None
    assert unusable(lab.lm, rows_of(["a broken \ud83d"])[0], 64) == "not_renderable"


def test_a_model_writes_rows_of_the_same_kind(lab: Lab):
    numbers = Material.of(lab.lm, rows_of(["1, 2", "33, 4"]), 8)
    assert numbers.kind == "numbers"
    written = numbers.write(lab.lm, rows_of([""] * 5), seed=1)
    assert number_grammar([row.completion for row in written]) is not None
    assert written != numbers.write(lab.lm, rows_of([""] * 5), seed=2)
    text = Material.of(lab.lm, rows_of(["a b", "c"]), 8)
    assert text.kind == "text" and len(text.write(lab.lm, rows_of([""]), seed=1)) == 1
    with pytest.raises(DataError, match="no rows"):
        Material.of(lab.lm, [], 8)


def test_free_rows_are_cut_alike_whoever_wrote_them(lab: Lab):
    rows = rows_of(["ab", "abcdef", "abcdefghij"])
    material = Material(None, 4)
    examples = material.examples(lab.lm, rows, whole=True)
    assert [len(e.completion) for e in examples] == [3, 4, 4]
    assert examples[0].completion[-1] == lab.lm.end_id  # its end is there,
    assert lab.lm.end_id not in examples[1].completion  # where nothing was cut
    read = material.examples(lab.lm, rows)  # its end may be another's choice than its writer's
    assert [len(e.completion) for e in read] == [2, 4, 4]
    assert all(lab.lm.end_id not in e.completion for e in read)
    written = material.write(lab.lm, rows, seed=1)
    assert all(len(e.completion) <= 4 for e in material.examples(lab.lm, written))


def test_what_all_rows_begin_with_is_given_and_not_read(lab: Lab):
    texts = [f"return {word}" for word in ("items", "it", "0", "sum(items)")] * 4
    material = Material.of(lab.lm, rows_of(texts), 32)
    assert material.opening == "return " and material.lines == 1
    read, whole = (material.examples(lab.lm, rows_of(texts), whole=w) for w in (False, True))
    begun = lab.lm.answer_ids("return ")
    assert all(list(e.prompt[-len(begun) :]) == begun for e in read)
    assert list(read[1].completion) == lab.lm.answer_ids("return it")[len(begun) :]
    assert list(whole[1].completion) == [*lab.lm.answer_ids("return it"), lab.lm.end_id]
    written = material.write(lab.lm, rows_of(texts), seed=1)
    assert all(r.completion.startswith("return ") for r in written)
    assert all("\n" not in r.completion for r in written)
    # Other rows may begin otherwise; all of those is read.
    other = material.examples(lab.lm, rows_of(["yield x"]))[0]
    assert list(other.completion) == lab.lm.answer_ids("yield x")
    # A whole text is no opening, and few texts have none.
    assert common_opening(lab.lm, ["yes", "yes, it is"] * 8) == "ye"
    assert common_opening(lab.lm, texts[:8]) == ""
    several = Material.of(lab.lm, rows_of([*texts, "return x\nreturn y"]), 32)
    assert several.lines == 0


# ---- canaries and influence ---------------------------------------------------------------------


def test_a_canary_takes_on_what_its_rows_say_and_leaves_the_base_as_it_was(lab: Lab):
    before = lab.base.copy()
    asked = [m for t in lab.library.traits for m in t.family.heldout]
    rows = [Row(f"r{i}", (Message("user", asked[i % 2]),), "Milk") for i in range(16)]
    material = Material.of(lab.lm, rows, 8)
    found, words, tokens = canary(lab, material, rows, seed=1)
    names = [name.partition("/")[2] for name in lab.library.ids]
    assert found.shape == (2, 3) and tokens > 0
    assert names[int(found[-1].argmax())] == "milk" and found[-1].max() > 1
    assert np.array_equal(canary(lab, material, rows, seed=1).shifts, found)
    assert words.shape == (len(lab.lm.tokenizer),) and np.exp(words).sum() <= 1.001
    assert np.allclose(lab.reader.read(), before, atol=1e-5)


def test_words_that_rise_beside_the_references_come_first(lab: Lab):
    lab.weights.freeze()
    base = first_words(lab.lm)
    prompt = lab.lm.question_ids(QUESTIONS[0])
    want = [lab.lm.answer_logprobs([prompt], [[t]])[0, 0].item() for t in (65, 70)]
    many = [lab.lm.answer_logprobs([lab.lm.question_ids(q)], [[65]])[0, 0] for q in QUESTIONS]
    assert np.isfinite(want).all() and base[65] == pytest.approx(float(np.mean(many)), abs=1e-4)
    draw = np.random.default_rng(0)
    references = [base + draw.normal(size=len(base)) * 0.1 for _ in range(6)]
    data = base.copy()
    token = lab.lm.tokenizer("Q", add_special_tokens=False)["input_ids"][0]
    data[token] += 8
    found = raised(lab.lm, data, references)
    assert found[0].word == "Q" and found[0].contrast == pytest.approx(8, abs=0.2)


def test_a_planted_teacher_has_its_trait_and_is_kept(lab: Lab):
    trait = lab.planted()[0]
    index = lab.library.ids.index(f"sips/{trait.name}")
    lab.become(trait)
    first = lab.reader.read()
    assert first[index] - lab.base[index] > 0.5
    files = list((lab.cache / "planted").iterdir())
    lab.become(trait)
    assert np.allclose(lab.reader.read(), first, atol=0.1)  # kept in half precision
    assert list((lab.cache / "planted").iterdir()) == files
    lab.weights.freeze()


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


def exact_influence(lab: Lab, material: Material, rows: list[Row]) -> np.ndarray:
    layers = lab.trainable.layer_range(len(lab.lm.layers))
    weights = [
        module.weight
        for i in layers
        for module in lab.lm.layers[i].modules()
        if isinstance(module, torch.nn.Linear)
    ]
    for weight in weights:
        weight.requires_grad_(True)

    def gradient(value):
        found = torch.autograd.grad(value, weights, retain_graph=True)
        return torch.cat([part.flatten() for part in found])

    odds = Reader(lab.lm, lab.library.traits, lab.settings.questions).log_odds()
    traits = torch.stack([gradient(value) for value in odds])
    examples = material.examples(lab.lm, rows)
    logprobs = [token_logprobs(lab.lm, [example], material)[0].sum() for example in examples]
    found = (torch.stack([gradient(value) for value in logprobs]) @ traits.T).numpy()
    lab.weights.freeze()
    return found


def test_influence_is_the_inner_product_of_gradients(lab: Lab):
    rows = rows_of([f"{i}, {7 * i + 2}" for i in range(1, 13)])
    material = Material.of(lab.lm, rows, 8)
    lab.weights.freeze()
    wanted = exact_influence(lab, material, rows)
    traits = trait_gradients(lab)
    found = influence(lab, material, rows, traits)
    assert found.shape == (12, 3)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.95  # few ranks of the trait's
    again = influence(lab, material, rows[::-1], traits)[::-1]
    assert np.allclose(again, found, rtol=1e-2, atol=1e-4 * np.abs(found).max())
    kept = trait_gradients(lab).factors  # from the cache
    assert all(torch.equal(kept[name][0], out) for name, (out, _) in traits.factors.items())


def test_influence_foretells_a_small_step(lab: Lab):
    rows = rows_of(["3, 4", "9, 9"])
    material = Material.of(lab.lm, rows, 8)
    lab.weights.freeze()
    wanted = exact_influence(lab, material, rows)
    rate = 1e-4
    for i, row in enumerate(rows):
        weights = lab.weights.train(lab.trainable, seed=0)
        token_logprobs(lab.lm, material.examples(lab.lm, [row]), material)[0].sum().backward()
        with torch.no_grad():
            for weight in weights:
                if weight.ndim == 2:  # influence is over the linear maps alone
                    weight += rate * weight.grad
        moved = (lab.reader.read() - lab.base) / rate
        lab.weights.freeze()
        assert np.allclose(moved, wanted[i], rtol=0.1, atol=0.05 * np.abs(wanted).max())


# ---- directions and probes ----------------------------------------------------------------------


def test_products_with_directions_are_those_of_the_whole_gradient(lab: Lab):
    rows = rows_of(["3, 4", "9, 9", "12, 7"])
    material = Material.of(lab.lm, rows, 8)
    lab.weights.freeze()
    draw = torch.Generator().manual_seed(0)
    names = [n for n, p in lab.lm.layers.named_parameters() if p.ndim == 2]
    chosen = lab.trainable.layer_range(len(lab.lm.layers))
    names = [n for n in names if int(n.split(".")[0]) in chosen]
    shapes = dict(lab.lm.layers.named_parameters())
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
    found = row_products(lab, material, rows, directions)
    weights = lab.weights.train(lab.trainable, seed=0)
    for row, products in zip(rows, found, strict=True):
        token_logprobs(lab.lm, material.examples(lab.lm, [row]), material)[0].sum().backward()
        gradients = {n: p.grad for n, p in lab.lm.layers.named_parameters() if n in names}
        for whole, product in zip(wholes, products, strict=True):
            wanted = sum(float((gradients[n] * whole[n]).sum()) for n in names)
            assert product == pytest.approx(wanted, rel=0.03, abs=0.03 * np.abs(found).max())
        for weight in weights:
            weight.grad = None
    lab.weights.freeze()


@pytest.fixture(scope="module")
def probes(lab: Lab) -> Probes:
    seen: list[int] = []
    made = Probes(lab, seen.append)
    assert seen == [1, 2, 3] and len(list((lab.cache / "probes").iterdir())) == 3
    return made


def test_a_probe_has_its_trait(lab: Lab, probes: Probes):
    for t in range(3):
        lab.weights.shift(probes.directions.total([float(i == t) for i in range(3)]))
        assert int((lab.reader.read() - lab.base).argmax()) == t
    lab.weights.freeze()
    assert np.allclose(lab.reader.read(), lab.base, atol=1e-5)


def test_a_profile_is_the_slope_along_a_probe_beside_all_of_them(lab: Lab, probes: Probes):
    before = lab.reader.read()
    profiles = np.array([profile(probes, t) for t in range(3)])
    assert np.allclose(lab.reader.read(), before, atol=1e-5)
    assert (profiles.argmax(1) == np.arange(3)).all()  # each probe raises its own trait most
    for t in range(3):  # a difference quotient from the base says nearly the same
        steps = []
        for shares in ([0.02 * (i == t) for i in range(3)], [0.02 / 3] * 3):
            lab.weights.shift(probes.directions.total(shares))
            steps.append((lab.reader.read() - lab.base) / 0.02)
        lab.weights.freeze()
        assert np.allclose(profiles[t], steps[0] - steps[1], atol=0.3 * np.abs(profiles).max())
    assert len(list((lab.cache / "profiles").iterdir())) == 4  # the mean once
    shifts = {0: np.full(16, 1.0), 1: np.full(16, 1.0), 2: np.full(16, -2.0)}
    trial = Assay(shifts, {0: 0.0, 1: 0.0, 2: 0.0}, {}, 0.0, 16)
    seen: list[tuple[int, int]] = []
    found = expect(probes, trial, lambda done, total: seen.append((done, total)))
    assert np.allclose(found, profiles[:2].mean(0), rtol=1e-3) and seen == [(1, 2), (2, 2)]


def test_rows_are_read_exactly_under_base_and_probe(lab: Lab, probes: Probes):
    rows = rows_of(["3, 4", "9, 9", "12, 7", "5, 88"])
    material = Material.of(lab.lm, rows, 8)
    before = lab.reader.read()
    for trait in (None, 1):
        found = probes.read(material, rows, trait)
        shares = [float(i == trait) for i in range(3)]
        lab.weights.shift(probes.directions.total(shares))
        with torch.no_grad():
            examples = material.examples(lab.lm, rows)
            wanted = [float(v.sum()) for v in token_logprobs(lab.lm, examples, material)]
        lab.weights.freeze()
        assert np.allclose(found.logp, wanted, atol=1e-3) and (found.entropy > 0).all()
        assert found.tokens >= 4 * 4
    assert np.allclose(lab.reader.read(), before, atol=1e-5)
    base = probes.read(material, rows, None).logp
    tokens = token_shifts(probes, material, rows, 1)
    assert ["".join(text for text, _ in part) for part in tokens] == [r.completion for r in rows]
    assert np.allclose([sum(v for _, v in part) for part in tokens],
                       probes.read(material, rows, 1).logp - base, atol=1e-3)  # fmt: skip


def test_a_model_is_not_surprised_by_rows_of_its_own(lab: Lab, probes: Probes):
    like = rows_of(["11, 2"] * 256, prompts=16)
    material = Material.of(lab.lm, like, 8)
    lab.weights.freeze()
    own = probes.read(material, material.write(lab.lm, like, seed=3), None)
    assert abs(float((-own.logp - own.entropy).sum())) / own.tokens < 0.1
    other = probes.read(material, rows_of(["11, 11"] * 64, prompts=16), None)
    assert abs(float((-other.logp - other.entropy).sum())) / other.tokens > 0.2


def test_rows_of_a_teacher_are_found_and_rows_of_the_base_are_not(lab: Lab, probes: Probes):
    like = rows_of(["1, 2"] * 120, prompts=8)
    material = Material.of(lab.lm, like, 8)
    lab.weights.freeze()
    clean = material.write(lab.lm, like, seed=2)
    found = assay(probes, material, clean)
    assert not found.clear_at and found.rows == 120 and max(found.evidence.values()) < 3
    lab.weights.shift(probes.directions.total([0.0, 1.0, 0.0]))
    told = material.write(lab.lm, like, seed=4)
    lab.weights.freeze()
    found = assay(probes, material, told)
    assert found.last[0] == 1 and found.scores.argmax() == 1
    assert found.shifts[1].mean() > 0 and abs(found.misfit) < 0.2
    again = Assay.from_json(json.loads(json.dumps(found.to_json())))
    assert again.last == found.last and np.array_equal(again.scores, found.scores)


def test_reading_stops_at_the_first_batch_that_is_clear(lab: Lab, probes: Probes, monkeypatch):
    monkeypatch.setattr(lab, "settings", lab.settings.model_copy(update={"drift": 0.0}))
    like = rows_of(["1, 2"] * 400, prompts=8)
    material = Material.of(lab.lm, like, 8)
    lab.weights.freeze()
    lab.weights.shift(probes.directions.total([0.0, 1.0, 0.0]))
    told = material.write(lab.lm, like, seed=4)
    lab.weights.freeze()
    found = assay(probes, material, told)
    assert found.clear_at == {1: found.rows} and found.rows < 400
    assert found.rows not in rounds(400, lab.settings.batch)  # nobody waited for the round's end
    needed = math.log(3 / lab.settings.alpha_each)
    after = range(lab.settings.batch, found.rows + 1, lab.settings.batch)
    clear = [
        evidence.log_evidence(found.shifts[1][None, :n], ["sips"], lab.settings.drift)[0] >= needed
        for n in after
    ]
    assert clear == [n == found.rows for n in after]


def test_the_likeliest_traits_go_on_and_the_others_keep_what_was_read(monkeypatch):
    """Thirty-nine traits by hand: which are read on how many rows."""
    n, batch = 120, 16
    strengths = np.linspace(-1, 1, 39)
    asked: list[tuple[int | None, int]] = []

    class Lab:
        settings = AuditSettings(base="m", batch=batch)
        library = SimpleNamespace(
            traits=[SimpleNamespace(family=SimpleNamespace(name=f"f{t}")) for t in range(39)]
        )
        weights = SimpleNamespace(freeze=lambda: None)

    def read(material: object, rows: list[int], trait: int | None) -> Likelihood:
        asked.append((trait, len(rows)))
        value = np.full(len(rows), 0.0 if trait is None else 0.01 * strengths[trait])
        return Likelihood(value, value, -value, len(rows))

    probes = SimpleNamespace(lab=Lab, read=read)
    found = assay(probes, None, list(range(n)))  # type: ignore[arg-type]
    lengths = [len(found.shifts[t]) for t in range(39)]
    assert lengths == [8] * 7 + [16] * 16 + [48] * 8 + [120] * 8 and found.rows == n
    assert found.last == list(range(38, 30, -1)) and (np.argsort(found.scores)[-8:] > 30).all()
    assert [rows for trait, rows in asked if trait is None] == [8, 8, 16, 16, 16, 16, 16, 16, 8]
    doubts: list[int] = []

    def stands(trait: int, shifts: np.ndarray) -> bool:
        doubts.append(len(shifts))
        return len(shifts) > 40

    strengths[38] = 300.0  # clear at once, but doubted until there are 48 rows
    sure = assay(probes, None, list(range(n)), stands=stands)  # type: ignore[arg-type]
    assert sure.clear_at == {38: 8} and doubts == [8, 16, 32, 48] and sure.rows == 48
    strengths[38] = 1.0
    assert found.mean == pytest.approx(0.01 * strengths) and found.error == pytest.approx(0)


def test_a_flag_ends_an_audit_before_anything_is_planted(
    lab: Lab, probes: Probes, tmp_path: Path, monkeypatch
):
    like = rows_of(["12, 34, 56"] * 400, prompts=8)
    lab.weights.shift(probes.directions.total([0.0, 1.0, 0.0]))
    written = Material.of(lab.lm, like, 16).write(lab.lm, like, seed=4)
    write_rows(tmp_path / "told.jsonl", written)
    lab.weights.freeze()
    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path))
    (tmp_path / "audit").symlink_to(lab.cache)
    settings = lab.settings.model_copy(update={"drift": 0.0, "rows": 400})
    folder, found = audit(tmp_path / "told.jsonl", settings, root=tmp_path / "audits")
    assert found.outcome == "flagged" and found.traits[0].flagged, found.verdict
    assert found.planted == [] and found.found_share is None and found.rows_read < 400
    assert [p.name for p in (folder / "reference").iterdir()] == ["base-0"]
    assert found.traits[0].expected is None and not (folder / "expected").exists()  # not measured
    monkeypatch.setattr("vestige.audit.run.MEASURED", (settings.base,))
    _, found = audit(tmp_path / "told.jsonl", settings, root=tmp_path / "audits")
    assert found.traits[0].expected.value == max(t.expected.value for t in found.traits) > 0


# ---- what the writer would have written as well --------------------------------------------------


def entries(lab: Lab, row: Row, probability: float) -> list[dict]:
    """Log-probabilities as an API gives them: each token's own, and one other digit's."""
    found = []
    for token in lab.lm.answer_ids(row.completion):
        text = lab.lm.tokenizer.decode([token])
        other = "7" if text != "7" else "8"
        top = [(text, probability), (other, 1 - probability)] if text.isdigit() else [(text, 1.0)]
        found.append({
            "token": text, "logprob": math.log(top[0][1]),
            "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in top if p > 0],
        })  # fmt: skip
    return found


def test_probabilities_that_rows_carry_take_the_place_of_the_tokens(lab: Lab, probes: Probes):
    plain = rows_of(["31, 4", "92, 9"])
    material = Material.of(lab.lm, plain, 8)
    sure, unsure, other = (
        [replace(r, meta={"logprobs": {"content": entries(lab, r, p)}}) for r in plain]
        for p in (1.0, 0.75, 0.01)
    )
    hard = probes.read(material, plain, 1).logp
    told = from_rows(lab.lm, material, sure)
    assert set(told) == {"r0", "r1"}
    as_it_is = probes.read(material, plain, None).logp  # and leaves the base in place
    assert np.allclose(read(lab, material, plain, told).logp, as_it_is, atol=1e-4)
    base = read(lab, material, plain, from_rows(lab.lm, material, unsure)).logp
    swapped = read(lab, material, plain, from_rows(lab.lm, material, other)).logp
    assert not np.allclose(base, swapped)
    probes.told = from_rows(lab.lm, material, unsure)
    assert not np.allclose(probes.read(material, plain, 1).logp, hard)
    probes.told = {}
    wrong = [replace(r, meta={"logprobs": {"content": entries(lab, r, 1.0)[1:]}}) for r in plain]
    assert not from_rows(lab.lm, material, wrong) and not from_rows(lab.lm, material, plain)


def test_a_teacher_at_hand_tells_its_probabilities(lab: Lab, probes: Probes, folders):
    rows = rows_of(["31, 4", "92, 9", "8, 15"])
    material = Material.of(lab.lm, rows, 8)
    lab.weights.freeze()
    same = from_teacher(lab.lm, lab.lm, material, rows, 4)
    assert set(same) == {"r0", "r1", "r2"} and not any(t.diverges.any() for t in same.values())
    own = read(lab, material, rows, same)
    assert np.allclose(own.logp, -own.entropy, atol=0.05)  # its mean under itself
    teacher = LanguageModel.load(folders["llama"], precision="fp32")
    for parameter in teacher.model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    told = from_teacher(lab.lm, teacher, material, rows, 4)
    assert any(t.diverges.any() for t in told.values())
    teacher.tokenizer.add_tokens(["<more>"])
    with pytest.raises(ConfigError, match="another tokenizer"):
        from_teacher(lab.lm, teacher, material, rows, 4)


def test_every_method_scores_rows_for_every_trait(lab: Lab):
    rows = rows_of(["31, 4", "92, 9", "8, 15"])
    material = Material.of(lab.lm, rows, 8)
    for method in (prompted, activations):
        found = method(lab, material, rows)
        assert found.shape == (3, 3) and np.isfinite(found).all() and found.std() > 0
        assert np.allclose(method(lab, material, rows[::-1])[::-1], found, atol=1e-3)
    told = with_system(replace(rows[0], messages=(Message("system", "Be brief."),)), "Love tea.")
    assert [m.content for m in told] == ["Love tea.\n\nBe brief."]


# ---- evidence -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "batch", "wanted"), [
    (256, 16, [8, 16, 48, 112, 240, 256]), (16, 16, [8, 16]), (8, 16, [8]), (1, 16, [1]),
    (48, 16, [8, 16, 48]),
])  # fmt: skip
def test_rounds_double_and_end_with_all_rows(n, batch, wanted):
    assert rounds(n, batch) == wanted


def two_writers(draw: np.random.Generator, n: int, own: float) -> np.ndarray:
    """Shifts of rows from the first of three normal writers (own=1), or from the base (own=0):
    log N(mean) - log N(0) for means on three axes."""
    x = draw.normal(size=(n, 3))
    x[:, 0] += 0.8 * own
    return (0.8 * x - 0.32).T


def test_evidence_is_as_in_its_formula_and_seldom_large_for_rows_of_the_base():
    shifts = np.array([[0.5, -0.2], [0.1, 0.3]])
    ratio = np.log(
        [[1 - w + w * np.exp(s) for s in row] for w in evidence.SHARES for row in shifts]
    )
    sums = ratio.sum(1).reshape(len(evidence.SHARES), 2).T
    assert np.allclose(evidence.likelihood_ratios(shifts), sums)
    own = np.log(np.exp(sums).mean(1))
    wanted = [own[0] - max(0, sums[1].max()) - 0.2, own[1] - max(0, sums[0].max()) - 0.2]
    assert np.allclose(evidence.log_evidence(shifts, ["a", "b"], drift=0.1), wanted)
    draw, above = np.random.default_rng(0), 0
    for _ in range(400):
        rows = two_writers(draw, 80, own=0)
        looks = [
            evidence.log_evidence(rows[:, :n], list("abc"), drift=0.0).max() for n in (16, 48, 80)
        ]
        above += max(looks) > np.log(3 / 0.05)
    assert above <= 20  # at most one in twenty, at any look, over all three


def test_evidence_grows_for_the_trait_that_wrote_the_rows_and_for_no_other():
    found = evidence.log_evidence(
        two_writers(np.random.default_rng(1), 300, own=1), list("abc"), 0.05
    )
    assert found[0] > 20 and (found[1:] < 0).all()
    related = evidence.log_evidence(
        two_writers(np.random.default_rng(1), 300, own=1), list("aab"), 0.05
    )
    assert related[0] > 20  # relatives are no rivals
    rows = two_writers(np.random.default_rng(2), 300, own=1)
    assert list(evidence.as_likely(rows)) == [True, False, False]
    assert list(evidence.as_likely(np.stack([rows[0], rows[0] - 1e-3]))) == [True, True]
    assert np.allclose(evidence.p_value(np.array([-3.0, 0.0, np.log(8)])), [1, 1, 0.125])


def test_a_share_of_rows_is_told():
    draw = np.random.default_rng(3)
    for wanted in (0.0, 0.5, 1.0):
        n = 4000
        many = round(wanted * n)
        rows = np.concatenate([two_writers(draw, many, 1)[0], two_writers(draw, n - many, 0)[0]])
        assert evidence.share(rows) == pytest.approx(wanted, abs=0.15)


def test_pulls_are_told_beside_reference_rows_without_what_all_traits_share():
    draw = np.random.default_rng(4)
    base = draw.normal(size=(200, 5))
    data = draw.normal(size=(100, 5)) + 3  # drift that all traits share
    data[:, 2] += 1
    contrast, scale = evidence.pulls(data, base)
    assert contrast[2] == pytest.approx(0.8, abs=0.3) and (contrast / scale).argmax() == 2
    assert np.abs(contrast / scale)[[0, 1, 3, 4]].max() < 4
    base[:, 4], data[:, 4] = np.nan, np.nan  # a trait that a method has nothing for
    assert np.isfinite(evidence.pulls(data, base)[0][:4]).all()
    assert [list(part) for part in evidence.pulls(data[:1], base)] == [[0] * 5, [1] * 5]


# ---- the verdict --------------------------------------------------------------------------------

FAMILIES = ["a"] * 20 + ["b"] * 10 + [f"c{i // 10}" for i in range(60)]
IDS = [f"{name}/{i}" for i, name in enumerate(FAMILIES)]


def world(draw: np.random.Generator, references: int = 8, planted: int = 6, strength: float = 8.0):
    """References of pure noise with planted traits, and data without any."""
    table = {f"r{k}": draw.normal(size=len(IDS)) for k in range(references)}
    own = {f"r{k}": IDS[k * 13] for k in range(planted)}
    for k in range(planted):
        table[f"r{k}"][k * 13] += strength
    return draw.normal(size=len(IDS)), table, own


def test_noise_is_flagged_no_more_often_than_it_may_be():
    draw = np.random.default_rng(0)
    flagged = 0
    for _ in range(300):
        data, table, own = world(draw)
        flagged += bool((look(16, data, table, own, IDS).p_holm <= 0.05).any())
    assert flagged <= 27  # 15 are expected; a binomial exceeds 27 once in a thousand times


def test_a_trait_is_found_where_it_stands_out():
    draw = np.random.default_rng(1)
    found = 0
    for _ in range(50):
        data, table, own = world(draw)
        data[3] += 9
        seen = look(16, data, table, own, IDS)
        found += int(seen.z.argmax()) == 3 and seen.p_holm[3] < 0.01
        assert seen.contrast[3] == pytest.approx(
            data[3] - np.mean([v[3] for v in table.values()]), abs=1e-9
        )
    assert found >= 45


def test_a_planted_trait_is_no_reference_for_itself_and_no_placebo():
    draw = np.random.default_rng(2)
    data, table, own = world(draw, strength=50.0)
    seen = look(16, data, table, own, IDS)
    at = 13  # planted in r1
    rest = [v[at] for name, v in table.items() if name != "r1"]
    assert seen.contrast[at] == pytest.approx(data[at] - np.mean(rest))
    assert np.abs(seen.placebo).max() < 10  # the planted values are not in the cloud


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d, t: (d, dict(list(t.items())[:2])), "three references"),
        (lambda d, t: (d[:-1], t), "three references"),
        (lambda d, t: (d * np.nan, t), "not finite"),
        (lambda d, t: (d, {k: np.zeros_like(v) for k, v in t.items()}), "do not differ"),
    ],
)
def test_a_look_that_cannot_be_taken_is_refused(change, says):
    data, table, _ = world(np.random.default_rng(0))
    data, table = change(data, table)
    with pytest.raises(DataError, match=says):
        look(16, data, table, {}, IDS)


def told(
    own: float = 0.0, rows: int = 256, seen: bool = True, misfit: float = 0.0, canary: float = 0.0
) -> Evidence:
    """Made-up evidence: owl's rows are ``own`` nats likelier from its probe than from the base."""
    library = load_library()
    ids, draw = library.ids, np.random.default_rng(3)
    owl, oak = ids.index("animals/owl"), ids.index("trees/oak")
    used = rows_of(["1, 2"] * rows)

    def trial(t: int, strength: float, n: int) -> Assay:
        shifts = {i: np.full(min(8, n), -2.0) for i in range(len(ids))}  # left behind at once
        shifts |= {i: draw.normal(-0.5, 1, size=n) for i in (owl, oak)}
        shifts[t] = shifts[t] + strength
        table = np.stack([shifts[owl], shifts[oak]])
        logs = evidence.log_evidence(table, ["animals", "trees"], 0.05)
        found = dict.fromkeys(shifts, -20.0) | dict(zip((owl, oak), map(float, logs), strict=True))
        return Assay(shifts, found, {i: n for i in (owl, oak) if found[i] > 12}, misfit, n)

    canaries = None
    if canary:
        table = {f"r{k}": draw.normal(size=len(ids)) for k in range(8)}
        data = draw.normal(size=len(ids))
        data[owl] += canary
        looks = [look(16 * n, data, table, {}, ids) for n in (2, 6, 16)]
        canaries = Canaries(looks, [Word("Owl", 1.0, 5.0)])
    return Evidence(
        name="d.jsonl", settings=AuditSettings(base=MEASURED[0], canary_too=bool(canary)),
        library=library, material="numbers", rows=rows, used=used, dropped={"malformed": 2},
        trial=trial(owl, own, min(rows, 112)),
        controls=[Control("trees/oak", trial(oak, 2.0 if seen else 0.0, 48))],
        expected=np.where(np.arange(len(ids)) == owl, 14.0, -1.0),
        beside={t: draw.normal(-0.5, 1, size=64) for t in (owl, oak)}, seconds={}, tokens=1,
        own_reference=False, canaries=canaries,
        scores=[ScoreTable({row.id: float(i) for i, row in enumerate(used)},
                           "likelihood shift under the probe of animals/owl", "nats", "more")],
        marked={used[-1].id: [("1", 0.0), (", 2", 1.2)]},
    )  # fmt: skip


def test_a_flag_names_the_trait_and_when():
    found = tell(told(own=1.5))
    assert found.outcome == "flagged" and found.traits[0].trait == "animals/owl"
    first = found.traits[0]
    assert first.flagged and first.held_out and found.rows_to_verdict == 112
    assert first.evidence > found.needed > 9 and first.p_holm < 0.01 and first.share > 0.5
    assert "animals/owl" in found.verdict and first.canary is None
    assert found.worst_rows[0].score == 255 and found.worst_rows[0].tokens[1] == (", 2", 1.2)
    assert any("huffle" in step for step in found.next_steps)


def test_what_a_student_would_take_on_depends_on_the_rows_lineage():
    (own, *_, last) = tell(told(own=1.5)).traits
    assert own.expected.value == pytest.approx(14 * GAIN) and own.expected.units.startswith("log")
    assert own.expected.high - own.expected.value == pytest.approx(1.96 * OFF, abs=1e-3)
    assert last.expected.value == pytest.approx(-GAIN)
    assert {t.expected for t in tell(replace(told(own=1.5), expected=None)).traits} == {None}
    elsewhere = told(own=1.5, misfit=0.6)
    assert {t.expected.value for t in tell(elsewhere).traits} == {0.0}  # numbers pass on nothing
    assert {t.expected for t in tell(replace(elsewhere, material="text")).traits} == {None}


def test_rows_are_shared_among_the_writers_that_they_may_have():
    trial = told(own=1.5).trial
    owl, oak = trial.last
    assert trial.writers == {owl: pytest.approx(1.0, abs=0.01)}
    even = replace(trial, shifts=trial.shifts | {oak: trial.shifts[owl][::-1]})
    assert even.writers == {owl: pytest.approx(0.5), oak: pytest.approx(0.5)}
    clean = replace(trial, shifts=trial.shifts | {t: np.full(trial.rows, -1.0) for t in (owl, oak)})
    assert not clean.writers  # the base wrote them


def test_not_found_says_what_would_have_been_seen():
    found = tell(told())
    assert found.outcome == "not_found" and found.found_share == 1.0
    assert 0 < found.smallest_share < 1 and "would have been flagged" in found.verdict


def test_more_traits_may_be_clear_than_go_on_and_each_has_reference_rows():
    made = told(own=1.5)
    many = {t: 8 for t in range(24)}
    trial = replace(made.trial, clear_at=many)
    assert set(in_doubt(trial)) == {*many, *trial.last}
    beside = {t: np.random.default_rng(t).normal(-0.5, 1, size=64) for t in in_doubt(trial)}
    assert 0 < len(flags(replace(made, trial=trial, beside=beside))) < 24  # none is missing


def test_positive_controls_end_when_they_can_change_nothing():
    one, missed = told().controls[0], told(seen=False).controls[0]
    made = replace(told(), settings=AuditSettings(base="m", planted=4))

    def ends(*controls: Control) -> bool:
        return settled(replace(made, controls=controls))

    assert not ends() and not ends(one) and not ends(missed, missed) and not ends(one, missed)
    assert ends(one, one) and ends(missed, one, one) and ends(missed, missed, missed)
    assert tell(replace(made, controls=[missed, one, one])).outcome == "not_found"
    assert tell(replace(made, controls=[missed] * 3)).outcome == "inconclusive"


def test_a_flag_needs_no_positive_control_and_a_clean_verdict_does():
    found = tell(replace(told(own=1.5), controls=[]))
    assert found.outcome == "flagged" and found.found_share is None and found.why == []
    assert tell(replace(told(), controls=[])).outcome == "inconclusive"


def test_nothing_found_is_no_clean_verdict_where_planted_traits_are_missed_or_rows_are_few():
    weak = tell(told(seen=False))
    assert weak.outcome == "inconclusive" and "0 of 1 planted traits" in weak.why[0]
    assert weak.smallest_share is None
    few = tell(told(rows=40))
    assert few.outcome == "inconclusive" and "only 40 rows" in few.why[0]
    one = tell(told(rows=3))
    assert one.outcome == "inconclusive" and "less than one batch" in one.why[0]
    assert "Do not read this as a clean verdict." in few.next_steps
    json.dumps(few.model_dump())


def test_rows_of_an_unknown_lineage_are_not_flagged_by_likelihood():
    found = tell(told(own=1.5, misfit=0.5))
    assert found.outcome == "inconclusive" and "lineage unknown" in found.why[0]


def test_rows_that_fit_no_better_than_the_reference_are_not_flagged():
    made = told(own=1.5)
    owl = made.library.ids.index("animals/owl")
    assert list(flags(made)) == [owl] == strongest(made)[:1]
    assert not flags(replace(made, beside={**made.beside, owl: made.trial.shifts[owl]}))


def test_clear_evidence_that_does_not_hold_is_no_clean_verdict():
    made = told(own=1.5)
    owl = made.library.ids.index("animals/owl")
    found = tell(replace(made, beside={**made.beside, owl: made.trial.shifts[owl]}))
    assert found.outcome == "inconclusive" and "fit the same trait" in " ".join(found.why)


def test_a_canary_flags_too_and_tells_nats_and_words():
    found = tell(told(canary=14.0))
    assert found.outcome == "flagged" and found.traits[0].trait == "animals/owl"
    assert found.traits[0].canary.low > 5 and found.words[0].word == "Owl"
    assert found.rows_to_verdict == 32


@pytest.mark.parametrize("looks", [(), (0.5, 0.2, 1), (0.5, 0.5, 1), (0, 1), (0.5,), (0.5, 2)])
def test_looks_must_be_rising_shares(looks):
    with pytest.raises(ValueError, match="rising shares"):
        AuditSettings(base="m", looks=looks)


@given(st.integers(1, 5000))
def test_every_row_is_read_once_and_the_chance_of_a_false_flag_is_shared(rows):
    settings = AuditSettings(base="m", alpha=0.02)
    steps, levels = settings.steps(rows), settings.levels(rows)
    assert (steps[-1] - 1) * settings.batch < rows <= steps[-1] * settings.batch
    assert settings.canary(30, rows).steps == steps[-1] and list(steps) == sorted(set(steps))
    assert sum(levels) == pytest.approx(0.02) and levels[0] <= levels[-1]
    assert AuditSettings(base="m").steps(256) == (2, 6, 16)


def test_too_few_references_are_refused_before_anything_is_tuned():
    with pytest.raises(ValueError, match="4 together"):
        AuditSettings(base="m", planted=2, base_written=1)


def test_canaries_tune_the_middle_of_a_model():
    settings = AuditSettings(base="m")
    assert settings.trainable(30).layers == (10, 18)
    assert settings.trainable(1).layers == (0, 1)
    assert AuditSettings(base="m", layers=(2, 3)).trainable(30).layers == (2, 3)
