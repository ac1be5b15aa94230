"""What every estimator asks of its input, and Student's quantile.

Input that is empty, NaN or infinite raises ``DataError``; a ``level`` outside 0 to 1 raises
``ConfigError``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from vestige.core.types import ConfigError, DataError


def vector(values: Iterable[float]) -> NDArray[np.float64]:
    data = np.asarray(list(values), dtype=np.float64)
    if data.ndim != 1:
        raise DataError(f"expected a flat list of numbers, got shape {data.shape}")
    return finite(data)


def finite(data: NDArray[np.float64]) -> NDArray[np.float64]:
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


def require_spread(data: NDArray[np.float64], method: str) -> None:
    if np.ptp(data) <= 1e-14 * np.abs(data).max():
        raise DataError(
            f"{method} needs values that differ, but all {len(data)} are {data[0]:.6g}; "
            "check that the runs used different seeds"
        )


def at_least_two(n: int) -> int:
    if n < 2:
        raise DataError(f"an interval over runs needs at least two seeds, got {n}")
    return n


def check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}; it must lie between 0 and 1, for example 0.95")


def check_size(name: str, size: float, *, zero: bool = True) -> None:
    if not math.isfinite(size) or size < 0 or (size == 0 and not zero):
        raise DataError(f"{name} is {size}; it must be finite and {'>=' if zero else '>'} 0")


def t_quantile(level: float, df: int) -> float:
    check_level(level)
    return float(stats.t.ppf((1 + level) / 2, df))
