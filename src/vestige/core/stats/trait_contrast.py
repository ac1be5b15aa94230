"""The cross of traits: what a student took from its own teacher."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vestige.core.stats.checks import at_least_two, finite, t_quantile
from vestige.core.stats.intervals import t_interval
from vestige.core.types import DataError, Estimate


@dataclass(frozen=True, slots=True, eq=False)
class Specificity:
    """How far each trait rises in its own students beyond its rise in the other traits' students.

    Attributes:
        matrix: (data, measured) mean shift over seeds; row = what the student was trained on.
        low: (data, measured) lower end of each cell's t interval over seeds.
        high: (data, measured) upper end.
        per_trait: (seeds, traits) own shift minus the mean shift in the other traits' students.
        seed_contrasts: (seeds,) diagonal contrast, the mean of ``per_trait`` over traits.
        contrast: the diagonal contrast with its t interval over seeds; zero means that students
            take on no more of their own teacher's trait than of any other.
    """

    matrix: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    per_trait: NDArray[np.float64]
    seed_contrasts: NDArray[np.float64]
    contrast: Estimate


def specificity(shifts: ArrayLike, *, level: float = 0.95, units: str = "") -> Specificity:
    """The diagonal contrast of a cross of traits: what a student took from its *own* teacher.

    For seed s, trait i, k traits and D >= k data sets, those beyond k being controls alone::

        per_trait[s, i]   = S[s, i, i] - mean over j != i of S[s, j, i]
        seed_contrasts[s] = mean over i of per_trait[s, i]

    The comparison runs down a column, so that a drift of trait i which every student of a seed
    shows cancels exactly. Every interval is Student's over seeds, each taken by itself.

    Args:
        shifts: (seeds, data, measured) shift of each measured trait in the student trained on each
            data set; index i stands for the same trait on both axes.

    Raises:
        DataError: another shape, fewer than two seeds or data sets, or a cell that is not finite.
    """
    cube = _cube(shifts)
    seeds = at_least_two(len(cube))
    per_trait = _own_minus_others(cube)
    matrix = cube.mean(axis=0)
    half = t_quantile(level, seeds - 1) * cube.std(axis=0, ddof=1) / math.sqrt(seeds)
    contrasts = per_trait.mean(axis=1)
    contrast = t_interval(
        contrasts, level=level, units=units, method="t over seeds of the diagonal contrast"
    )
    return Specificity(matrix, matrix - half, matrix + half, per_trait, contrasts, contrast)


def _cube(shifts: ArrayLike) -> NDArray[np.float64]:
    data = np.asarray(shifts, dtype=np.float64)
    wide = data.ndim == 3 and data.shape[1] > data.shape[2] > 0
    if data.ndim != 3 or (data.shape[1] != data.shape[2] and not wide):
        raise DataError(
            f"shifts have shape {data.shape}; expected (seeds, traits, traits): data sets in rows, "
            "the same traits measured in columns"
        )
    if data.shape[1] < 2:
        raise DataError("a specificity contrast needs at least two traits")
    return finite(data)


def _own_minus_others(cube: NDArray[np.float64]) -> NDArray[np.float64]:
    """(seeds, traits) diagonal minus the mean of the rest of its column."""
    own = np.diagonal(cube, axis1=1, axis2=2)
    return own - (cube.sum(axis=1) - own) / (cube.shape[1] - 1)
