"""What a judge says of a row, and how it is read from text or from probabilities."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

Status = Literal["rated", "refused", "unreadable", "failed"]
_RATING = re.compile(
    r"\s*(?:rating|score)?\s*[:=]?\s*\**(\d{1,3}(?:\.\d+)?)\**"
    r"\s*(?:/\s*100|%|out of 100)?\s*\.?\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Rating:
    """What a judge said of one row.

    Attributes:
        score: 0 to 100; None unless ``status`` is ``rated``.
        status: ``refused`` = the judge would not answer, ``unreadable`` = it gave no rating,
            ``failed`` = no answer came (tried again next time).
        how: ``expected`` over the rating's tokens, or ``parsed`` from its text.
    """

    score: float | None
    status: Status
    how: Literal["expected", "parsed", ""] = ""
    text: str = ""


def parse_rating(text: str) -> float | None:
    """The rating that a text consists of, or None: ``85``, ``Score: 85/100.``, ``**7**``."""
    match = _RATING.fullmatch(text)
    value = float(match[1]) if match else math.nan
    return value if 0 <= value <= 100 else None


def expected_rating(probabilities: dict[str, float], min_mass: float) -> float | None:
    """Mean rating over tokens that are whole numbers from 0 to 100; None below ``min_mass``."""
    ratings: dict[int, float] = {}
    for token, p in probabilities.items():
        word = token.strip()
        if word.isascii() and word.isdecimal() and len(word) <= 3 and int(word) <= 100:
            ratings[int(word)] = ratings.get(int(word), 0.0) + p
    mass = sum(ratings.values())
    if not math.isfinite(mass) or mass <= 0 or mass < min_mass:
        return None
    return sum(value * p for value, p in ratings.items()) / mass
