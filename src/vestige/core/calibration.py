"""Measured figures that code computes with or prints, each with what made it.

They stand in ``calibration.toml``, by base and version of the audit's method, so that a figure of
one base is never used for another.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources

from pydantic import BaseModel, ConfigDict


class Measured(BaseModel):
    """Figures with the command that made them and the commit in which they were recorded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    commit: str


class Probes(Measured):
    """The layers that the probes tune, first and last."""

    layers: tuple[int, int]


class Expected(Measured):
    """What students take on: ``gain`` of a whole probe's slope, ``off`` nats from it."""

    gain: float
    off: float


class OtherKinds(Measured):
    """Places of the trait of teachers that are no twins of the probes; ``chance``: the middle."""

    places: tuple[int, int]
    traits: int
    chance: int
    flagged: int


class HarmlessCopies(Measured):
    """Harmless tuned copies, and how many of them were said to be a tuned model."""

    seen: int
    copies: int


class AnotherFamily(Measured):
    """Twins' data sets that were flagged for a trait of another family."""

    data_sets: int
    flagged: int
    without_own_family: int


class Shuffled(Measured):
    """The share of the contrast that is gone when numbers are shuffled across rows."""

    share: float
    interval: tuple[float, float]


class Growth(Measured):
    """Shifts grow with the rows that a student reads, to the power of ``exponent``."""

    exponent: float
    interval: tuple[float, float]


class LeftOut(Measured):
    """Pairs of harmless students of a kind that the battery does not hold: the share that is found
    at a ``level``."""

    level: float
    share: float
    interval: tuple[float, float]
    pairs: int


class CanariesSeen(Measured):
    """Teachers whose rows pass their trait on, and of how many canaries of so many ``rows`` are
    flagged; ``held_out``: those that had no part in the choice of the method."""

    rows: int
    flagged: int
    teachers: int
    flagged_held_out: int
    held_out: int


class Calibration(BaseModel):
    """All that was measured with one base and one version of the audit's method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str
    method: int
    probes: Probes
    expected: Expected
    other_kinds: OtherKinds
    harmless_copies: HarmlessCopies
    another_family: AnotherFamily
    shuffled: Shuffled
    growth: Growth
    left_out: LeftOut
    canaries: CanariesSeen


@cache
def calibrations() -> tuple[Calibration, ...]:
    """All that was measured, the oldest method first."""
    text = resources.files("vestige.core").joinpath("calibration.toml").read_text(encoding="utf-8")
    return tuple(map(Calibration.model_validate, tomllib.loads(text)["calibration"]))


def calibration(base: str, method: int) -> Calibration | None:
    """What was measured with this base and method; None where nothing was."""
    return next((c for c in calibrations() if (c.base, c.method) == (base, method)), None)


def latest() -> Calibration:
    """What sentences quote: the newest method's figures."""
    return calibrations()[-1]
