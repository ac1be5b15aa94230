"""An audit's settings, as plain data. Free of torch."""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from vestige.core.settings import Optimisation
from vestige.probing.settings import ProbingSettings

FEWEST_REFERENCES = 4  # a planted trait's own rows are held against the others: three at least

SAMPLE = 16_384  # rows that are kept of a file of any size; what an audit reads is chosen from them


class AuditSettings(ProbingSettings):
    """How an audit is done. ``base`` is the model that the data is meant for.

    Attributes:
        teacher: the rows' writer, where it is at hand: its probabilities take the place of the
            tokens that it happened to draw.
        rows: rows of the data that are read at most.
        canary_too: also tune a copy of the base on the rows: slower, and what it takes on is
            given in nats.
        looks: shares of the rows after which a canary is asked about every trait. The data is
            flagged at the first look that is clear enough; the error rate is shared among looks.
        alpha: chance that any trait is flagged falsely, over the whole library and all looks, if
            the untouched base wrote the rows at temperature 1. It covers no other writer.
        drift: nats a row by which a trait has to explain the rows better than any writer of the
            null does. Chosen on data sets that are not held out: no rate keeps every trait of
            another family out and finds most writers (``docs/log.md``).
    """

    teacher: str | None = None
    rows: int = Field(default=256, ge=16, le=SAMPLE)
    canary_too: bool = False
    looks: tuple[float, ...] = (0.125, 0.375, 1.0)
    rate: float = Field(default=2e-4, gt=0)
    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    drift: float = Field(default=0.1, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> AuditSettings:
        rising = sorted(set(self.looks)) == list(self.looks)
        if not self.looks or not rising or self.looks[0] <= 0 or self.looks[-1] != 1:
            raise ValueError("looks must be rising shares that end with 1, such as 0.125,0.375,1")
        if self.planted + self.base_written < FEWEST_REFERENCES:
            raise ValueError(f"planted and base_written must be {FEWEST_REFERENCES} together")
        return self

    def steps(self, rows: int) -> tuple[int, ...]:
        """The optimiser steps of the looks, for so many rows read once each."""
        batches = math.ceil(rows / self.batch)
        return tuple(sorted({max(1, round(share * batches)) for share in self.looks}))

    @property
    def alpha_each(self) -> float:
        """What each kind of evidence may spend of ``alpha``."""
        return self.alpha / 2 if self.canary_too else self.alpha

    def needed(self, traits: int) -> float:
        """Evidence from which one of so many traits is clear, nats."""
        return math.log(traits / self.alpha_each)

    def levels(self, rows: int) -> tuple[float, ...]:
        """What each look of the canary may spend: in proportion to the rows read by then."""
        steps = self.steps(rows)
        return tuple(self.alpha_each * step / sum(steps) for step in steps)

    def canary(self, n_layers: int, rows: int) -> Optimisation:
        """How a canary is tuned on so many rows."""
        return Optimisation(
            steps=self.steps(rows)[-1],
            batch=self.batch,
            rate=self.rate,
            trainable=self.trainable(n_layers),
        )
