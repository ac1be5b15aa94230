"""The cross of traits: what a student took from its own teacher, and its permutation test."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vestige.core.stats.checks import at_least_two, finite, t_quantile
from vestige.core.stats.intervals import t_interval
from vestige.core.types import ConfigError, DataError, Estimate

ENUMERATION_LIMIT = 20_000  # ``permutation_p`` counts every relabelling up to this many


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
    cube = _cube(shifts, controls=True)
    seeds = at_least_two(len(cube))
    per_trait = _own_minus_others(cube)
    matrix = cube.mean(axis=0)
    half = t_quantile(level, seeds - 1) * cube.std(axis=0, ddof=1) / math.sqrt(seeds)
    contrasts = per_trait.mean(axis=1)
    contrast = t_interval(
        contrasts, level=level, units=units, method="t over seeds of the diagonal contrast"
    )
    return Specificity(matrix, matrix - half, matrix + half, per_trait, contrasts, contrast)


def permutation_p(shifts: ArrayLike, *, resamples: int = 20_000, seed: int = 0) -> float:
    """One-sided label permutation test of the diagonal contrast.

    Null hypothesis: within a seed it does not matter which trait's data a student was trained on,
    so that the rows of each seed's matrix may be relabelled at will. The p-value is the share of
    relabellings, all k! of each seed (the true one and those that keep some labels included), whose
    mean diagonal contrast is at least the observed one. With at most ``ENUMERATION_LIMIT`` of the
    (k!)^seeds combinations all are counted and p is exact; else ``resamples`` are drawn and
    ``p = (1 + count) / (1 + resamples)`` (Phipson and Smyth 2010, "Permutation p-values should
    never be zero"). It cannot be below 1 / (k!)^seeds: two traits and three seeds reach 0.125.

    Args:
        shifts: (seeds, data, measured) as for ``specificity``; one seed is enough.
        resamples: relabellings to draw where they are too many to count; ``seed`` draws them.

    Raises:
        DataError: another shape, fewer than two traits, or a cell that is not finite.
        ConfigError: fewer than 100 resamples.
    """
    if resamples < 100:
        raise ConfigError(f"resamples is {resamples}; a permutation test needs at least 100")
    cube = _cube(shifts)
    seeds, traits, _ = cube.shape
    columns = np.arange(traits)
    # Column means do not change under relabelling, so the contrast is the trace of the centred
    # matrix up to a positive factor, and a relabelling only picks other entries for that trace.
    centred = cube - cube.mean(axis=1, keepdims=True)
    observed = float(centred[:, columns, columns].sum())
    threshold = observed - 1e-10 * float(np.abs(cube).max())  # ties count in spite of rounding
    if math.factorial(traits) ** seeds <= ENUMERATION_LIMIT:
        orders = np.array(list(itertools.permutations(range(traits))))
        null = np.zeros(1)
        for matrix in centred:
            null = np.add.outer(null, matrix[orders, columns].sum(axis=1)).ravel()
        return float(np.mean(null >= threshold))
    rng = np.random.default_rng(seed)
    null = np.zeros(resamples)
    for matrix in centred:
        orders = rng.permuted(np.tile(columns, (resamples, 1)), axis=1)
        null += matrix[orders, columns].sum(axis=1)
    return (1 + int(np.sum(null >= threshold))) / (1 + resamples)


def _cube(shifts: ArrayLike, *, controls: bool = False) -> NDArray[np.float64]:
    data = np.asarray(shifts, dtype=np.float64)
    wide = data.ndim == 3 and (data.shape[1] > data.shape[2] > 0 if controls else False)
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
