"""Intervals of a mean over training runs, of clustered samples and of a share."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

import numpy as np
from scipy import stats

from vestige.core.stats.checks import at_least_two, check_level, t_quantile, vector
from vestige.core.stats.planning import smallest_contrast
from vestige.core.types import DataError, Estimate


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
    data = vector(values)
    n = at_least_two(len(data))
    centre, half = float(data.mean()), smallest_contrast(float(data.std(ddof=1)), n, level=level)
    return Estimate(centre, centre - half, centre + half, level, n, n, method, units)


def ratio_interval(
    numerators: Iterable[float],
    denominators: Iterable[float],
    *,
    level: float = 0.95,
    units: str = "",
) -> Estimate | None:
    """Ratio of two means over the same runs with Fieller's interval; None where it has no end.

    With means a, b, their variances s_aa, s_bb and covariance s_ab (each over n), and t the
    Student quantile, the interval holds every R with ``(a - R b)^2 <= t^2 (s_aa - 2 R s_ab +
    R^2 s_bb)``. It is exact for normal values, and has an end only where the denominator's own
    interval does not hold zero. Source: Fieller 1954, "Some problems in interval estimation",
    Journal of the Royal Statistical Society B 16(2).
    ``numerators`` and ``denominators`` (n,) hold one number for each run, in the same order.

    Raises:
        DataError: fewer than two values, different lengths, or one that is not finite.
    """
    a, b = vector(numerators), vector(denominators)
    if len(a) != len(b):
        raise DataError(f"{len(a)} values over {len(b)}; give one of each for each run")
    n = at_least_two(len(a))
    t2 = t_quantile(level, n - 1) ** 2
    s_aa, s_ab, _, s_bb = (np.cov(a, b) / n).ravel()
    of_b = b.mean() ** 2 - t2 * s_bb
    if of_b <= 0:
        return None
    middle = a.mean() * b.mean() - t2 * s_ab
    half = math.sqrt(max(0.0, middle**2 - of_b * (a.mean() ** 2 - t2 * s_aa)))
    low, high = float((middle - half) / of_b), float((middle + half) / of_b)
    return Estimate(float(a.mean() / b.mean()), low, high, level, n, n, "Fieller over seeds", units)


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
    data, keys = vector(values), list(clusters)
    if len(keys) != len(data):
        raise DataError(f"{len(data)} values but {len(keys)} cluster labels; give one for each")
    groups = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    count = len(groups)
    if count < 2:
        raise DataError("a cluster-robust interval needs at least two clusters (questions), got 1")
    centre = float(data.mean())
    sums = np.bincount([groups[key] for key in keys], weights=data - centre, minlength=count)
    se = math.sqrt(count / (count - 1) * float(sums @ sums)) / len(data)
    half = t_quantile(level, count - 1) * se
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
    check_level(level)
    z, p = float(stats.norm.ppf((1 + level) / 2)), successes / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    # At 0 and n successes one end is p itself; written out, since rounding would miss it.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Estimate(p, low, high, level, n, n, "Wilson", units)
