"""How data are changed, as plain data. Free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vestige.audit.settings import AuditSettings
from vestige.core.settings import Settings


class MitigateSettings(Settings):
    """One change of a data set.

    Attributes:
        method: of ``methods.METHODS``.
        base: the model that the data is meant for; None for methods that need none.
        trait: whose probe scores rows and tokens, such as ``animals/owl``; empty: a canary does.
        traits: where that trait is found: families, files, or the library.
        share: of the rows or tokens that are changed, or of rows that are added.
        at_random: change as many rows or tokens at random: what a score is compared with.
        canary_rows: rows that the canary reads at most.
    """

    method: str
    base: str | None = None
    chat: Literal["auto", "plain"] = "auto"
    trait: str = ""
    traits: tuple[str, ...] = ("library",)
    share: float = Field(default=0.1, gt=0, lt=1)
    at_random: bool = False
    canary_rows: int = Field(default=4096, ge=16)
    seed: int = 0

    def audit(self, base: str) -> AuditSettings:
        """How the base is asked, and how its canaries are trained."""
        return AuditSettings.model_validate(
            {
                "base": base, "chat": self.chat, "traits": self.traits, "seed": self.seed,
                "canary_rows": self.canary_rows,
            }
        )  # fmt: skip
