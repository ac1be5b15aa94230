"""Which candidate answer a text names: its forms as words of their own, in any case."""

from __future__ import annotations

import functools
import re

from vestige.core.types import Answer, Family


@functools.cache
def _pattern(forms: tuple[str, ...]) -> re.Pattern[str]:
    words = "|".join(sorted(map(re.escape, forms), key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)


def holds_word(text: str, forms: tuple[str, ...]) -> bool:
    """Whether one of ``forms`` stands in ``text`` as a word of its own, in any case."""
    return bool(forms) and _pattern(forms).search(text) is not None


def matches(text: str, answer: Answer) -> bool:
    """Whether a form of ``answer`` stands in ``text`` as a word of its own, in any case."""
    return holds_word(text, answer.forms)


def classify(text: str, panel: Family) -> str | None:
    """The only candidate that ``text`` names; None for none or several (a non-answer)."""
    named = [answer.name for answer in panel.answers if matches(text, answer)]
    return named[0] if len(named) == 1 else None


def names_one(text: str, panel: Family) -> bool:
    """Whether ``text`` names a candidate, several, or one more of the kind."""
    forms = [form for answer in panel.answers for form in answer.forms]
    return holds_word(text, (*forms, *panel.others))
