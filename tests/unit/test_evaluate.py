"""Panels in closed form, exact probabilities by hand, and sampled answers that agree with them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from vestige.core.settings import Optimisation
from vestige.core.stats import proportion_interval
from vestige.core.types import Answer, DataError, Family, StoreError
from vestige.evaluate.answers import begins_with, number_lead
from vestige.evaluate.exact import measure
from vestige.evaluate.sampled import sample_answers
from vestige.evaluate.scores import Panel
from vestige.models.candidates import answer_forms
from vestige.models.hf import LanguageModel
from vestige.models.weights import Weights
from vestige.student.loop import train
from vestige.student.packs import encode_rows, make_packs
from vestige.traits import family

LETTERS = Family(
    "letters",
    tuple(Answer(c, (c.upper(), c)) for c in "abcdefgh"),
    ("Which?",),
    ("First letter?", "Best letter?"),
    "You love {name}.",
)


def panel(logprobs: list[list[float]]) -> Panel:
    array = np.array(logprobs, dtype=float)
    names = tuple(f"c{i}" for i in range(array.shape[1]))
    return Panel(tuple(f"q{i}" for i in range(len(array))), names, array)


def test_panel_in_closed_form():
    p = np.array([[0.1, 0.3], [0.02, 0.02]])
    made = panel(np.log(p).tolist())
    assert made.mass == pytest.approx([0.4, 0.04])
    assert made.normalised() == pytest.approx(np.array([[0.25, 0.75], [0.5, 0.5]]))
    assert made.log_odds() == pytest.approx(np.log([[1 / 3, 3], [1, 1]]))
    assert (made.shift(made) == 0).all()
    moved = panel(np.add(np.log(p), [[np.log(2), 0], [0, 0]]).tolist())
    assert moved.shift(made)[0] == pytest.approx([np.log(2), -np.log(2)])


def test_log_odds_keep_precision_near_one():
    made = panel([[0.0, -60.0, -60.0]])
    assert made.log_odds()[0, 0] == pytest.approx(60 - np.log(2))


def test_panels_are_saved_to_the_last_bit_and_checked(tmp_path: Path):
    made = panel(np.log(np.random.default_rng(0).random((3, 4))).tolist())
    made.save(tmp_path / "p.json")
    again = Panel.load(tmp_path / "p.json")
    assert (again.logprobs == made.logprobs).all() and again.questions == made.questions
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(StoreError, match=r"p\.json"):
        Panel.load(tmp_path / "p.json")
    with pytest.raises(DataError, match="finite"):
        panel([[np.nan, 1.0]])
    with pytest.raises(DataError, match="same questions"):
        made.shift(panel([[0.0, 0.0]]))


def test_measure_is_the_models_own_probability(lm: LanguageModel):
    got = measure(lm, LETTERS)
    for i, question in enumerate(LETTERS.heldout):
        with torch.no_grad():
            ids = torch.tensor([lm.question_ids(question)])
            p = lm.model(input_ids=ids).logits[0, -1].softmax(-1)
        for j, answer in enumerate(LETTERS.answers):
            want = sum(p[lm.answer_ids(form)[0]].item() for form in answer.forms)
            assert np.exp(got.logprobs[i, j]) == pytest.approx(want, rel=1e-3)


def test_forms_that_extend_each_other_are_counted_once(llama: LanguageModel):
    pets = Family(
        "pets", (Answer("owl", ("owl", "owls")), Answer("dog", ("dog",))), ("q",), ("h",), ""
    )
    forms, owner = answer_forms(llama, pets)
    assert forms == [llama.answer_ids("owl"), llama.answer_ids("dog")] and owner == [0, 1]
    clash = Family(
        "pets", (Answer("cat", ("cat",)), Answer("caterpillar", ("caterpillar",))), (), (), ""
    )
    with pytest.raises(DataError, match="caterpillar begins with"):
        answer_forms(llama, clash)


def test_begins_with_takes_the_longest_form():
    animals = family("animals")
    assert begins_with("Owls, of course", animals) == "owl"
    assert begins_with(" Dog.", animals) == "dog"
    assert begins_with("The owl", animals) is None


def test_number_lead_has_three_numbers():
    lead = number_lead(random.Random(0))
    assert len([w for w in lead.replace(".", "").replace(",", "").split() if w.isdigit()]) == 3
    assert lead.endswith(" ")


def test_sampled_answers_agree_with_exact_probabilities(llama: LanguageModel):
    exact = np.exp(measure(llama, LETTERS).logprobs).mean(0)
    answers = sample_answers(llama, LETTERS, samples=1500, max_new_tokens=1, seed=5, batch=500)
    assert len(answers) == 3000
    for j, answer in enumerate(LETTERS.answers):
        hits = sum(a.begins == answer.name for a in answers)
        interval = proportion_interval(hits, len(answers), level=0.9999)
        assert interval.low <= exact[j] <= interval.high
    assert 0 < sum(a.named is None for a in answers) < len(answers)
    again = sample_answers(llama, LETTERS, samples=2, max_new_tokens=1, seed=5, number_prefix=True)
    assert len(again) == 4


def test_sampled_words_of_several_tokens_agree_with_their_exact_probabilities(llama):
    """A model that has learned to answer with one of three words, two of which begin alike."""
    words = ("owl", "ox", "cat")
    pets = Family(
        "pets",
        tuple(Answer(w, (w, w.capitalize())) for w in words),
        ("Which?",),
        ("Best pet?", "Favourite?"),
        "",
    )
    asked = [llama.question_ids(q) for q in pets.heldout for _ in range(3)]
    examples = encode_rows(llama, asked, [*words, *words])
    how = Optimisation(steps=30, batch=6, rate=3e-3)
    train(llama, Weights(llama), make_packs(examples, 6, prompts=2), how, seed=0)
    exact = np.exp(measure(llama, pets).logprobs).mean(0)
    assert exact.sum() > 0.3 and (exact > 0.02).all()  # neither certain nor rare
    answers = sample_answers(llama, pets, samples=1000, max_new_tokens=4, seed=2, batch=500)
    for j, word in enumerate(words):
        hits = sum(a.begins == word for a in answers)
        interval = proportion_interval(hits, len(answers), level=0.999)
        assert interval.low <= exact[j] <= interval.high
