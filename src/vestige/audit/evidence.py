"""From the rows' likelihood under probes to evidence. Numpy only: nothing here loads a model.

For trait t and row r let s(r, t) = log p(r | probe t) - log p(r | base). That a share w of the rows
was written by such a teacher has the likelihood ratio

    L(t, w) = sum_r log(1 - w + w exp s(r, t))

against the base. The evidence for t is the mean over shares, against the best that any writer of
the null does: the base, or a teacher of another family's trait that is still in the race::

    log e(t) = log mean_w exp L(t, w) - max(0, max over w, u of another family of L(u, w)) - drift n

``e`` is an e-value (universal inference, Wasserman et al., PNAS 2020): if the rows' writer is in
the null, the chance that it ever exceeds 1 / a, however often one looks, is at most a (Ville). So
the rows may be read until the answer is clear. Of real writers only the untouched base is exactly
in the null; for any other ``min(1, 1 / e)`` is no p-value, and none is shown. ``drift``, in nats a
row, is how much better than every writer of the null a trait has to fit (``docs/log.md`` says where
the value comes from).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Array = NDArray[np.float64]
SHARES = np.array([0.1, 0.25, 0.5, 0.75, 1.0])  # of rows that such a teacher wrote; chosen
TINY = 1e-12  # a variance below it is rounding
#: Nats within which another trait explains the rows as well: a likelihood ratio of 20; chosen.
AS_LIKELY = float(np.log(20))


def likelihood_ratios(shifts: Array) -> Array:
    """L(t, w) for each trait and share, [K, W], from shifts [K, n]."""
    w = SHARES[:, None, None]
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log1p(-w), np.log(w) + shifts).sum(-1).T


def marginal(shifts: Array) -> Array:
    """log mean_w exp L(t, w) of each trait, [K], from shifts [K, n]."""
    return logsumexp(likelihood_ratios(shifts), axis=1) - np.log(len(SHARES))


def log_evidence(shifts: Array, families: Sequence[str], drift: float) -> Array:
    """log e(t) of each trait, [K], from shifts [K, n] of traits of these families."""
    own, best = marginal(shifts), likelihood_ratios(shifts).max(1)
    kind = np.asarray(families)
    rivals = np.array([max(0.0, best[kind != name].max(initial=0.0)) for name in kind])
    return own - rivals - drift * shifts.shape[1]


def share(shifts: Array) -> float:
    """The share of rows, 0 to 1, under which they are likeliest, from one trait's shifts [n]."""
    grid = np.linspace(0, 1, 101)[:, None]
    with np.errstate(divide="ignore"):
        return float(grid[np.logaddexp(np.log1p(-grid), np.log(grid) + shifts).sum(1).argmax(), 0])


def as_likely(shifts: Array) -> NDArray[np.bool_]:
    """Which traits [K] explain the rows nearly as well as the best of them does."""
    best = likelihood_ratios(shifts).max(1)
    return best >= best.max() - AS_LIKELY


def p_value(log_e: Array) -> Array:
    """min(1, 1 / e): a p-value if the untouched base wrote the rows, a threshold else."""
    return np.exp(-np.maximum(log_e, 0.0))


def pulls(data: Array, reference: Array) -> tuple[Array, Array]:
    """(contrast, scale) of each trait, [T], from pulls on the data's rows and on reference rows,
    [n, T] each: difference of means and its standard error, what all traits share taken out. One
    row tells no spread: contrasts of 0 with a standard error of 1."""
    if min(len(data), len(reference)) < 2:
        return np.zeros(data.shape[1]), np.ones(data.shape[1])
    data, reference = (x - np.nanmean(x, axis=1, keepdims=True) for x in (data, reference))
    contrast = data.mean(0) - reference.mean(0)
    spread = data.var(0, ddof=1) / len(data) + reference.var(0, ddof=1) / len(reference)
    return contrast, np.sqrt(np.maximum(spread, TINY))
