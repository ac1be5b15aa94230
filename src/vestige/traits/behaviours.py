"""Behaviours: traits that no single word names, each measured on pairs of whole answers.

One TOML file holds the behaviours of a family. A trait has a system prompt and pairs: a question,
the answer of a model with the trait (``own``) and of one without it (``rival``), alike in form and
length. Every second pair measures and is never trained on; the others induce the trait.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from vestige.core.types import Answer, ConfigError, Family, Trait
from vestige.traits.files import checked

RIVAL = "ordinary"


class _Pair(BaseModel):
    model_config = ConfigDict(extra="forbid")
    question: str = Field(min_length=1)
    own: str = Field(min_length=1)
    rival: str = Field(min_length=1)


class _Behaviour(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[A-Za-z0-9][\w-]*$")
    system_prompt: str = Field(min_length=1)
    pair: list[_Pair] = Field(min_length=4)


class _BehaviourFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[A-Za-z0-9][\w-]*$")
    trait: list[_Behaviour] = Field(min_length=1)


def behaviours(record: dict[str, Any], source: str | Path) -> tuple[Trait, ...]:
    """Every trait of a behaviour file.

    Raises:
        ConfigError: a key is missing or wrong, two traits share a name, or a question stands twice.
    """
    given: _BehaviourFile = checked(_BehaviourFile, record, str(source))
    names = [trait.name for trait in given.trait]
    asked = [pair.question for trait in given.trait for pair in trait.pair]
    for kind, values in (("trait", names), ("question", asked)):
        for value in values:
            if values.count(value) > 1:
                raise ConfigError(f"{source}: the {kind} {value!r} stands there twice")
    return tuple(_behaviour(given.name, trait) for trait in given.trait)


def _behaviour(family: str, given: _Behaviour) -> Trait:
    train, measure = given.pair[0::2], given.pair[1::2]
    answers = (Answer(given.name, ()), Answer(RIVAL, ()))
    panel = Family(
        name=family,
        answers=answers,
        questions=tuple(pair.question for pair in train),
        heldout=tuple(pair.question for pair in measure),
        system_prompt=given.system_prompt,
        texts=tuple((pair.own, pair.rival) for pair in measure),
    )
    pairs = tuple((pair.question, pair.own) for pair in train)
    return Trait(given.name, panel, answers[0], given.system_prompt, pairs)
