"""How well sizes are predicted: what students took on, and what each predictor gives."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats as distributions

from vestige.bench.case import Array, Case
from vestige.bench.combine import calibration

FEWEST_SETS = 3  # data sets beyond which a line is fitted; a line through three tells nothing
FEWEST_TRAITS = 2  # traits of a family beyond which a rank correlation says something


def own_sizes(cases: Sequence[Case], index: dict[str, int]) -> dict[str, dict[str, float]]:
    """By method, how well it predicts the own trait's measured specific part, nats."""
    measured = [c.truth[c.trait] for c in cases]
    pulls = [float(c.race.pull[index[c.name]]) for c in cases]
    return {"pull": predicted(pulls, measured)}


def predicted(predictor: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    """The line from a predictor to the measured size, over data sets, and how far they lie from it
    when each is left out of the line's fit in turn (with a straight mean's figure)."""
    x, y = np.array(predictor), np.array(measured)
    vary = len(x) > FEWEST_SETS and min(x.std(), y.std()) > 0
    slope, start = np.polyfit(x, y, 1) if vary else (0.0, float(y.mean()))
    rho = distributions.spearmanr(x, y) if vary else None
    rest = [np.arange(len(x)) != i for i in range(len(x))] if vary else []
    off = [y[i] - np.polyval(np.polyfit(x[r], y[r], 1), x[i]) for i, r in enumerate(rest)]
    plain = [y[i] - y[r].mean() for i, r in enumerate(rest)]
    return {
        "slope": float(slope),
        "start": float(start),
        "error": float(np.sqrt(np.mean(np.square(off)))) if off else 0.0,
        "error of the mean": float(np.sqrt(np.mean(np.square(plain)))) if off else 0.0,
        "correlation": float(np.corrcoef(x, y)[0, 1]) if vary else 0.0,
        "spearman": float(rho.statistic) if rho else 0.0,  # type: ignore[attr-defined]
        "p": float(rho.pvalue) if rho else 1.0,  # type: ignore[attr-defined]
    }


def calibrations(
    cases: Sequence[Case], ids: Sequence[str], held_out: frozenset[str]
) -> dict[str, dict[str, Any]]:
    """How each predictor's sizes lie to the measured ones, and all predictors' together, over data
    sets and all traits of their families."""
    names = [name for name in cases[0].sizes if all(name in c.sizes for c in cases)]
    sets = {name: [name] for name in names} | ({"together": names} if len(names) > 1 else {})
    parts = {
        "not held out": [c for c in cases if c.trait not in held_out],
        "held out": [c for c in cases if c.trait in held_out],
    }
    return {label: _calibrated(parts, ids, predictors) for label, predictors in sets.items()}


def _calibrated(
    parts: Mapping[str, Sequence[Case]], ids: Sequence[str], predictors: Sequence[str]
) -> dict[str, Any]:
    tables = {
        part: [size_table(c, ids, predictors) for c in members] for part, members in parts.items()
    }
    empty = np.empty((0, len(predictors) + 2))
    fit = calibration({part: np.concatenate([empty, *t]) for part, t in tables.items()})
    for part, members in tables.items():
        if fit and members:
            rho = [order_correlation(t[:, :-2] @ fit["gains"], t[:, -2]) for t in members]
            fit[part]["spearman"] = float(np.mean(rho))
    return fit


def size_table(case: Case, ids: Sequence[str], predictors: Sequence[str]) -> Array:
    """For each trait of the family what the predictors tell, what was measured, and whether it is
    the writer's own, [n, P + 2]."""
    table = [
        (*(case.sizes[name][ids.index(t)] for name in predictors), value, t == case.trait)
        for t, value in case.truth.items()
    ]
    return np.array(table)


def makings(cases: Sequence[Case]) -> dict[str, float]:
    """How well one replicate of a trait's teacher, rows and student predicts another: the mean rank
    correlation of what their students took on, over the family's traits. A predictor that knew the
    trait and nothing of the replicate could hardly do better."""
    pairs = [
        (a.truth, b.truth)
        for a, b in itertools.combinations(cases, 2)
        if a.trait == b.trait and a.truth.keys() == b.truth.keys() and len(a.truth) > FEWEST_TRAITS
    ]
    rho = [
        distributions.spearmanr([a[name] for name in a], [b[name] for name in a])[0]
        for a, b in pairs
    ]
    return {
        "pairs": len(pairs),
        "spearman": float(np.mean(rho)) if rho else 0.0,  # type: ignore[arg-type]
    }


def order_correlation(x: Sequence[float] | Array, y: Sequence[float] | Array) -> float:
    """Spearman's rank correlation; 0 where all of one side are equal, which tell no order."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return 0.0
    return float(distributions.spearmanr(x, y)[0])  # type: ignore[arg-type]
