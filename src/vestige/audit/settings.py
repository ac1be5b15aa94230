"""An audit's settings, as plain data. Free of torch."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from vestige.settings import Optimisation, Settings, Trainable

#: How planted teachers are made: as the probes are (in the same layers, on the same questions and
#: answers), and in two ways that the probes are not.
TWIN, LATE, LORA = "twin", "late layers", "LoRA on all layers"
OTHER_KINDS = (LATE, LORA)

FEWEST_REFERENCES = 4  # a planted trait's own rows are held against the others: three at least

LORA_RATE = 1e-3
SAMPLE = 16_384  # rows that are kept of a file of any size; what an audit reads is chosen from them


class AuditSettings(Settings):
    """How an audit is done.

    Attributes:
        base: the model that the data is meant for.
        teacher: the rows' writer, where it is at hand: its probabilities take the place of the
            tokens that it happened to draw.
        rows: rows of the data that are read at most.
        canary_too: also tune a copy of the base on the rows: slower, and what it takes on is
            given in nats.
        looks: shares of the rows after which a canary is asked about every trait. The data is
            flagged at the first look that is clear enough; the error rate is shared among looks.
        planted: twins of the probes that the audit tunes itself, on traits that are not held out.
            Teachers of other kinds (``OTHER_KINDS``) come on top where the verdict needs them.
        base_written: further data sets that the untrained base writes on the same prompts.
        questions: held-out questions that measure a trait.
        layers: which layers canaries and planted teachers tune; None = the middle of the model
            (from a third to three fifths), which transmits most (``docs/log.md``).
        lora_rank: 0 tunes these layers' weights themselves.
        alpha: chance that any trait is flagged falsely, over the whole library and all looks, if
            the untouched base wrote the rows at temperature 1. It covers no other writer.
        drift: nats a row by which a trait has to explain the rows better than any writer of the
            null does. At 0.1 two of 77 data sets (two makings of the benchmark's) are flagged for a
            trait of another family; no rate keeps both out and finds most writers
            (``docs/log.md``).
        max_new_tokens: longer answers are cut there, the data's and the references' alike.
    """

    base: str
    chat: Literal["auto", "plain"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    traits: tuple[str, ...] = ("library",)
    teacher: str | None = None
    rows: int = Field(default=256, ge=16, le=SAMPLE)
    canary_too: bool = False
    looks: tuple[float, ...] = (0.125, 0.375, 1.0)
    batch: int = Field(default=16, ge=2)
    rate: float = Field(default=2e-4, gt=0)
    planted: int = Field(default=4, ge=2)
    base_written: int = Field(default=2, ge=1)
    questions: int = Field(default=12, ge=2)
    layers: tuple[int, int] | None = None
    lora_rank: int = Field(default=0, ge=0)
    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    drift: float = Field(default=0.1, ge=0)
    max_new_tokens: int = Field(default=128, ge=1)
    seed: int = 0

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

    def trainable(self, n_layers: int) -> Trainable:
        """What a canary of a model with ``n_layers`` layers may change."""
        middle = (n_layers // 3, max(n_layers // 3 + 1, n_layers * 3 // 5))
        return Trainable(layers=self.layers or middle, lora_rank=self.lora_rank)

    def canary(self, n_layers: int, rows: int) -> Optimisation:
        """How a canary is tuned on so many rows."""
        return Optimisation(
            steps=self.steps(rows)[-1],
            batch=self.batch,
            rate=self.rate,
            trainable=self.trainable(n_layers),
        )

    def planting(self, n_layers: int, kind: str = TWIN) -> Optimisation:
        """How a planted teacher of a kind is tuned: a twin as the recipes' teachers are, LoRA at a
        higher rate, as its factors start at zero. Whether one of another kind has its trait is
        asked (``Lab.gained``)."""
        what, rate = {
            TWIN: (self.trainable(n_layers), 2e-4),
            LATE: (self.late(n_layers), 2e-4),
            LORA: (Trainable(lora_rank=8), LORA_RATE),
        }[kind]
        return Optimisation(steps=24, batch=8, rate=rate, trainable=what)

    @staticmethod
    def late(n_layers: int) -> Trainable:
        """The last layers, about a quarter: 22 to 29 of 30, as the demo's teachers."""
        return Trainable(layers=(min(n_layers - 1, n_layers * 11 // 15), n_layers))

    def probe(self, n_layers: int) -> Optimisation:
        """How each copy of a probe is tuned: more briefly, and two copies are averaged."""
        what = Trainable(layers=self.trainable(n_layers).layers)
        return Optimisation(steps=12, batch=4, rate=3e-4, trainable=what)
