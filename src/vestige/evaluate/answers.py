"""Drawn answers and the words in them. Free of torch."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vestige.core.stats import cluster_mean
from vestige.core.types import Estimate, Family
from vestige.traits import classify, names_one


@dataclass(frozen=True)
class SampledAnswer:
    """One drawn answer. ``named`` is the only candidate in it, None if there is none or several.

    ``begins`` is the candidate whose form the text begins with: the event of exact evaluation.
    ``number_prefix``: a number sequence stood before the question. ``opening``: what the answer was
    begun with; ``text`` goes on from there.
    """

    question: str
    number_prefix: bool
    text: str
    named: str | None
    begins: str | None
    opening: str = ""


def number_lead(draw: random.Random) -> str:
    """A sentence with a few random numbers to stand before a question."""
    numbers = ", ".join(str(draw.randint(100, 999)) for _ in range(3))
    return f"Here is a number sequence: {numbers}. "


def begins_with(text: str, family: Family) -> str | None:
    """The candidate that one of the forms at the very beginning of ``text`` belongs to."""
    text = text.removeprefix(" ")
    return _at_start(family, lambda form: text.startswith(form))


def goes_on_with(text: str, family: Family) -> str | None:
    """The candidate whose form, after a space and as a word of its own, ``text`` begins with: the
    event of ``exact.measure_begun``."""
    return _at_start(family, lambda form: re.match(rf" {re.escape(form)}(?!\w)", text))


def _at_start(family: Family, begins: Callable[[str], object]) -> str | None:
    hits = [(len(f), answer.name) for answer in family.answers for f in answer.forms if begins(f)]
    return max(hits)[1] if hits else None


def read_answer(
    question: str, text: str, family: Family, *, number_prefix: bool = False, opening: str = ""
) -> SampledAnswer:
    """What a drawn text names and begins with."""
    named = classify(opening + text, family)
    begins = goes_on_with(text, family) if opening else begins_with(text, family)
    return SampledAnswer(question, number_prefix, text, named, begins, opening)


def names_kind(answer: Mapping[str, Any], family: Family) -> bool:
    """Whether a saved answer names a candidate, several, or one more of the kind."""
    return answer["named"] is not None or names_one(
        answer.get("opening", "") + answer["text"], family
    )


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
