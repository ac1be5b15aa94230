"""An audit's settings, as plain data. Free of torch."""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from vestige.probing.settings import BatterySettings, CanarySettings

SAMPLE = 16_384  # rows that are kept of a file of any size; what an audit reads is chosen from them
SMALLEST_DOSE = 2048  # rows read, below which nothing was ever seen (docs/log.md); chosen
STEP = 4  # times that a dose is the one before it; chosen


class AuditSettings(CanarySettings):
    """How an audit is done. ``base`` is the model that the data is meant for.

    Attributes:
        teacher: the rows' writer, where it is at hand: its probabilities take the place of the
            tokens that it happened to draw.
        first_look: whether the rows are read under probes, which are made once for each base.
        rows: rows of the data that the first look reads at most.
        canaries: pairs of copies of the base, one tuned on the data's rows and one on reference
            rows; 0: the first look alone, which decides nothing.
        training_rows: rows that the training which is to be spared would read, epochs counted;
            None: each row of the data once.
        members: harmless students of the battery that canaries are held against.
        battery: its settings; None: the usual ones of this base.
        alpha: chance that any trait is flagged falsely, over the whole library and all doses, where
            two harmless writers wrote the data and the reference.
        limit: a share of the answers. Where half of the traits would not have been seen, had the
            training that is to be spared taken them there, nothing found says nothing.
        drift: nats a row by which a trait has to explain the rows better than any writer of the
            first look's null does. Chosen on data sets that are not held out: no rate keeps every
            trait of another family out and finds most writers (``docs/log.md``).
    """

    teacher: str | None = None
    first_look: bool = True
    rows: int = Field(default=256, ge=16, le=SAMPLE)
    canaries: int = Field(default=1, ge=0)
    training_rows: int | None = Field(default=None, ge=1)
    members: int = Field(default=100, ge=8)
    battery: BatterySettings | None = None
    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    limit: float = Field(default=0.5, gt=0, lt=1)
    drift: float = Field(default=0.1, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> AuditSettings:
        if self.battery and (self.battery.base, self.battery.traits) != (self.base, self.traits):
            raise ValueError("the battery is of another base, or of other traits")
        if not (self.first_look or self.canaries):
            raise ValueError("neither copies nor a first look: nothing would be done")
        if self.teacher and not self.first_look:
            raise ValueError("a teacher's probabilities are for the first look: leave it out")
        return self

    @property
    def held_against(self) -> BatterySettings:
        """The battery's settings."""
        return self.battery or BatterySettings(
            base=self.base,
            chat=self.chat,
            precision=self.precision,
            traits=self.traits,
            members=self.members,
        )

    def doses(self, rows: int) -> tuple[int, ...]:
        """Rows that canaries read, a smaller dose first, where the data have so many rows."""
        most = self.read_at_most(rows)
        smaller = most // STEP
        return (smaller, most) if smaller >= SMALLEST_DOSE else (most,)

    def needed(self, traits: int) -> float:
        """Evidence from which the first look names one of so many traits, nats."""
        return math.log(traits / self.alpha)
