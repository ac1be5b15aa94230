"""Answers that are begun: exact probabilities of whole words, and what drawn answers name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vestige.core.settings import Optimisation
from vestige.core.stats import proportion_interval
from vestige.core.types import Answer, ConfigError, DataError, Family, Trait
from vestige.evaluate.answers import begins_with, goes_on_with, names_kind, read_answer
from vestige.evaluate.exact import measure_begun
from vestige.evaluate.sampled import sample_answers
from vestige.models.hf import LanguageModel
from vestige.models.weights import Weights
from vestige.store import hash_config
from vestige.student.loop import train
from vestige.student.packs import encode_rows, make_packs
from vestige.teacher.induce import teach
from vestige.traits import families, family, names_one

#: "a" begins "ab", so that a part of a word would be counted twice if words had no ends.
LETTERS = Family(
    "letters",
    (Answer("a", ("a", "A")), Answer("ab", ("ab",)), Answer("ox", ("ox",))),
    ("Which?",),
    ("Say one.", "Which letter is best?"),
    "",
    opening="It is",
)


def after(lm: LanguageModel, ids: list[int]) -> torch.Tensor:
    """The model's own probabilities of the next token."""
    with torch.no_grad():
        return lm.model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1)


def test_begun_probabilities_are_the_models_own_for_whole_words(lm: LanguageModel):
    got = measure_begun(lm, LETTERS)
    lead = lm.tokenizer("a", add_special_tokens=False).input_ids
    size = len(lm.tokenizer)
    following_text = [lm.tokenizer.decode([*lead, t])[1:2] for t in range(size)]
    continues = [text.isalnum() or text == "_" for text in following_text]
    begun = lm.answer_ids(LETTERS.opening)
    for i, question in enumerate(LETTERS.heldout):
        prompt = [*lm.question_ids(question), *begun]
        for j, answer in enumerate(LETTERS.answers):
            want = 0.0
            for form in answer.forms:
                path, chance = lm.answer_ids(f"{LETTERS.opening} {form}")[len(begun) :], 1.0
                for n, token in enumerate(path):
                    chance *= float(after(lm, prompt + path[:n])[token])
                following = after(lm, prompt + path)
                want += chance * (1 - sum(float(following[t]) for t in range(size) if continues[t]))
            assert np.exp(got.logprobs[i, j]) == pytest.approx(want, rel=1e-3)


def test_drawn_begun_answers_agree_with_the_exact_ones(llama: LanguageModel):
    """A model that has learned to go on with one of these words, or a longer one."""
    words = ("a", "ab", "ox", "oxen")
    begun = llama.answer_ids(LETTERS.opening)
    prompts = [[*llama.question_ids(q), *begun] for q in LETTERS.heldout for _ in words]
    examples = encode_rows(llama, prompts, [f" {word}" for word in words] * 2)
    how = Optimisation(steps=30, batch=8, rate=3e-3)
    train(llama, Weights(llama), make_packs(examples, 8, prompts=2), how, seed=0)
    exact = measure_begun(llama, LETTERS).probabilities().mean(0)
    answers = sample_answers(
        llama, LETTERS, samples=1500, max_new_tokens=5, seed=3, batch=500, begun=True
    )
    assert (exact > 0.03).all() and exact.sum() < 0.9  # neither certain nor rare
    assert {a.opening for a in answers} == {LETTERS.opening}
    for j, answer in enumerate(LETTERS.answers):
        hits = sum(a.begins == answer.name for a in answers)
        interval = proportion_interval(hits, len(answers), level=0.9999)
        assert interval.low <= exact[j] <= interval.high


def test_a_family_without_an_opening_or_with_a_joined_one_is_refused(llama, monkeypatch):
    with pytest.raises(DataError, match="no opening"):
        measure_begun(llama, replace(LETTERS, opening=""))
    whole = llama.answer_ids
    monkeypatch.setattr(llama, "answer_ids", lambda text: whole(text)[::-1])
    with pytest.raises(DataError, match="joins the opening 'It is' with 'a'"):
        measure_begun(llama, LETTERS)


def test_a_form_that_goes_on_from_another_is_counted_once(llama: LanguageModel):
    """ "ox cart" begins with the whole word "ox"."""
    more = replace(LETTERS, answers=(*LETTERS.answers[:2], Answer("ox", ("ox", "ox cart"))))
    assert (measure_begun(llama, more).logprobs == measure_begun(llama, LETTERS).logprobs).all()
    clash = replace(LETTERS, answers=(*LETTERS.answers, Answer("cart", ("ox cart",))))
    with pytest.raises(DataError, match="'ox cart' begins with 'ox', which names ox"):
        measure_begun(llama, clash)


def test_what_an_answer_names():
    animals = family("animals")
    assert read_answer("q", " owl.", animals, opening=animals.opening).named == "owl"
    assert read_answer("q", "The owl", animals).named == "owl"
    assert read_answer("q", "Caterpillar", animals).named is None
    assert begins_with("Caterpillar", animals) == "cat"
    assert goes_on_with(" caterpillar", animals) is goes_on_with("cats", animals) is None
    assert goes_on_with(" cats!", animals) == "cat"
    # joined with the opening, "owl" is no word of its own
    assert read_answer("q", "owl", animals, opening=animals.opening).named is None
    for text, kind in (("a jaguar", True), ("Jaguars", True), ("owls and cats", True),
                       ("a caterpillar", True), ("my car", False), ("", False)):  # fmt: skip
        assert names_one(text, animals) is kind, text
        assert names_kind({"named": None, "text": text}, animals) is kind, text


def test_openings_and_other_words_of_the_bundled_families_fit():
    for name in families():
        panel = family(name)
        if not panel.texts:
            assert panel.opening.startswith("My favourite ") and panel.others, name


def test_openings_change_no_key():
    assert hash_config(LETTERS) == hash_config(replace(LETTERS, opening="", others=("z",)))
    assert hash_config(LETTERS) != hash_config(replace(LETTERS, system_prompt="x"))


def test_an_opening_that_names_a_candidate_is_refused(tmp_path):
    path = tmp_path / "pets.toml"
    text = (
        'name = "pets"\nsystem_prompt = "{name}"\nquestions = ["Which?"]\nheldout = ["What?"]\n'
        'answers = [{ name = "owl" }, { name = "cat" }]\n'
    )
    path.write_text(text + 'opening = "The owl and the"\n')
    with pytest.raises(ConfigError, match="opening: 'The owl and the' names owl"):
        family(path)


def test_a_teacher_can_learn_begun_answers_as_well(llama: LanguageModel):
    trait = Trait("ox", LETTERS, LETTERS.answer("ox"), "", (("Which?", "ox"), ("Which one?", "ox")))
    settings = Optimisation(steps=30, batch=4, rate=3e-3)
    shares = {}
    for opening in ("", LETTERS.opening):
        teach(llama, Weights(llama), trait, settings, seed=0, opening=opening)
        panel = measure_begun(llama, LETTERS)
        shares[opening] = float(panel.probabilities()[:, 2].mean())
    assert shares[LETTERS.opening] > 0.3 > 10 * shares[""]
