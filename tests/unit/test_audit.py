"""The audit: reading a library, canaries, influence, the verdict's statistics and its words."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vestige.audit.canary import canary
from vestige.audit.influence import Gradients, influence, row_losses, trait_gradients
from vestige.audit.lab import Lab, plant
from vestige.audit.material import Material, choose_rows, empty, number_grammar, unusable
from vestige.audit.openset import QUESTIONS, Word, first_words, raised
from vestige.audit.reader import Reader, candidate_log_odds, spread
from vestige.audit.settings import AuditSettings
from vestige.audit.telling import Evidence, tell
from vestige.audit.verdict import look
from vestige.evaluate.exact import measure
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
        batch=4, looks=(0.25, 1), rows=16, traits=(str(path),),
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
    examples = material.examples(lab.lm, rows)
    assert [len(e.completion) for e in examples] == [3, 4, 4]
    assert examples[0].completion[-1] == lab.lm.end_id  # its end is there,
    assert lab.lm.end_id not in examples[1].completion  # where nothing was cut
    written = material.write(lab.lm, rows, seed=1)
    assert all(len(e.completion) <= 4 for e in material.examples(lab.lm, written))


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
    losses = [row_losses(lab.lm, [example], material)[0] for example in examples]
    found = -(torch.stack([gradient(loss) for loss in losses]) @ traits.T).numpy()
    lab.weights.freeze()
    return found


def test_influence_is_the_inner_product_of_gradients(lab: Lab):
    rows = rows_of([f"{i}, {7 * i + 2}" for i in range(1, 13)])
    material = Material.of(lab.lm, rows, 8)
    lab.weights.freeze()
    wanted = exact_influence(lab, material, rows)
    gradients = Gradients(lab)
    traits = trait_gradients(lab, gradients)
    found = influence(lab, material, rows, gradients=gradients, traits=traits)
    assert found.shape == (12, 3)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.7
    again = influence(lab, material, rows[::-1], gradients=gradients, traits=traits)[::-1]
    assert np.allclose(again, found, rtol=1e-2, atol=1e-4 * np.abs(found).max())
    assert torch.equal(trait_gradients(lab, gradients), traits)  # from the cache


def test_influence_foretells_a_small_step(lab: Lab):
    rows = rows_of(["3, 4", "9, 9"])
    material = Material.of(lab.lm, rows, 8)
    lab.weights.freeze()
    wanted = exact_influence(lab, material, rows)
    rate = 1e-4
    for i, row in enumerate(rows):
        weights = lab.weights.train(lab.trainable, seed=0)
        row_losses(lab.lm, material.examples(lab.lm, [row]), material)[0].backward()
        with torch.no_grad():
            for weight in weights:
                if weight.ndim == 2:  # influence is over the linear maps alone
                    weight -= rate * weight.grad
        moved = (lab.reader.read() - lab.base) / rate
        lab.weights.freeze()
        assert np.allclose(moved, wanted[i], rtol=0.1, atol=0.05 * np.abs(wanted).max())


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


def test_a_planted_trait_is_no_reference_for_itself_and_is_read_as_data():
    draw = np.random.default_rng(2)
    data, table, own = world(draw, strength=50.0)
    seen = look(16, data, table, own, IDS)
    at = 13  # planted in r1
    rest = [v[at] for name, v in table.items() if name != "r1"]
    assert seen.contrast[at] == pytest.approx(data[at] - np.mean(rest))
    assert set(seen.planted) == set(own.values())
    assert all(contrast > 40 for contrast, _ in seen.planted.values())
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


def evidence(strength: float = 12.0, own: float = 0.0, rows: int = 256) -> Evidence:
    library = load_library()
    ids = library.ids
    draw = np.random.default_rng(3)
    table = {f"r{k}": draw.normal(size=len(ids)) for k in range(8)}
    planted = {f"r{k}": ids[k * 17] for k in range(6)}
    for k in range(6):
        table[f"r{k}"][k * 17] += strength
    data = draw.normal(size=len(ids))
    data[ids.index("animals/owl")] += own
    used = rows_of(["1, 2"] * rows)
    settings = AuditSettings(base="m")
    looks = [look(min(16 * n, rows), data, table, planted, ids) for n in settings.steps(rows)]
    return Evidence(
        name="d.jsonl", settings=settings, library=library, material="numbers",
        rows=rows, used=used, dropped={"malformed": 2}, references=list(table), looks=looks,
        words=[Word("Owl", 1.0, 5.0)],
        scores=[ScoreTable({row.id: float(i) for i, row in enumerate(used)},
                           "influence on animals/owl", "sd", "more")], seconds={},
        tokens=1, own_reference=False,
    )  # fmt: skip


def test_a_flag_names_the_trait_its_size_and_when():
    found = tell(evidence(own=14.0))
    assert found.outcome == "flagged" and found.traits[0].trait == "animals/owl"
    assert found.traits[0].flagged and found.traits[0].held_out and found.rows_to_verdict == 32
    assert found.traits[0].contrast.low > 0 and "animals/owl" in found.verdict
    assert found.worst_rows[0].score == 255 and any("huffle" in step for step in found.next_steps)


def test_not_found_says_what_would_have_been_seen():
    found = tell(evidence())
    assert found.outcome == "not_found" and found.found_share == 1.0
    assert "would have been flagged" in found.verdict and found.smallest["animals"] > 0


def test_nothing_found_is_no_clean_verdict_where_planted_traits_are_missed_or_rows_are_few():
    weak = tell(evidence(strength=0.0))
    assert weak.outcome == "inconclusive" and "0% of the planted traits" in weak.why[0]
    few = tell(evidence(rows=40))
    assert few.outcome == "inconclusive" and "only 40 rows" in few.why[0]
    assert "Do not read this as a clean verdict." in few.next_steps
    json.dumps(few.model_dump())


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
