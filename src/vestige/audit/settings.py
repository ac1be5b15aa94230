"""An audit's settings, as plain data. Free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vestige.settings import Optimisation, Settings, Trainable


class AuditSettings(Settings):
    """How an audit is done.

    Attributes:
        base: the model that the data is meant for.
        rows: rows of the data that a canary reads at most; once each, so more cost more.
        looks: optimiser steps after which a canary is asked about every trait. The data is flagged
            at the first look that is clear enough; the error rate is shared among looks.
        planted: teachers that the audit tunes itself, on traits that are not held out.
        references: further data sets that the untrained base writes on the same prompts.
        questions: held-out questions that measure a trait.
        layers: which layers canaries and planted teachers tune; None = the middle of the model
            (from a third to three fifths), which transmits most (``docs/log.md``).
        lora_rank: 0 tunes these layers' weights themselves.
        alpha: chance of a false flag over the whole library and all looks.
    """

    base: str
    chat: Literal["auto", "plain"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    traits: tuple[str, ...] = ("library",)
    rows: int = Field(default=256, ge=16)
    looks: tuple[int, ...] = (2, 6, 16)
    batch: int = Field(default=16, ge=2)
    rate: float = Field(default=2e-4, gt=0)
    planted: int = Field(default=6, ge=2)
    references: int = Field(default=2, ge=0)
    questions: int = Field(default=12, ge=2)
    layers: tuple[int, int] | None = None
    lora_rank: int = Field(default=0, ge=0)
    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    max_new_tokens: int = Field(default=128, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _ordered(self) -> AuditSettings:
        if not self.looks or sorted(set(self.looks)) != list(self.looks) or self.looks[0] < 1:
            raise ValueError("looks must be steps in rising order, such as 2,6,16")
        return self

    @property
    def levels(self) -> tuple[float, ...]:
        """What each look may spend of ``alpha``: in proportion to the rows read by then."""
        return tuple(self.alpha * step / sum(self.looks) for step in self.looks)

    def trainable(self, n_layers: int) -> Trainable:
        """What a canary of a model with ``n_layers`` layers may change."""
        middle = (n_layers // 3, max(n_layers // 3 + 1, n_layers * 3 // 5))
        return Trainable(layers=self.layers or middle, lora_rank=self.lora_rank)

    def canary(self, n_layers: int) -> Optimisation:
        """How a canary is tuned."""
        return Optimisation(
            steps=self.looks[-1],
            batch=self.batch,
            rate=self.rate,
            trainable=self.trainable(n_layers),
        )

    def teacher(self, n_layers: int) -> Optimisation:
        """How a planted teacher is tuned: as the recipes' teachers are."""
        return Optimisation(steps=24, batch=8, rate=2e-4, trainable=self.trainable(n_layers))
