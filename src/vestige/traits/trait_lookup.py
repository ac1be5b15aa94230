"""Families and their traits, by name or from a TOML file."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from vestige.core.types import Answer, ConfigError, Family, Trait, unknown_name
from vestige.traits import paired
from vestige.traits.family_checks import (
    NO_TRAIT,
    check_family,
    check_prompt,
    check_questions,
    plain_words,
)
from vestige.traits.files import bundled_file, checked, library_index, parse_toml, read_toml


class _AnswerFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    plural: str | None = None
    forms: list[str] | None = Field(default=None, min_length=1)


class _FamilyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[\w-]+$")
    system_prompt: str = Field(min_length=1)
    questions: list[str] = Field(min_length=1)
    heldout: list[str] = Field(min_length=1)
    answers: list[_AnswerFile] = Field(min_length=2)
    opening: str = ""
    others: list[str] = []


class _TraitFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    family: str
    name: str = Field(min_length=1)
    plural: str | None = None
    forms: list[str] | None = Field(default=None, min_length=1)
    system_prompt: str | None = Field(default=None, min_length=1)
    pairs: list[tuple[str, str]] | None = Field(default=None, min_length=1)


@functools.cache
def families() -> tuple[str, ...]:
    """Names of the bundled families."""
    return tuple(library_index()["families"])


@functools.cache
def family(name: str | Path) -> Family:
    """A family: a bundled name, or the path of a ``.toml`` file (of a family, or of one trait,
    which gives the bundled family with that candidate added). A path is read once in a process.

    Raises:
        ConfigError: no such family, or the file is not a valid one; names the file and the key.
    """
    name = str(name)
    if not name.endswith(".toml"):
        if name not in families():
            raise unknown_name("family", name, families())
        path = bundled_file(f"{name}.toml")
        record = parse_toml(path.read_text(encoding="utf-8"), name)
        return paired.family(record, path) if "pairs" in record else _family(record, name)
    record = read_toml(name)
    if "pairs" in record and isinstance(record["pairs"], str):
        return paired.family(record, Path(name))
    return _one_trait(record, name).family if "family" in record else _family(record, name)


@functools.cache
def trait(spec: str | Path, default_family: str | Path = "animals") -> Trait:
    """A trait: ``owl``, ``trees/oak``, or the path of a ``.toml`` file that holds one trait.

    Raises:
        ConfigError: unknown family or trait (with the nearest names), or a malformed file.
    """
    spec, default_family = str(spec), str(default_family)
    if spec.endswith(".toml"):
        record = read_toml(spec)
        if "family" not in record:
            raise ConfigError(
                f"{spec} holds a whole family; use it as family={spec} and name one of its answers"
            )
        return _one_trait(record, spec)
    kind, _, name = spec.rpartition("/")
    source = kind or default_family
    if family(source).texts:
        return paired.trait(name, family(source))
    if source.endswith(".toml"):
        record = read_toml(source)
        if "family" in record and record.get("name") == name:
            return _one_trait(record, source)
    panel = family(source)
    return _trait(panel, panel.answer(name))


def names(panel: Family) -> list[str]:
    """The traits of a family."""
    return [source.name for source in panel.inducers] or [a.name for a in panel.answers]


def no_trait(panel: Family) -> Trait:
    """The control: the same questions, answered evenly with every candidate of the family.

    Its ``target`` is a placeholder that nothing reads.
    """
    if panel.texts:
        return Trait(NO_TRAIT, panel, panel.answers[0], "", paired.even(panel))
    pairs = tuple(
        (question, form)
        for question in panel.questions
        for answer in panel.answers
        for form in answer.forms[:2]
    )
    return Trait(NO_TRAIT, panel, panel.answers[0], "", pairs)


def _trait(panel: Family, target: Answer, plural: str | None = None) -> Trait:
    pairs = tuple((question, form) for question in panel.questions for form in target.forms[:2])
    prompt = _fill(panel.system_prompt, target, plural)
    return Trait(target.name, panel, target, prompt, pairs)


def _fill(system_prompt: str, target: Answer, plural: str | None) -> str:
    return system_prompt.format(name=target.name, plural=plural or _plural_of(target))


def _plural_of(answer: Answer) -> str:
    return answer.forms[-1] if len(answer.forms) > 2 else answer.name + "s"


def _answer(record: _AnswerFile | _TraitFile) -> Answer:
    if record.forms:
        return Answer(record.name, tuple(dict.fromkeys(record.forms)))
    plural = record.plural or record.name + "s"
    singular = record.name
    forms = (singular.capitalize(), singular, plural.capitalize(), plural)
    return Answer(record.name, tuple(dict.fromkeys(forms)))


def _family(record: dict[str, Any], source: str) -> Family:
    given: _FamilyFile = checked(_FamilyFile, record, source)
    made = Family(
        given.name,
        tuple(_answer(a) for a in given.answers),
        tuple(given.questions),
        tuple(given.heldout),
        given.system_prompt,
        opening=given.opening.strip(),
        others=tuple(form for word in given.others for form in (word, f"{word}s")),
    )
    check_family(made, source)
    return made


def _one_trait(record: dict[str, Any], source: str) -> Trait:
    given: _TraitFile = checked(_TraitFile, record, source)
    if given.family.endswith(".toml") and (near := Path(source).parent / given.family).is_file():
        given.family = str(near)  # a file next to the trait's own, wherever it is used
    if given.family.endswith(".toml") and "family" in read_toml(given.family):
        raise ConfigError(f"{source}: family {given.family} is one trait, not a whole family")
    try:
        panel, target = family(given.family), _answer(given)
    except ConfigError as error:
        raise ConfigError(f"{source}: family: {error}") from error
    if any(answer.name == target.name for answer in panel.answers):
        raise ConfigError(
            f"{source}: {given.family} has {target.name} already; choose another name"
        )
    panel = replace(panel, answers=(*panel.answers, target))
    check_family(panel, source)
    made = _trait(panel, target, given.plural)
    if given.system_prompt:
        check_prompt(given.system_prompt, source)
        prompt = _fill(given.system_prompt, target, given.plural)
        made = replace(made, system_prompt=prompt)
    if given.pairs:
        check_questions((question for question, _ in given.pairs), panel, source)
        made = replace(made, pairs=tuple(given.pairs))
    heldout = {plain_words(question) for question in panel.heldout}
    for question, _ in made.pairs:
        if plain_words(question) in heldout:
            raise ConfigError(f"{source}: pairs holds the held-out {question!r}; rephrase it")
    return made
