"""How data are changed, as plain data. Free of torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from vestige.core.settings import Settings
from vestige.core.types import unknown_name
from vestige.probing.settings import CanarySettings

#: The methods; ``methods.METHODS`` has a function for each.
METHODS = ("drop", "redraw", "dilute", "sort-numbers", "other-digits", "plain-code")
OWN = "own"  # in a recipe: the trait of the rows' teacher
SCORED = ("drop", "redraw")  # choose rows or tokens
NEED_BASE = (*SCORED, "dilute")


def a_method(name: str) -> str:
    """The name of a method. Raises ``ConfigError`` for any other."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return name


class Change(Settings):
    """One change of a data set.

    Attributes:
        trait: whose probe scores rows and tokens, such as ``animals/owl``; in a recipe also
            ``own``: that of the rows' teacher; empty: a canary does.
        share: of the rows or tokens that are changed, or of rows that are added.
        at_random: change as many rows or tokens at random: what a score is compared with.
        canary_rows: rows that the canary reads at most.
    """

    method: Annotated[str, AfterValidator(a_method)]
    trait: str = ""
    share: float = Field(default=0.1, gt=0, lt=1)
    at_random: bool = False
    canary_rows: int = Field(default=4096, ge=16)

    @model_validator(mode="after")
    def _fits(self) -> Change:
        if self.method not in SCORED and (self.at_random or self.trait):
            raise ValueError(f"{self.method} chooses no rows: leave trait and at_random out")
        if self.at_random and self.trait:
            raise ValueError("at_random chooses without a trait: leave trait out")
        return self

    @property
    def label(self) -> str:
        """What is done, in words."""
        if self.method not in NEED_BASE:
            return self.method
        chosen = " at random" if self.at_random else ""
        if self.trait:
            chosen = " by the trait's probe" if self.trait == OWN else f" by {self.trait}'s probe"
        return f"{self.method} {self.share:.0%}{chosen}"


class MitigateSettings(Change):
    """A change of a file.

    Attributes:
        base: the model that the data is meant for; None for methods that need none.
        traits: where the trait is found: families, files, or the library.
    """

    base: str | None = None
    chat: Literal["auto", "plain"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    traits: tuple[str, ...] = ("library",)
    seed: int = 0

    def probing(self, base: str) -> CanarySettings:
        """How the base is asked, and how its canaries are trained."""
        return CanarySettings(
            base=base,
            chat=self.chat,
            precision=self.precision,
            traits=self.traits,
            seed=self.seed,
            canary_rows=self.canary_rows,
        )
