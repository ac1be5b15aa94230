"""What makes a family of traits valid; every error names the file and what is wrong in it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from vestige.core.types import ConfigError, Family
from vestige.traits.matching import matches

NO_TRAIT = "none"  # the name of the control without a trait
#: Names of answers become names of folders; what they look like in text is up to their forms.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+=.-]*")


def check_family(panel: Family, source: str) -> None:
    """Names and forms are unique, held-out is held out, no question names a candidate."""
    _check_answers(panel, source)
    check_prompt(panel.system_prompt, source)
    trained = {plain_words(question) for question in panel.questions}
    for question in panel.heldout:
        if plain_words(question) in trained:
            raise ConfigError(f"{source}: {question!r} is in questions and in heldout")
    check_questions((*panel.questions, *panel.heldout), panel, source)
    for answer in panel.answers:
        if matches(panel.opening, answer):
            raise ConfigError(f"{source}: opening: {panel.opening!r} names {answer.name}")


def check_prompt(system_prompt: str, source: str) -> None:
    """A system prompt has no other fields than ``{name}`` and ``{plural}``."""
    try:
        system_prompt.format(name="", plural="")
    except (LookupError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{source}: system_prompt may hold {{name}} and {{plural}} alone: {error!r}"
        ) from error


def check_questions(questions: Iterable[str], panel: Family, source: str) -> None:
    """No question is empty or names a candidate."""
    for question in questions:
        if not plain_words(question):
            raise ConfigError(f"{source}: there is an empty question")
        for answer in panel.answers:
            if matches(question, answer):
                raise ConfigError(f"{source}: the question {question!r} names {answer.name}")


def _check_answers(panel: Family, source: str) -> None:
    owner: dict[str, str] = {}
    for answer in panel.answers:
        if not _NAME.fullmatch(answer.name) or answer.name == NO_TRAIT:
            raise ConfigError(
                f"{source}: the name {answer.name!r} cannot be used: letters, digits and _+=.- "
                f"only, and not {NO_TRAIT!r}; other spellings go into its forms"
            )
        for form in answer.forms:
            if not form.strip():
                raise ConfigError(f"{source}: {answer.name} has an empty form")
            other = owner.setdefault(form.casefold(), answer.name)
            if other != answer.name:
                raise ConfigError(
                    f"{source}: the form {form!r} belongs to {other} and {answer.name}"
                )
    names = [answer.name for answer in panel.answers]
    if len(set(names)) < len(names):
        raise ConfigError(f"{source}: two answers have the same name")


def plain_words(question: str) -> str:
    """The words of a question, whatever its case, spaces and punctuation."""
    return " ".join(re.findall(r"\w+", question.casefold()))
