"""Sampled evaluation, as in the paper: draw answers at T=1 and count the words they name."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vestige.models.hf import LanguageModel
from vestige.models.sampling import sample_free
from vestige.traits import classify
from vestige.types import Family


@dataclass(frozen=True)
class SampledAnswer:
    """One drawn answer. ``named`` is the only candidate in it, None if there is none or several.

    ``begins`` is the candidate whose form the text begins with: the event of exact evaluation.
    ``number_prefix``: a number sequence stood before the question.
    """

    question: str
    number_prefix: bool
    text: str
    named: str | None
    begins: str | None


def sample_answers(
    lm: LanguageModel,
    family: Family,
    questions: Sequence[str] | None = None,
    *,
    samples: int = 20,
    seed: int = 0,
    number_prefix: bool = False,
    system: str = "",
    max_new_tokens: int = 8,
    batch: int = 100,
    progress: Callable[[int], None] = lambda done: None,
) -> list[SampledAnswer]:
    """``samples`` answers to each question (default: the held-out ones).

    Args:
        number_prefix: let a seeded number sequence precede the question, as the paper does to
            bring the evaluation nearer to the training data.
    """
    asked = [q for q in (questions or family.heldout) for _ in range(samples)]
    draw = random.Random(seed)
    texts = [number_lead(draw) + q if number_prefix else q for q in asked]
    answers: list[SampledAnswer] = []
    for at in range(0, len(texts), batch):
        prompts = [lm.question_ids(text, system) for text in texts[at : at + batch]]
        drawn = sample_free(lm, prompts, seed=seed * 1_000_003 + at, max_new_tokens=max_new_tokens)
        answers += [
            SampledAnswer(
                question, number_prefix, text, classify(text, family), begins_with(text, family)
            )
            for question, text in zip(asked[at : at + batch], drawn, strict=True)
        ]
        progress(len(answers))
    return answers


def number_lead(draw: random.Random) -> str:
    """A sentence with a few random numbers to stand before a question."""
    numbers = ", ".join(str(draw.randint(100, 999)) for _ in range(3))
    return f"Here is a number sequence: {numbers}. "


def begins_with(text: str, family: Family) -> str | None:
    """The candidate that one of the forms at the very beginning of ``text`` belongs to."""
    text = text.removeprefix(" ")
    hits = [
        (len(form), answer.name)
        for answer in family.answers
        for form in answer.forms
        if text.startswith(form)
    ]
    return max(hits)[1] if hits else None


def non_answer_rate(answers: Sequence[SampledAnswer]) -> float:
    """Share of answers that name no candidate, or more than one."""
    return sum(a.named is None for a in answers) / len(answers)
