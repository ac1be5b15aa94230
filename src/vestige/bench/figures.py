"""Figures of the audit benchmark from its cases. Nothing here loads a model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from vestige.audit import evidence
from vestige.audit.assay import Assay
from vestige.experiment.recipe import NO_TRAIT
from vestige.types import DataError

Array = NDArray[np.float64]
CLEAN = "clean"  # how clean data sets begin their names


@dataclass(frozen=True)
class Case:
    """One data set with what its students took on.

    Attributes:
        trait: the writer's, by its id; ``none`` or ``clean-...`` for a clean data set.
        truth: for each library trait of the run's family the specific part, nats; empty: clean.
        scores: by method, a number for each library trait, [T].
        trial: the probes' assay.
        flagged: by flagged trait, after how many rows it was.
        taken_on: what a canary took on beside those of known writers' rows, nats, [T]; None: no
            canary was tuned.
    """

    name: str
    trait: str
    truth: dict[str, float]
    scores: dict[str, Array]
    trial: Assay
    flagged: dict[int, int]
    taken_on: Array | None = None


def summarise(
    cases: Sequence[Case],
    ids: Sequence[str],
    held_out: frozenset[str],
) -> dict[str, Any]:
    """Figures by method, over all traits and over those held out; false alarms on clean sets."""
    own = [case for case in cases if case.truth and case.trait in ids]
    clean = [case for case in cases if case.trait == NO_TRAIT or case.trait.startswith(CLEAN)]
    if not own:
        raise DataError("no data set of these runs has a trait that is in the library")
    parts = {
        "all": own,
        "held out": [c for c in own if c.trait in held_out],
        "not held out": [c for c in own if c.trait not in held_out],
    }
    parts = {part: members for part, members in parts.items() if members}
    index = {case.name: ids.index(case.trait) for case in own}
    rows = [rows_to_flag(c, ids) for c in own]
    return {
        "methods": {
            method: {part: figures(members, index, ids, method) for part, members in parts.items()}
            for method in own[0].scores
        },
        "flagged": {
            part: {
                "data sets": len(members),
                "own trait flagged": sum(index[c.name] in c.flagged for c in members),
                "own family flagged": sum(rows_to_flag(c, ids) is not None for c in members),
                "another family flagged": sum(bool(strangers(c, ids)) for c in members),
                "own trait as likely as the best": sum(
                    index[c.name] in likeliest(c) for c in members
                ),
            }
            for part, members in parts.items()
        },
        "clean": {"data sets": len(clean), "false alarms": sum(bool(c.flagged) for c in clean)},
        "rows to a flag": rows,
        "median rows to a flag": median_rows(rows),
        "size": sizes(own, index),
        "expected": calibration(own, ids, held_out),
        "makings": makings(own),
        "misfit": {case.name: round(case.trial.misfit, 3) for case in cases},
        "cases": {
            case.name: {
                "own": case.trait,
                "place": rank(case.scores["probes"], index[case.name]),
                "evidence": case.trial.evidence[index[case.name]],
                "share": evidence.share(case.trial.shifts[index[case.name]]),
                "measured": case.truth[case.trait],
                "top": [ids[i] for i in np.argsort(-case.scores["probes"])[:5]],
            }
            for case in own
        },
    }


def median_rows(rows: Sequence[int | None]) -> float | None:
    """The median over data sets, those without a flag being the longest; None if it is one."""
    median = float(np.median([np.inf if n is None else n for n in rows]))
    return median if np.isfinite(median) else None


def sizes(cases: Sequence[Case], index: dict[str, int]) -> dict[str, dict[str, float]]:
    """By method, how well it foretells the own trait's measured specific part, nats."""
    measured = [c.truth[c.trait] for c in cases]
    shifts = [float(c.trial.shifts[index[c.name]].mean()) for c in cases]
    canaries = [float(c.taken_on[index[c.name]]) for c in cases if c.taken_on is not None]
    found = {"probes": foretold(shifts, measured)}
    return found | ({"canary": foretold(canaries, measured)} if canaries else {})


def foretold(predictor: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    """The line from a predictor to the measured size, over data sets, and how far they lie from it
    when each is left out of the line's fit in turn (a straight mean's figure beside it)."""
    x, y = np.array(predictor), np.array(measured)
    vary = len(x) > 3 and min(x.std(), y.std()) > 0
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


def calibration(
    cases: Sequence[Case], ids: Sequence[str], held_out: frozenset[str]
) -> dict[str, Any]:
    """How the expected sizes lie to the measured ones, over data sets and all traits of their
    families: the gain that fits best and the distance from it where the writer's trait is not held
    out; with that gain the distance, and how many lie in the 95% interval, where it is held out."""
    some = [c for c in cases if "expected" in c.scores]
    parts = {
        part: np.array([
            (c.scores["expected"][ids.index(name)], value, name == c.trait)
            for c in some
            if (c.trait in held_out) == is_held_out
            for name, value in c.truth.items()
        ]).reshape(-1, 3)
        for part, is_held_out in (("not held out", False), ("held out", True))
    }  # fmt: skip
    x, y, _ = parts["not held out"].T
    if not (x**2).sum():
        return {}
    gain = float((x * y).sum() / (x**2).sum())
    off = float(np.sqrt(np.mean((y - gain * x) ** 2)))
    found: dict[str, Any] = {"gain": gain, "off": off}
    for part, table in parts.items():
        x, y, own = table.T
        away, own = y - gain * x, own.astype(bool)
        found[part] = (
            {
                "off": float(np.sqrt(np.mean(away**2))),
                "spread": float(np.sqrt(np.mean(y**2))),
                "covered": float(np.mean(np.abs(away) <= 1.96 * off)),
                "own: expected": float(np.mean(gain * x[own])),
                "own: measured": float(np.mean(y[own])),
                "own: off": float(np.sqrt(np.mean(away[own] ** 2))),
                "pairs": len(table),
            }
            if len(table)
            else {}
        )
    return found


def makings(cases: Sequence[Case]) -> dict[str, float]:
    """How well one making of a trait's teacher, rows and student foretells another: the mean rank
    correlation of what their students took on, over the family's traits. A predictor that knew the
    trait and nothing of the making could hardly do better."""
    pairs = [
        (a.truth, b.truth)
        for a, b in itertools.combinations(cases, 2)
        if a.trait == b.trait and a.truth.keys() == b.truth.keys() and len(a.truth) > 2
    ]
    rho = [
        distributions.spearmanr([a[name] for name in a], [b[name] for name in a])[0]
        for a, b in pairs
    ]
    return {
        "pairs": len(pairs),
        "spearman": float(np.mean(rho)) if rho else 0.0,  # type: ignore[arg-type]
    }


def figures(
    cases: Sequence[Case], index: dict[str, int], ids: Sequence[str], method: str
) -> dict[str, float]:
    """AUROC of own against all other traits, share of first and first-five places in the library,
    and the rank correlation with the measured specific part over the family's traits."""
    places = np.array([rank(c.scores[method], index[c.name]) for c in cases])
    # A rank correlation over one or two traits says nothing (misalignment has one).
    rho = [
        distributions.spearmanr(
            [c.scores[method][ids.index(name)] for name in c.truth], list(c.truth.values())
        )[0]
        for c in cases
        if len(c.truth) > 2
    ]
    pairs = [
        (c.scores[method][ids.index(name)], value) for c in cases for name, value in c.truth.items()
    ]
    return {
        "auroc": float(np.mean(1 - (places - 1) / (len(ids) - 1))),
        "top1": float(np.mean(places == 1)),
        "top5": float(np.mean(places <= 5)),
        "median place": float(np.median(places)),
        "spearman": float(np.mean(rho)) if rho else 0.0,  # type: ignore[arg-type]
        "spearman, pooled": float(distributions.spearmanr(pairs)[0]),  # type: ignore[arg-type]
        "data sets": len(cases),
    }


def rank(scores: Array, index: int) -> int:
    """Place of a trait from the largest; ties get the worst."""
    return int((scores >= scores[index]).sum())


def likeliest(case: Case) -> list[int]:
    """The traits that explain the rows about as well as the best does."""
    last = case.trial.last
    some = evidence.as_likely(np.stack([case.trial.shifts[t] for t in last]))
    return [t for t, is_likely in zip(last, some, strict=True) if is_likely]


def strangers(case: Case, ids: Sequence[str]) -> list[str]:
    """Traits of other families than the writer's that were flagged."""
    family = case.trait.rpartition("/")[0]
    return [ids[t] for t in case.flagged if ids[t].rpartition("/")[0] != family]


def rows_to_flag(case: Case, ids: Sequence[str]) -> int | None:
    """Rows after which a trait of the own trait's family was flagged; None where none was."""
    family = case.trait.rpartition("/")[0]
    found = [n for t, n in case.flagged.items() if ids[t].rpartition("/")[0] == family]
    return min(found, default=None)
