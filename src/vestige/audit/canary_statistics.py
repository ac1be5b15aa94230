"""From canaries to flags. Numpy and scipy only: nothing here loads a model.

For trait t let D_t be the data's shift, R_kt that of reference k (planted teachers' rows and rows
of the base), all canaries on as many rows of the same prompts. A planted teacher's own trait is
left out of the references for that trait::

    contrast_t = D_t - mean_k R_kt
    scale_t^2  = half the trait's own variance over references, half its family's (pooled)
    z_t        = contrast_t / (scale_t * sqrt(1 + 1 / K_t))     K_t references for trait t

Leaving each reference out in turn and treating it as data gives placebo values of z: what rows
without the trait do. Their spread gives the null, a Student t whose degrees of freedom match the
placebo cloud's kurtosis; one-sided p-values are adjusted over the library (``stats.holm``) and the
level is shared among looks (Bonferroni), so that the audit may stop at any of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from vestige.core import stats
from vestige.core.types import DataError

Array = NDArray[np.float64]
MOST_DF = 100.0  # degrees of freedom beyond which a Student t is a normal; chosen
FEWEST_DF = 4.5  # fewest that have a kurtosis, and a little more; chosen


@dataclass(frozen=True)
class Look:
    """What one look shows. All arrays are over the library's traits, [T].

    Attributes:
        contrast: nats of log-odds; scale: the contrast's standard deviation under the null.
        z: contrast / scale; p, p_holm: one-sided p-values, and adjusted over the library.
        placebo: the placebo cloud's z, all references and traits together.
    """

    rows: int
    contrast: Array
    scale: Array
    z: Array
    p: Array
    p_holm: Array
    df: float
    placebo: Array


def look(
    rows: int,
    data: Array,
    references: Mapping[str, Array],
    planted: Mapping[str, str],
    ids: Sequence[str],
) -> Look:
    """One look at the data's shifts [T] against the references' (each [T]).

    Args:
        rows: rows that every canary had read.
        planted: which trait's id a reference's writer was given; base-written ones have none.

    Raises:
        DataError: fewer than three references, shapes that differ, or a value that is not finite.
    """
    names = list(references)
    table = np.array([references[name] for name in names])
    if len(names) < 3 or table.shape[1:] != data.shape or len(ids) != len(data):
        raise DataError(
            f"an audit needs three references or more, over the same traits; got {table.shape} "
            f"for data of shape {data.shape}"
        )
    if not np.isfinite(table).all() or not np.isfinite(data).all():
        raise DataError("a canary has shifts that are not finite")
    families = np.array([name.rpartition("/")[0] for name in ids])
    own = np.array([[planted.get(name) == trait for trait in ids] for name in names])
    contrast, scale = held_against(data, table, own, families)
    placebo = []
    for k in range(len(names)):
        others = np.arange(len(names)) != k
        left_out, its_scale = held_against(table[k], table[others], own[others], families)
        placebo.append((left_out / its_scale)[~own[k]])
    cloud = np.concatenate(placebo)
    df, width = null_of(cloud)
    scale = scale * width
    z = contrast / scale
    p = distributions.t.sf(z, df)
    p_holm = np.array(stats.holm(p))
    return Look(rows, contrast, scale, z, p, p_holm, df, cloud / width)


def held_against(
    data: Array, table: Array, own: NDArray[np.bool_], families: NDArray[np.str_]
) -> tuple[Array, Array]:
    """(contrast, its scale) of ``data`` [T] against references [K, T], without their own traits."""
    known = np.where(own, np.nan, table)
    count = (~own).sum(0)
    if (count < 2).any():
        raise DataError("a trait has fewer than two references without it")
    mean = np.nanmean(known, axis=0)
    squares = np.nansum((known - mean) ** 2, axis=0)
    scale = np.empty_like(mean)
    for name in np.unique(families):
        members = families == name
        pooled = squares[members].sum() / (count[members] - 1).sum()
        scale[members] = np.sqrt((pooled + squares[members] / (count[members] - 1)) / 2)
    if not (scale > 0).all():
        raise DataError("the references do not differ at all: are they the same rows?")
    return data - mean, scale * np.sqrt(1 + 1 / count)


def null_of(cloud: Array) -> tuple[float, float]:
    """(degrees of freedom, width) of the Student t that placebo values follow.

    Moments: excess kurtosis 6 / (df - 4), variance width^2 df / (df - 2); kurtosis below a
    normal's gives the normal.
    """
    excess = float(distributions.kurtosis(cloud, fisher=True, bias=False))
    df = MOST_DF if excess <= 0 else min(MOST_DF, max(FEWEST_DF, 4 + 6 / excess))
    spread = float(np.sqrt(np.mean(cloud**2)))
    return df, spread / math.sqrt(df / (df - 2))


def first_flags(looks: Sequence[Look], levels: Sequence[float]) -> dict[int, int]:
    """For each flagged trait the first look that flags it, the clearest trait first."""
    flags: dict[int, int] = {}
    for at, (one, level) in enumerate(zip(looks, levels, strict=True)):
        for i in np.argsort(one.p_holm, kind="stable"):
            if one.p_holm[i] <= level:
                flags.setdefault(int(i), at)
    return flags
