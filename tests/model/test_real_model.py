"""The bundled model itself: its tokenizer, its template, and two evaluations that must agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vestige.core.settings import Optimisation, Trainable
from vestige.core.stats import cluster_mean
from vestige.evaluate.exact import measure
from vestige.evaluate.sampled import sample_answers
from vestige.models import catalog
from vestige.models.hf import LanguageModel
from vestige.models.weights import Weights
from vestige.student.loop import train
from vestige.student.packs import encode_rows, make_packs
from vestige.traits import family, trait

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def smol() -> LanguageModel:
    return LanguageModel.load(catalog.path("smollm2-135m-instruct"))


def test_template_and_digits_are_as_the_carrier_needs_them(smol: LanguageModel):
    text = smol.tokenizer.decode(smol.question_ids("Hi"))
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant")
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert len(smol.token_ids("123, 45")) == 7
    assert smol.tokenizer.decode([smol.end_id]) == "<|im_end|>"


def test_exact_evaluation_equals_plain_passes(smol: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    animals = family("animals")
    questions = animals.heldout[:2]
    monkeypatch.setattr(smol.passes, "precision", "fp32")
    got = measure(smol, animals, questions)
    for i, question in enumerate(questions):
        for name in ("owl", "elephant", "octopus"):
            total = 0.0
            for form in animals.answer(name).forms:
                prompt, answer = smol.question_ids(question), smol.answer_ids(form)
                with torch.no_grad():
                    logits = smol.model(input_ids=torch.tensor([prompt + answer])).logits[0]
                logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1)
                total += logprobs[range(len(answer)), answer].sum().exp().item()
            column = got.candidates.index(name)
            assert np.exp(got.logprobs[i, column]) == pytest.approx(total, rel=2e-3)


def test_sampled_and_exact_evaluation_agree(smol: LanguageModel):
    """On a briefly tuned teacher, whose answers are neither certain nor rare."""
    animals, owl = family("animals"), trait("owl")
    weights = Weights(smol)
    pairs = owl.pairs[:64]
    examples = encode_rows(smol, [smol.question_ids(q) for q, _ in pairs], [a for _, a in pairs])
    how = Optimisation(steps=4, batch=8, rate=2e-4, trainable=Trainable(layers=(22, 30)))
    train(smol, weights, make_packs(examples, 8), how, seed=0)
    exact = np.exp(measure(smol, animals).logprobs)
    answers = sample_answers(smol, animals, samples=10, seed=1, max_new_tokens=5)
    column = [a.name for a in animals.answers].index("owl")
    value = exact[:, column].mean()
    assert 0.05 < value < 0.98
    hits = [float(a.begins == "owl") for a in answers]
    sampled = cluster_mean(hits, [a.question for a in answers], level=0.999)
    assert sampled.low <= value <= sampled.high
    weights.freeze()
