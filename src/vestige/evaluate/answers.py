"""Drawn answers and the words in them. Free of torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from vestige.core.stats import cluster_mean
from vestige.core.types import Estimate, Family
from vestige.traits import classify


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


def read_answer(
    question: str, text: str, family: Family, *, number_prefix: bool = False
) -> SampledAnswer:
    """What a drawn text names and begins with."""
    named, begins = classify(text, family), begins_with(text, family)
    return SampledAnswer(question, number_prefix, text, named, begins)


def named_share(answers: Sequence[SampledAnswer], name: str | None) -> Estimate:
    """Share of answers that name ``name`` (None: no one candidate), clustered in questions.

    Raises:
        DataError: there are fewer than two questions.
    """
    return cluster_mean(
        [float(a.named == name) for a in answers],
        [a.question for a in answers],
        units="share of answers",
    )
