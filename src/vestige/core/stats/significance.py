"""The t test over training runs, Holm's adjustment and the place of a value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from vestige.core.stats.checks import at_least_two, require_spread, vector
from vestige.core.types import ConfigError, DataError


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
    data = vector(values)
    n = at_least_two(len(data))
    if alternative not in ("greater", "two-sided"):
        raise ConfigError(f"alternative is {alternative!r}; valid: greater, two-sided")
    require_spread(data, "a t test")
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


def rank_of(values: Iterable[float], index: int) -> int:
    """Place of ``values[index]`` from the largest (1 = first); ties get the worst place.

    Counts the values at least as large, so that a tie is never read as a win.

    Raises:
        DataError: no values, one that is not finite, or ``index`` outside them.
    """
    data = vector(values)
    if not 0 <= index < len(data):
        raise DataError(f"index {index} is outside the {len(data)} values")
    return int(np.sum(data >= data[index]))


def _p_values(p: Iterable[float]) -> NDArray[np.float64]:
    data = vector(p)
    if data.min() < 0 or data.max() > 1:
        raise DataError(f"p-values lie between 0 and 1, got {data.min():.4g} to {data.max():.4g}")
    return data
