"""A training objective as settings: a loss, penalties that are added to it, and gradient hooks.

A step makes ``loss + sum of strength * penalty`` small; each hook may change the gradient before
its norm is clipped. The settings name what there is; how it is computed is a file for each, in
``losses``, ``penalties`` and ``gradient_hooks``. A new one is such a file and its name here.
Free of torch: recipes hold these settings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from vestige.core.settings import Settings
from vestige.core.types import ConfigError, unknown_name
from vestige.store import hash_config
from vestige.traits.library import load_library

#: Files of ``losses``: a function ``loss(logprobs, pack, target)``.
LOSSES = ("cross_entropy", "forward_kl", "preference")
#: Files of ``penalties``: a function ``make(lm, term)`` that gives a function without arguments.
PENALTIES = ("corridor", "kl_to_base")
#: Those that are about the traits of the library, or of the families that their file names.
READ_LIBRARY = ("corridor",)
#: Files of ``gradient_hooks``: a function ``make(lm, term)`` that gives a function of the trained
#: parameters by name.
GRADIENT_HOOKS = ("project_out",)


def known(name: str, names: Iterable[str], kind: str) -> str:
    """``name``. Raises ``ConfigError`` if it is none of ``names``."""
    if name not in names:
        raise unknown_name(kind, name, names)
    return name


def a_loss(name: str) -> str:
    """The name of a loss, or nothing: the method's own."""
    return known(name, LOSSES, "loss") if name else name


class Term(Settings):
    """A penalty or a gradient hook, by name and number.

    Attributes:
        strength: what a penalty is multiplied by; a gradient hook uses it as it says. 0: no effect.
        file: a file that it needs, such as prompts or directions; its content, not its place, is
            part of a student's key.
    """

    name: str
    strength: float = Field(default=1.0, ge=0)
    file: str = ""

    @property
    def identity(self) -> list[Any]:
        """What a student depends on. Raises ``ConfigError`` if the file cannot be read."""
        of_library = [self.families] if self.name in READ_LIBRARY else []
        return [self.name, self.strength, *([self.digest] if self.file else []), *of_library]

    @property
    def families(self) -> str:
        """A hash of the families that the file names, or of the library's."""
        sources = self.lines() if self.file else ["library"]
        return hash_config([trait.family for trait in load_library(sources).traits])

    def lines(self) -> list[str]:
        """The file's lines, without empty ones. Raises ``ConfigError`` if it cannot be read."""
        try:
            text = Path(self.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.name}: cannot read {self.file}: {error}") from error
        return [line.strip() for line in text.split("\n") if line.strip()]

    @property
    def digest(self) -> str:
        """The sha256 of the file."""
        try:
            return hashlib.sha256(Path(self.file).read_bytes()).hexdigest()
        except OSError as error:
            raise ConfigError(f"objective {self.name}: cannot read {self.file}: {error}") from error


class Objective(Settings):
    """What training makes small.

    Attributes:
        loss: ``cross_entropy`` of the rows' own tokens, or ``forward_kl``: KL(teacher || student)
            over the teacher's probabilities, both in nats a position; ``preference``, in nats a
            pair of rows; empty: what the student's method has.
        penalties: added to the loss, in this order.
        gradient_hooks: applied to the gradient after the backward pass, in this order.
    """

    loss: Annotated[str, AfterValidator(a_loss)] = ""
    penalties: tuple[Term, ...] = ()
    gradient_hooks: tuple[Term, ...] = ()

    @field_validator("penalties", "gradient_hooks")
    @classmethod
    def _known_terms(cls, terms: tuple[Term, ...], info: ValidationInfo) -> tuple[Term, ...]:
        names, kind = {
            "penalties": (PENALTIES, "penalty"),
            "gradient_hooks": (GRADIENT_HOOKS, "gradient hook"),
        }[str(info.field_name)]
        for term in terms:
            known(term.name, names, kind)
        return terms

    @property
    def is_default(self) -> bool:
        """Whether it is the method's loss and nothing else, as before there were objectives."""
        return self == Objective()

    @property
    def identity(self) -> dict[str, Any]:
        """What a student's key has of it; empty for the default."""
        if self.is_default:
            return {}
        return {
            "loss": self.loss,
            "penalties": [term.identity for term in self.penalties],
            "gradient_hooks": [term.identity for term in self.gradient_hooks],
        }
