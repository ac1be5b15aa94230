"""Rules that combine methods, fitted on data sets whose writer's trait is not held out.

Which trait: a conditional logit (McFadden 1974) over the library. With place(m, t) the place of
trait t by method m, the chance that t is the writer's is taken to be in proportion to
``prod_m place(m, t) ** -w_m``, w_m >= 0. How much: a line through zero in several predictors.
A data set never takes part in the fit of what it is judged by: of the others only those of other
traits do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy import stats as distributions
from scipy.special import log_softmax

Array = NDArray[np.float64]
RIDGE = 0.01  # of the squared weights, a data set's log-chance; chosen: no weight runs away
HALF_WIDTH = 1.96  # standard errors of a 95% interval


def features(scores: Sequence[Array]) -> Array:
    """-log place of each trait by each method, [T, M]; ties get the worst place."""
    return np.stack([-np.log(distributions.rankdata(-s, method="max")) for s in scores], axis=1)


def weights(tables: Sequence[Array], own: Sequence[int]) -> Array:
    """The weights w [M] that make the writers' own traits likeliest, from features [T, M] each."""

    def loss(w: Array) -> float:
        gained = [log_softmax(f @ w)[i] for f, i in zip(tables, own, strict=True)]
        return float(-np.mean(gained) + RIDGE * (w**2).sum())

    n = tables[0].shape[1]
    fit = optimize.minimize(loss, np.full(n, 0.5), bounds=[(0, None)] * n)
    return np.asarray(fit.x)


def line(x: Array, y: Array) -> Array:
    """The gains [P] of the line through zero from predictors [n, P] to sizes [n]."""
    return np.asarray(np.linalg.lstsq(x, y, rcond=None)[0], np.float64)


def calibration(parts: dict[str, Array]) -> dict[str, Any]:
    """How predicted sizes lie to the measured ones.

    Args:
        parts: tables [n, P + 2] of the pairs of a data set and a trait: its predictors, what the
            student took on (nats), and 1 where the trait is the writer's own. ``not held out`` is
            what the gains are fitted on.

    Returns:
        The gains, the distance from the line where it was fitted, and for each part the distance,
        the share of pairs in the 95% interval, and the same for the writer's own trait.
    """
    first = parts["not held out"]
    if not len(first) or not (first[:, :-2] ** 2).sum():
        return {}
    gains = line(first[:, :-2], first[:, -2])
    off = float(np.sqrt(np.mean((first[:, -2] - first[:, :-2] @ gains) ** 2)))
    fit: dict[str, Any] = {"gains": gains.tolist(), "off": off}
    return fit | {part: _part(table, gains, off) for part, table in parts.items()}


def _part(table: Array, gains: Array, off: float) -> dict[str, Any]:
    """One part's figures; none where it is empty."""
    if not len(table):
        return {}
    expected, measured, own = table[:, :-2] @ gains, table[:, -2], table[:, -1].astype(bool)
    return {
        "off": float(np.sqrt(np.mean((measured - expected) ** 2))),
        "spread": float(np.sqrt(np.mean(measured**2))),
        "covered": float(np.mean(np.abs(measured - expected) <= HALF_WIDTH * off)),
        "own: expected": float(np.mean(expected[own])),
        "own: measured": float(np.mean(measured[own])),
        "own: off": float(np.sqrt(np.mean((measured - expected)[own] ** 2))),
        "pairs": len(table),
    }
