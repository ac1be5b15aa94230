"""What a reading against a battery says: which traits stand out, which cannot be distinguished from
them, and how large a trait would have had to be to be seen. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vestige.probing.drift import Array, Battery, Reading

APART = 1.0  # standard deviations within which a relative explains a finding as well; chosen
SMALLEST_OF = 24  # traits whose smallest visible effect is computed, evenly spread; chosen


def found(reading: Reading, alpha: float) -> list[int]:
    """Traits whose p-value is at most alpha, the clearest first."""
    order = np.argsort(-reading.standardised, kind="stable")
    return [int(t) for t in order if reading.p[t] <= alpha]


def relatives(traits: Sequence[str], reading: Reading, alpha: float) -> list[int]:
    """Traits (by ids, [T]) that were not found, and explain a finding of their family nearly as
    well."""
    u, best, clear = reading.standardised, dict[str, float](), found(reading, alpha)
    for t in clear:
        best.setdefault(family_of(traits[t]), float(u[t]))
    return [
        t
        for t in range(len(traits))
        if t not in clear and u[t] >= best.get(family_of(traits[t]), np.inf) - APART
    ]


def together(readings: Sequence[Reading]) -> Reading:
    """One reading of several of the same thing: twice the median of their p-values, which is a
    p-value however they depend on each other (Rueger 1978; Vovk & Wang 2020, "Combining p-values
    via averaging", Biometrika 107(4), section 1), and means of the rest."""
    if len(readings) == 1:
        return readings[0]
    return Reading(
        np.mean([r.coherence for r in readings], axis=0),
        np.mean([r.standardised for r in readings], axis=0),
        np.minimum(1.0, 2 * np.median([r.p for r in readings], axis=0)),
    )


def family_of(trait: str) -> str:
    """The family in a trait's id."""
    return trait.rpartition("/")[0]


def smallest_effects(battery: Battery, moved: Array, alpha: float) -> Array:
    """Nats of a trait's logit that would have been found, [T]: for some traits evenly spread over
    the library, and their median for the others, as each takes many readings."""
    count = len(battery.signatures)
    chosen = sorted({i * count // SMALLEST_OF for i in range(SMALLEST_OF)})
    some = [battery.smallest_effect(moved, trait, alpha) for trait in chosen]
    effects = np.full(count, np.median(some))
    effects[chosen] = some
    return effects
