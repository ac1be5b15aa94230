"""Figures of the audit benchmark from its cases. Nothing here loads a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vestige.audit.evidence import share
from vestige.bench.case import BASELINES, COMBINED, UNREAD, Array, Case
from vestige.bench.combine import features, weights
from vestige.bench.decided import rows_to_flag, strangers
from vestige.bench.sizes import calibrations, makings, order_correlation, own_sizes
from vestige.core.types import DataError

TRAINED = 10_000 * 10  # rows that the paper's students read: 10,000, ten times
BACKWARD = 2  # what a backward pass costs, in forward passes; the usual count
FEWEST = 2  # traits of a family beyond which a rank correlation says something
TOP = 5  # places of the table's second column, and traits that are named of a case


def summarise(
    cases: Sequence[Case], ids: Sequence[str], held_out: frozenset[str]
) -> dict[str, Any]:
    """Figures by method, over all traits and over those held out; false alarms on clean sets.

    Raises:
        DataError: no data set has a trait that is in the library.
    """
    own = [case for case in cases if case.truth and case.trait in ids]
    clean = [case for case in cases if case.is_clean]
    if not own:
        raise DataError("no data set of these runs has a trait that is in the library")
    own, method_weights = combined(own, ids, held_out)
    parts = by_part(own, held_out)
    index = {case.name: ids.index(case.trait) for case in own}
    rows = [rows_to_flag(case, ids) for case in own]
    return {
        "methods": {
            method: {part: figures(members, index, ids, method) for part, members in parts.items()}
            for method in own[0].scores
        },
        "flagged": {part: flag_counts(members, index, ids) for part, members in parts.items()},
        "clean": clean_counts(clean),
        "tuned or clean": tuned_or_clean(own, clean),
        "rows to a tuned writer": median_rows([case.tuned_at for case in own]),
        "rows to a flag": rows,
        "median rows to a flag": median_rows(rows),
        "cost": cost(cases),
        "own size": own_sizes(own, index),
        "weights": method_weights,
        "sizes": calibrations(own, ids, held_out),
        "makings": makings(own),
        "misfit": {case.name: round(case.race.misfit, 3) for case in cases},
        "cases": {case.name: one_case(case, index[case.name], ids) for case in own},
    }


def by_part(cases: Sequence[Case], held_out: frozenset[str]) -> dict[str, list[Case]]:
    """All cases, and those whose trait is held out or not; parts without any are left out."""
    parts = {
        "all": list(cases),
        "held out": [c for c in cases if c.trait in held_out],
        "not held out": [c for c in cases if c.trait not in held_out],
    }
    return {part: members for part, members in parts.items() if members}


def flag_counts(
    cases: Sequence[Case], index: Mapping[str, int], ids: Sequence[str]
) -> dict[str, int]:
    """How many data sets are flagged, and for what."""
    return {
        "data sets": len(cases),
        "own trait flagged": sum(index[c.name] in c.flagged for c in cases),
        "own family flagged": sum(rows_to_flag(c, ids) is not None for c in cases),
        "another family flagged": sum(bool(strangers(c, ids)) for c in cases),
        "flagged without the own family": sum(c.stranger is not None for c in cases),
        "a tuned writer seen": sum(c.tuned_at is not None for c in cases),
        "own trait as likely as the best": sum(index[c.name] in c.race.likeliest for c in cases),
    }


def clean_counts(cases: Sequence[Case]) -> dict[str, Any]:
    """What is said of clean data sets."""
    beyond = [c.beyond for c in cases if c.beyond is not None]
    return {
        "data sets": len(cases),
        "false alarms": sum(bool(c.flagged) for c in cases),
        "a tuned writer seen": sum(c.tuned_at is not None for c in cases),
        "closest to a flag": max(beyond, default=None),
    }


def one_case(case: Case, own: int, ids: Sequence[str]) -> dict[str, Any]:
    """What is said of one data set; ``own``: its trait's place in the library."""
    return {
        "own": case.trait,
        "place": rank(case.scores["audit"], own),
        "evidence": case.race.evidence.get(own, 0.0),
        "share": share(case.race.shifts.get(own, UNREAD)),
        "measured": case.truth[case.trait],
        "top": [ids[i] for i in np.argsort(-case.scores["audit"])[:TOP]],
    }


def cost(cases: Sequence[Case]) -> dict[str, float]:
    """Rows that a race reads, each as often as it is read (under the base and probes, and with
    its gradient), and their share of what the paper's students are trained on: of the rows (10,000,
    ten times), and of the computing, where training counts ``1 + BACKWARD`` for each row."""
    forwards = np.array([c.race.rows + sum(map(len, c.race.shifts.values())) for c in cases])
    gradients = np.array([c.race.pulled for c in cases])
    read = forwards + gradients
    computed = (read + BACKWARD * gradients) / (1 + BACKWARD)
    return {
        "rows read": float(np.median(read)),
        "at most": float(read.max()),
        "share of rows": float(np.median(read)) / TRAINED,
        "share of computing": float(np.median(computed)) / TRAINED,
    }


def tuned_or_clean(
    own: Sequence[Case], clean: Sequence[Case]
) -> dict[str, dict[str, float | None]]:
    """By score of a whole data set (the audit's evidence against the base, and the baselines that
    know of no trait): the AUROC of teachers' data sets against clean ones, None without any; and
    the rank correlation with the size of the own trait in the students."""

    def scores(case: Case) -> dict[str, float]:
        known = case.race.known_lineage  # else no trait's teacher tells who wrote the rows
        return {"audit": case.race.against_base if known else 0.0} | case.blind

    measured = [case.truth[case.trait] for case in own]
    by_score: dict[str, dict[str, float | None]] = {}
    for name in scores(own[0]):
        tuned, usual = (np.array([scores(c)[name] for c in members]) for members in (own, clean))
        above = np.sign(tuned[:, None] - usual[None]) / 2 + 0.5
        by_score[name] = {
            "auroc": float(above.mean()) if above.size else None,
            "spearman with the size": order_correlation(tuned, measured),
        }
    return by_score


def median_rows(rows: Sequence[int | None]) -> float | None:
    """The median over data sets, those without a flag being the longest; None if it is one."""
    median = float(np.median([np.inf if n is None else n for n in rows]))
    return median if np.isfinite(median) else None


def combined(
    cases: Sequence[Case], ids: Sequence[str], held_out: frozenset[str]
) -> tuple[list[Case], dict[str, float]]:
    """The cases with a score of all methods together, and the weights of the methods where the
    writer's trait is held out; as they are where some have no others to fit weights on."""
    methods = [m for m in cases[0].scores if m not in BASELINES]
    fitted_on = {c.trait for c in cases} - held_out
    if len(methods) < 2 or any(fitted_on <= {c.trait} for c in cases):
        return list(cases), {}
    known = [(c.trait, features([c.scores[m] for m in methods]), ids.index(c.trait)) for c in cases]

    def fitted(trait: str) -> Array:
        """From the data sets of other traits that are not held out."""
        rest = [k for k in known if k[0] != trait and k[0] not in held_out]
        return weights([k[1] for k in rest], [k[2] for k in rest])

    by_trait = {trait: fitted(trait) for trait in {c.trait for c in cases}}
    scored = [
        replace(c, scores={COMBINED: table @ by_trait[c.trait]} | c.scores)
        for c, (_, table, _) in zip(cases, known, strict=True)
    ]
    return scored, dict(zip(methods, fitted("").tolist(), strict=True))


def figures(
    cases: Sequence[Case], index: dict[str, int], ids: Sequence[str], method: str
) -> dict[str, float]:
    """AUROC of own against all other traits, share of first and first-five places in the library,
    and the rank correlation with the measured specific part over the family's traits."""
    places = np.array([rank(c.scores[method], index[c.name]) for c in cases])
    # A rank correlation over one or two traits says nothing (misalignment has one).
    rho = [
        order_correlation(
            [c.scores[method][ids.index(name)] for name in c.truth], list(c.truth.values())
        )
        for c in cases
        if len(c.truth) > FEWEST
    ]
    pairs = [
        (c.scores[method][ids.index(name)], value) for c in cases for name, value in c.truth.items()
    ]
    return {
        "auroc": float(np.mean(1 - (places - 1) / (len(ids) - 1))),
        "top1": float(np.mean(places == 1)),
        "top5": float(np.mean(places <= TOP)),
        "median place": float(np.median(places)),
        "spearman": float(np.mean(rho)) if rho else 0.0,
        "spearman, pooled": order_correlation(*zip(*pairs, strict=True)),
        "data sets": len(cases),
    }


def rank(scores: Array, index: int) -> int:
    """Place of a trait from the largest; ties get the worst."""
    return int((scores >= scores[index]).sum())
