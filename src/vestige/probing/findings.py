"""What a reading against a battery says: which traits stand out, and which cannot be distinguished
from them. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vestige.probing.drift import Reading

APART = 1.0  # standard deviations within which a relative explains a finding as well; chosen


def found(reading: Reading, alpha: float) -> list[int]:
    """Traits whose p-value is at most alpha, the clearest first."""
    return [t for t in reading.order if reading.p[t] <= alpha]


def relatives(traits: Sequence[str], reading: Reading, alpha: float) -> list[int]:
    """Traits (by ids, [T]) that were not found, and explain a finding of their family nearly as
    well."""
    u, best, clear = reading.standardised, dict[str, float](), found(reading, alpha)
    for t in clear:
        best.setdefault(family_of(traits[t]), float(u[t]))
    return [
        t
        for t in range(len(traits))
        if t not in clear
        and reading.p[t] < 1
        and u[t] >= best.get(family_of(traits[t]), np.inf) - APART
    ]


def together(readings: Sequence[Reading]) -> Reading:
    """One reading of several of the same thing: twice the median of their p-values, which is a
    p-value however they depend on each other (Rueger 1978; Vovk & Wang 2020, "Combining p-values
    via averaging", Biometrika 107(4), section 1), and means of the rest."""
    if len(readings) == 1:
        return readings[0]
    return Reading(
        np.mean([r.standardised for r in readings], axis=0),
        np.minimum(1.0, 2 * np.median([r.p for r in readings], axis=0)),
    )


def family_of(trait: str) -> str:
    """The family in a trait's id."""
    return trait.rpartition("/")[0]
