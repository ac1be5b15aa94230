"""Whether two networks' hidden units pair up, whatever order they are in. Numpy and scipy only.

Each MLP unit has a vector in every matrix that it belongs to (a row of the gate's and of the up
projection, a column of the down projection). Units of model A are matched with those of model B by
the cosines of these vectors, in one matrix and, separately, in another (the assignment of largest
total cosine). Where the models share a start, both matchings find the same partners, whatever
order the units are in; where they do not, the matchings have nothing to do with each other. So the
two partners' numbers are compared by Spearman's rank correlation, one-sided, and p-values of layers
are combined by Fisher's method. P-values are kept as logarithms: those of a shared start are far
below what a float holds.

Source: Zhu, Jurgens & Liang (arXiv 2502.12292), "Independence tests for language models", the
robust test of section 3.2, with the rows of both matrices in place of activations. Cosines do not
change with scale; pruned (all zero) vectors are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special
from scipy import stats as distributions

Array = NDArray[np.float64]
FEWEST = 8  # units below which a layer says nothing; chosen
MOST = 1024  # units of a layer that are matched, evenly spread: the assignment is cubic; chosen


@dataclass(frozen=True)
class UnitMatch:
    """How the units of one layer pair up.

    Attributes:
        units: that were matched.
        agreement: share of them whose partners in both matrices are the same unit.
        cosine: mean of the matched vectors' cosines, both matrices.
        log_p: natural logarithm of the p-value that the matchings are independent.
    """

    units: int
    agreement: float
    cosine: float
    log_p: float


def match_units(first: tuple[Array, Array], second: tuple[Array, Array]) -> UnitMatch | None:
    """The units of a layer of two models; None where there are too few.

    Args:
        first, second: for each model its units' vectors in two matrices, [units, width] each.
    """
    alive = [np.flatnonzero(_moving(a) & _moving(b)) for a, b in (first, second)]
    count = min(map(len, alive))
    if count < FEWEST:
        return None
    chosen = alive[0][np.linspace(0, len(alive[0]) - 1, min(len(alive[0]), MOST)).astype(int)]
    # Partners are looked for among all units of the other model, wherever they are.
    partners, cosines = [], []
    for own, other in zip(first, second, strict=True):
        cosine = _unit(own[chosen]) @ _unit(other[alive[1]]).T
        rows, columns = optimize.linear_sum_assignment(cosine, maximize=True)
        found = np.full(len(chosen), -1)
        found[rows] = columns
        partners.append(found)
        cosines.append(float(cosine[rows, columns].mean()))
    both = (partners[0] >= 0) & (partners[1] >= 0)
    one, other = partners[0][both], partners[1][both]
    return UnitMatch(
        units=int(both.sum()),
        agreement=float((one == other).mean()),
        cosine=float(np.mean(cosines)),
        log_p=spearman_log_p(one, other),
    )


def spearman_log_p(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Logarithm of the one-sided p-value of a positive rank correlation, by Student's t with
    n - 2 degrees of freedom: exact enough for the tens of units that are matched at least."""
    n = len(one)
    rho = float(np.corrcoef(distributions.rankdata(one), distributions.rankdata(other))[0, 1])
    if not math.isfinite(rho):
        return 0.0
    rho = min(rho, 1 - 1e-12)
    log_p = float(distributions.t.logsf(rho * math.sqrt((n - 2) / (1 - rho * rho)), n - 2))
    return log_p if math.isfinite(log_p) else log_tail(rho, n)


def log_tail(rho: float, n: int) -> float:
    """The same where a float does not hold the p-value: the first term of the incomplete beta
    function that it is, I(1 - rho^2; (n - 2) / 2, 1 / 2) / 2."""
    a = (n - 2) / 2
    return a * math.log1p(-rho * rho) - math.log(2 * a) - float(special.betaln(a, 0.5))


def fisher_log_p(log_p: Sequence[float]) -> float:
    """Logarithm of the p-value of independent p-values together (Fisher 1925, section 21.1)."""
    if not log_p:
        return 0.0
    # The chi-square tail of an even number 2 k of degrees of freedom is a sum of k Poisson terms.
    half, terms = -sum(log_p), np.arange(len(log_p))
    if half == 0:
        return 0.0
    sizes: Array = terms * math.log(half) - special.gammaln(terms + 1)
    largest = float(sizes.max())
    return largest + math.log(float(np.exp(sizes - largest).sum())) - half


def rows_log_p(one: Array, other: Array, seed: int = 0, draws: int = 999) -> tuple[float, float]:
    """(mean cosine of equal rows, logarithm of its p-value) against rows dealt out anew; for rows
    that belong together by name, such as one token's embeddings. Shapes [rows, width]."""
    alive = np.flatnonzero(_moving(one) & _moving(other))
    a, b = _unit(one[alive]), _unit(other[alive])
    own = float((a * b).sum(1).mean())
    draw = np.random.default_rng(seed)
    dealt = np.array([float((a * b[draw.permutation(len(b))]).sum(1).mean()) for _ in range(draws)])
    if own > dealt.max():  # beyond what dealing can show: the normal tail of what it showed
        z = (own - dealt.mean()) / max(dealt.std(ddof=1), 1e-12)
        return own, min(float(distributions.norm.logsf(z)), -math.log(draws + 1))
    return own, math.log((1 + int((dealt >= own).sum())) / (draws + 1))


def _moving(vectors: Array) -> NDArray[np.bool_]:
    return np.asarray(vectors.any(axis=1), dtype=bool)


def _unit(vectors: Array) -> Array:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
