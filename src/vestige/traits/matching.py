"""Which candidate answer a text names: its forms as words of their own, in any case."""

from __future__ import annotations

import functools
import re

from vestige.core.types import Answer, Family


@functools.cache
def _pattern(answer: Answer) -> re.Pattern[str]:
    words = "|".join(sorted(map(re.escape, answer.forms), key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)


def matches(text: str, answer: Answer) -> bool:
    """Whether a form of ``answer`` stands in ``text`` as a word of its own, in any case."""
    return bool(answer.forms) and _pattern(answer).search(text) is not None


def classify(text: str, panel: Family) -> str | None:
    """The only candidate that ``text`` names; None for none or several (a non-answer)."""
    named = [answer.name for answer in panel.answers if matches(text, answer)]
    return named[0] if len(named) == 1 else None
