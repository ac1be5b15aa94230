"""Intervals, tests, multiplicity and planning.

The unit of replication is a training run (a seed): students that share a seed's data are one
observation, however many questions each answers. Questions are clustered within a run, samples
within a question. Nothing here pools them as if they were independent, and nothing falls back on a
constant: input that is empty, unmatched, NaN or infinite raises ``DataError``.

Throughout, ``t(level, df)`` is the two-sided Student quantile: a Student variable with ``df``
degrees of freedom lies within ``+- t(level, df)`` with probability ``level``. Values keep the units
they came with; ``units`` is copied to the estimate. ``level`` is the probability that the interval
covers the truth; a ``level`` outside 0 to 1 raises ``ConfigError`` everywhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from vestige.core.types import ConfigError, DataError, Estimate

ENUMERATION_LIMIT = 20_000  # ``permutation_p`` counts every relabelling up to this many
_BATCH = 5_000_000  # numbers that one block of bootstrap resamples may hold (40 MB)
_ROUNDING = 1e-12  # relative slack, so that a half-width just reached counts as reached


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


# Intervals


def t_interval(
    values: Iterable[float], *, level: float = 0.95, units: str = "", method: str = "t over seeds"
) -> Estimate:
    """Mean of independent runs with its Student interval.

    ``mean +- t(level, n - 1) * sd / sqrt(n)`` with ``sd`` over ``n - 1``. Exact for normal values.
    Values without any spread give an interval of zero width: check that the seed is really used.
    ``values`` (n,) holds one number for each run; ``method`` is how the estimate calls itself.

    Raises:
        DataError: fewer than two values, or one that is not finite.
    """
    data = _vector(values)
    n = _at_least_two(len(data))
    centre, half = float(data.mean()), smallest_contrast(float(data.std(ddof=1)), n, level=level)
    return Estimate(centre, centre - half, centre + half, level, n, n, method, units)


def bootstrap_interval(
    values: Iterable[float],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    units: str = "",
) -> Estimate:
    """Mean of independent values with its BCa bootstrap interval (``scipy.stats.bootstrap``).

    Percentiles of resampled means, shifted for bias and skewness (Efron 1987, "Better bootstrap
    confidence intervals"). For many values that are far from normal. It is too short for few: for
    normal values it covers 0.91 instead of 0.95 at n = 12, and 0.79 at n = 4. Over seeds use
    ``t_interval``.
    Values are sorted first, so that the interval does not depend on their order.

    Raises:
        DataError: fewer than two values, no spread, or a value that is not finite.
        ConfigError: fewer than 100 resamples.
    """
    data = np.sort(_vector(values))
    n = _at_least_two(len(data))
    _check_level(level)
    if resamples < 100:
        raise ConfigError(f"resamples is {resamples}; a bootstrap needs at least 100")
    _require_spread(data, "a bootstrap")
    batch, rng = max(1, min(resamples, _BATCH // n)), np.random.default_rng(seed)
    low, high = stats.bootstrap(
        (data,), np.mean, n_resamples=resamples, batch=batch, confidence_level=level, rng=rng
    ).confidence_interval
    low, high = float(low), float(high)
    return Estimate(float(data.mean()), low, high, level, n, n, "BCa bootstrap", units)


def cluster_mean(
    values: Iterable[float], clusters: Iterable[Hashable], *, level: float = 0.95, units: str = ""
) -> Estimate:
    """Mean of samples that are clustered in questions, with a cluster-robust interval.

    With G clusters, n values and residuals ``e`` around the mean of all values::

        se^2 = G / (G - 1) / n^2 * sum over clusters of (sum of e in the cluster)^2
        mean +- t(level, G - 1) * se

    Source: Miller 2024, "Adding error bars to evals" (arXiv 2411.00640), clustered standard errors.
    Deviations: the factor G / (G - 1) and Student's t instead of 1.96, because a family has few
    questions; for clusters of one size this is exactly the t interval of the cluster means. With
    clusters of very unequal size it is somewhat too short. It says how the result would vary with
    other questions for the *same* model; for other training runs use ``t_interval`` over seeds.
    ``values`` (n,) are scored samples, ``clusters`` (n,) the question of each.

    Raises:
        DataError: lengths differ, fewer than two clusters, or a value is not finite.
    """
    data, keys = _vector(values), list(clusters)
    if len(keys) != len(data):
        raise DataError(f"{len(data)} values but {len(keys)} cluster labels; give one for each")
    groups = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    count = len(groups)
    if count < 2:
        raise DataError("a cluster-robust interval needs at least two clusters (questions), got 1")
    centre = float(data.mean())
    sums = np.bincount([groups[key] for key in keys], weights=data - centre, minlength=count)
    se = math.sqrt(count / (count - 1) * float(sums @ sums)) / len(data)
    half = _t_quantile(level, count - 1) * se
    low, high = centre - half, centre + half
    return Estimate(centre, low, high, level, len(data), count, "cluster-robust t", units)


def proportion_interval(
    successes: int, n: int, *, level: float = 0.95, units: str = "proportion"
) -> Estimate:
    """Share of independent trials that succeed, with its Wilson score interval.

    With ``p = successes / n`` and the normal quantile ``z``::

        (p + z^2 / 2n  +-  z * sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    It stays within 0 and 1 and has width at 0 and n successes. Trials that share a question are
    not independent: use ``cluster_mean``. Source: Wilson 1927, "Probable inference, the law of
    succession, and statistical inference".

    Raises:
        DataError: no trials, or successes outside 0 to n.
    """
    if n < 1:
        raise DataError(f"a proportion needs at least one trial, got {n}")
    if not 0 <= successes <= n:
        raise DataError(f"{successes} successes in {n} trials is impossible")
    _check_level(level)
    z, p = float(stats.norm.ppf((1 + level) / 2)), successes / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    # At 0 and n successes one end is p itself; written out, since rounding would miss it.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Estimate(p, low, high, level, n, n, "Wilson", units)


def paired_difference(
    a: Mapping[Any, float], b: Mapping[Any, float], *, level: float = 0.95, units: str = ""
) -> Estimate:
    """Mean of ``a - b`` over seeds, with the t interval of the differences.

    ``a`` and ``b`` map each seed to its value under one condition; both hold the same seeds.

    Raises:
        DataError: the seeds differ, there are fewer than two, or a value is not finite.
    """
    if a.keys() != b.keys():
        only_a = [str(key) for key in a if key not in b]
        only_b = [str(key) for key in b if key not in a]
        raise DataError(
            "paired values need the same seeds on both sides; only in the first: "
            f"{', '.join(only_a) or 'none'}; only in the second: {', '.join(only_b) or 'none'}"
        )
    return t_interval(
        [a[key] - b[key] for key in a], level=level, units=units, method="paired t over seeds"
    )


# Tests and multiplicity


def t_test_p(
    values: Iterable[float], *, alternative: Literal["greater", "two-sided"] = "greater"
) -> float:
    """p-value of Student's one-sample test that the mean over seeds is zero.

    ``t = mean * sqrt(n) / sd`` with n - 1 degrees of freedom. ``greater`` is the probability of a
    t at least as large, ``two-sided`` of one at least as far from zero.

    Raises:
        DataError: fewer than two values, no spread, or a value that is not finite.
        ConfigError: an unknown ``alternative``.
    """
    data = _vector(values)
    n = _at_least_two(len(data))
    if alternative not in ("greater", "two-sided"):
        raise ConfigError(f"alternative is {alternative!r}; valid: greater, two-sided")
    _require_spread(data, "a t test")
    t = float(data.mean()) * math.sqrt(n) / float(data.std(ddof=1))
    if alternative == "greater":
        return float(stats.t.sf(t, n - 1))
    return float(2 * stats.t.sf(abs(t), n - 1))


def holm(p: Iterable[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    For the i-th smallest of m: the largest of ``min(1, (m - j + 1) p_(j))`` over j up to i.
    Rejecting those at most alpha holds the chance of *any* false rejection to alpha, whatever the
    dependence. Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    Raises:
        DataError: no p-values, or one outside 0 to 1.
    """
    data = _p_values(p)
    order = np.argsort(data)
    steps = np.minimum(1.0, data[order] * np.arange(len(data), 0, -1))
    adjusted = np.empty_like(data)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted.tolist()


def benjamini_hochberg(p: Iterable[float]) -> list[float]:
    """Benjamini and Hochberg's adjusted p-values, in the order given.

    For the i-th smallest of m: the smallest of ``m p_(j) / j`` over j from i. Rejecting those at
    most q holds the expected share of false rejections to q, for independent or positively
    dependent tests. Source: Benjamini and Hochberg 1995, "Controlling the false discovery rate".

    Raises:
        DataError: no p-values, or one outside 0 to 1.
    """
    return np.asarray(stats.false_discovery_control(_p_values(p), method="bh")).tolist()


# The specificity matrix


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
    seeds = _at_least_two(len(cube))
    per_trait = _own_minus_others(cube)
    matrix = cube.mean(axis=0)
    half = _t_quantile(level, seeds - 1) * cube.std(axis=0, ddof=1) / math.sqrt(seeds)
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


def rank_of(values: Iterable[float], index: int) -> int:
    """Place of ``values[index]`` from the largest (1 = first); ties get the worst place.

    Counts the values at least as large, so that a tie is never read as a win.

    Raises:
        DataError: no values, one that is not finite, or ``index`` outside them.
    """
    data = _vector(values)
    if not 0 <= index < len(data):
        raise DataError(f"index {index} is outside the {len(data)} values")
    return int(np.sum(data >= data[index]))


# Planning


def smallest_contrast(sd: float, seeds: int, *, level: float = 0.95) -> float:
    """Half-width that ``seeds`` runs give: ``t(level, seeds - 1) * sd / sqrt(seeds)``.

    A true contrast of this size is told from zero little more than half the time; plan for more.
    ``sd`` is the standard deviation between runs, in the units of the answer.

    Raises:
        DataError: fewer than two seeds, or ``sd`` negative or not finite.
    """
    _at_least_two(seeds)
    _check_size("sd", sd)
    return _t_quantile(level, seeds - 1) * sd / math.sqrt(seeds)


def seeds_needed(sd: float, half_width: float, *, level: float = 0.95) -> int:
    """Smallest number of runs, at least 2, whose interval is at most +- ``half_width``.

    Solves ``smallest_contrast(sd, n) <= half_width`` for n. ``sd`` is taken as known: an interval
    from n new runs is shorter or longer as their own spread turns out.

    Raises:
        DataError: ``half_width`` is not positive, or ``sd`` negative or not finite.
    """
    _check_level(level)
    _check_size("half_width", half_width, zero=False)
    _check_size("sd", sd)
    z = float(stats.norm.ppf((1 + level) / 2))
    # Student's quantile exceeds the normal one, so the search can start at the normal answer.
    n = max(2, math.floor((z * sd / half_width) ** 2))
    while smallest_contrast(sd, n, level=level) > half_width:
        n += 1
    return n


def questions_needed(
    sd_between_runs: float,
    sd_within_question: float,
    half_width: float,
    seeds: int,
    *,
    level: float = 0.95,
) -> int:
    """Smallest number of questions with which ``seeds`` runs reach +- ``half_width``.

    A run's mean over Q questions varies between runs with ``sd_between_runs^2 +
    sd_within_question^2 / Q``; solves ``t(level, seeds - 1) * sqrt(that / seeds) <= half_width``.
    What a question adds to every run alike is no part of ``sd_within_question``: all runs answer
    the same questions, so it does not vary between them.

    Args:
        sd_between_runs: standard deviation of runs' true means (with endless questions).
        sd_within_question: standard deviation of one run's value on one question, around that
            run's mean and the question's own mean over runs.
        half_width: wanted, in the same units.
        seeds: number of training runs.

    Raises:
        DataError: no number of questions is enough (the message gives the smallest half-width that
            these seeds reach), fewer than two seeds, or a number that is negative or not finite.
    """
    floor = smallest_contrast(sd_between_runs, seeds, level=level)
    _check_size("sd_within_question", sd_within_question)
    _check_size("half_width", half_width, zero=False)
    if sd_within_question == 0 and floor <= half_width * (1 + _ROUNDING):
        return 1
    if half_width <= floor * (1 + _ROUNDING):
        more = max(seeds + 1, seeds_needed(sd_between_runs, half_width, level=level))
        raise DataError(
            f"no number of questions brings {seeds} seeds to a half-width of {half_width:.4g}: "
            f"runs differ by sd {sd_between_runs:.4g}, so it stays above {floor:.4g}, the smallest "
            f"reachable with these seeds; train at least {more}"
        )
    room = seeds * (half_width / _t_quantile(level, seeds - 1)) ** 2 - sd_between_runs**2
    return max(1, math.ceil(sd_within_question**2 / room * (1 - _ROUNDING)))


# Checks and small formulas


def _vector(values: Iterable[float]) -> NDArray[np.float64]:
    data = np.asarray(list(values), dtype=np.float64)
    if data.ndim != 1:
        raise DataError(f"expected a flat list of numbers, got shape {data.shape}")
    return _finite(data)


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
    return _finite(data)


def _finite(data: NDArray[np.float64]) -> NDArray[np.float64]:
    if data.size == 0:
        raise DataError("there are no values to estimate from")
    bad = np.argwhere(~np.isfinite(data))
    if len(bad):
        place = ", ".join(str(i) for i in bad[0])
        raise DataError(
            f"{len(bad)} of {data.size} values are NaN or infinite, the first at [{place}]; "
            "drop what could not be scored, or find out why, before estimating"
        )
    return data


def _require_spread(data: NDArray[np.float64], what: str) -> None:
    if np.ptp(data) <= 1e-14 * np.abs(data).max():
        raise DataError(
            f"{what} needs values that differ, but all {len(data)} are {data[0]:.6g}; "
            "check that the runs used different seeds"
        )


def _p_values(p: Iterable[float]) -> NDArray[np.float64]:
    data = _vector(p)
    if data.min() < 0 or data.max() > 1:
        raise DataError(f"p-values lie between 0 and 1, got {data.min():.4g} to {data.max():.4g}")
    return data


def _at_least_two(n: int) -> int:
    if n < 2:
        raise DataError(f"an interval over runs needs at least two seeds, got {n}")
    return n


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}; it must lie between 0 and 1, for example 0.95")


def _check_size(name: str, size: float, *, zero: bool = True) -> None:
    if not math.isfinite(size) or size < 0 or (size == 0 and not zero):
        raise DataError(f"{name} is {size}; it must be finite and {'>=' if zero else '>'} 0")


def _t_quantile(level: float, df: int) -> float:
    _check_level(level)
    return float(stats.t.ppf((1 + level) / 2, df))


def _own_minus_others(cube: NDArray[np.float64]) -> NDArray[np.float64]:
    """(seeds, traits) diagonal minus the mean of the rest of its column."""
    own = np.diagonal(cube, axis1=1, axis2=2)
    return own - (cube.sum(axis=1) - own) / (cube.shape[1] - 1)
