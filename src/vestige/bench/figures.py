"""Figures of the audit benchmark from its cases. Nothing here loads a model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from vestige.audit import evidence
from vestige.audit.race import Race, agreed, places
from vestige.audit.settings import AuditSettings
from vestige.bench.combine import calibration, features, weights
from vestige.core.types import DataError
from vestige.experiment.recipe import NO_TRAIT

Array = NDArray[np.float64]
CLEAN = "clean"  # how clean data sets begin their names
COMBINED = "combined"
TRAINED = 10_000 * 10  # rows that the paper's students read
BACKWARD = 2  # what a backward pass costs, in forward passes
UNREAD = np.empty(0)
WRONG, RANDOM = BASELINES = "wrong trait's score", "random"


@dataclass(frozen=True)
class Case:
    """One data set with what its students took on.

    Attributes:
        trait: the writer's, by its id; ``none`` or ``clean-...`` for a clean data set.
        truth: for each library trait of the run's family the specific part, nats; empty: clean.
        scores: by method, a number for each library trait, [T].
        trial: the rows' assay.
        flagged: by flagged trait, after how many rows it was.
        stranger: the trait that is flagged where the library lacks the writer's family, if one is.
        beyond: by how many nats the clearest trait at any look passed what flags; below 0: none;
            None: likelihood and pull agreed on no trait.
        tuned_at: rows after which they are clearly not the base's own, whichever trait's teacher
            wrote them.
        sizes: by predictor, what it tells of every trait, [T]: ``expected``, in nats a whole probe;
            ``canary``, what one took on beside those of known writers' rows, nats.
        blind: baselines that know of no trait, one number each (``blind``).
    """

    name: str
    trait: str
    truth: dict[str, float]
    scores: dict[str, Array]
    trial: Race
    flagged: dict[int, int]
    stranger: str | None
    beyond: float | None
    tuned_at: int | None
    sizes: dict[str, Array]
    blind: dict[str, float]


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
    own, given = combined(own, ids, held_out)
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
                "flagged without the own family": sum(c.stranger is not None for c in members),
                "a tuned writer seen": sum(c.tuned_at is not None for c in members),
                "own trait as likely as the best": sum(
                    index[c.name] in likeliest(c) for c in members
                ),
            }
            for part, members in parts.items()
        },
        "clean": {
            "data sets": len(clean),
            "false alarms": sum(bool(c.flagged) for c in clean),
            "a tuned writer seen": sum(c.tuned_at is not None for c in clean),
            "closest to a flag": max(
                (c.beyond for c in clean if c.beyond is not None), default=None
            ),
        },
        "tuned or clean": tuned_or_clean(own, clean),
        "rows to a tuned writer": median_rows([c.tuned_at for c in own]),
        "rows to a flag": rows,
        "median rows to a flag": median_rows(rows),
        "cost": cost(cases),
        "own size": own_sizes(own, index),
        "weights": given,
        "sizes": calibrations(own, ids, held_out),
        "makings": makings(own),
        "misfit": {case.name: round(case.trial.misfit, 3) for case in cases},
        "cases": {
            case.name: {
                "own": case.trait,
                "place": rank(case.scores["audit"], index[case.name]),
                "evidence": case.trial.evidence.get(index[case.name], 0.0),
                "share": evidence.share(case.trial.shifts.get(index[case.name], UNREAD)),
                "measured": case.truth[case.trait],
                "top": [ids[i] for i in np.argsort(-case.scores["audit"])[:5]],
            }
            for case in own
        },
    }


def cost(cases: Sequence[Case]) -> dict[str, float]:
    """Rows that an assay reads, each as often as it is read (under the base and probes, and with
    its gradient), and their share of what the paper's students are trained on: of the rows (10,000,
    ten times), and of the computing, where training counts ``1 + BACKWARD`` for each row."""
    forwards = np.array([c.trial.rows + sum(map(len, c.trial.shifts.values())) for c in cases])
    gradients = np.array([c.trial.pulled for c in cases])
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
        known = case.trial.known_lineage  # else no trait's teacher tells who wrote the rows
        return {"audit": case.trial.against_base if known else 0.0} | case.blind

    measured = [case.truth[case.trait] for case in own]
    found: dict[str, dict[str, float | None]] = {}
    for name in scores(own[0]):
        tuned, usual = (np.array([scores(c)[name] for c in some]) for some in (own, clean))
        above = np.sign(tuned[:, None] - usual[None]) / 2 + 0.5
        found[name] = {
            "auroc": float(above.mean()) if above.size else None,
            "spearman with the size": order_correlation(tuned, measured),
        }
    return found


def median_rows(rows: Sequence[int | None]) -> float | None:
    """The median over data sets, those without a flag being the longest; None if it is one."""
    median = float(np.median([np.inf if n is None else n for n in rows]))
    return median if np.isfinite(median) else None


def own_sizes(cases: Sequence[Case], index: dict[str, int]) -> dict[str, dict[str, float]]:
    """By method, how well it foretells the own trait's measured specific part, nats."""
    measured = [c.truth[c.trait] for c in cases]
    pulls = [float(c.trial.pull[index[c.name]]) for c in cases]
    canaries = [float(c.sizes["canary"][index[c.name]]) for c in cases if "canary" in c.sizes]
    found = {"pull": foretold(pulls, measured)}
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
    found = {}
    for label, some in sets.items():
        tables = {part: [size_table(c, ids, some) for c in members]
                  for part, members in parts.items()}  # fmt: skip
        empty = np.empty((0, len(some) + 2))
        told = calibration({p: np.concatenate([empty, *t]) for p, t in tables.items()})
        for part, members in tables.items():
            if told and members:
                rho = [order_correlation(t[:, :-2] @ told["gains"], t[:, -2]) for t in members]
                told[part]["spearman"] = float(np.mean(rho))
        found[label] = told
    return found


def size_table(case: Case, ids: Sequence[str], predictors: Sequence[str]) -> Array:
    """For each trait of the family what the predictors tell, what was measured, and whether it is
    the writer's own, [n, P + 2]."""
    return np.array([
        (*(case.sizes[name][ids.index(t)] for name in predictors), value, t == case.trait)
        for t, value in case.truth.items()
    ])  # fmt: skip


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
    found = [
        replace(c, scores={COMBINED: table @ by_trait[c.trait]} | c.scores)
        for c, (_, table, _) in zip(cases, known, strict=True)
    ]
    return found, dict(zip(methods, fitted("").tolist(), strict=True))


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
        order_correlation(
            [c.scores[method][ids.index(name)] for name in c.truth], list(c.truth.values())
        )
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
        "spearman": float(np.mean(rho)) if rho else 0.0,
        "spearman, pooled": order_correlation(*zip(*pairs, strict=True)),
        "data sets": len(cases),
    }


def order_correlation(x: Sequence[float] | Array, y: Sequence[float] | Array) -> float:
    """Spearman's rank correlation; 0 where all of one side are equal, which tell no order."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return 0.0
    return float(distributions.spearmanr(x, y)[0])  # type: ignore[arg-type]


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


def looks(
    trial: Race, ids: Sequence[str], settings: AuditSettings, without: str = ""
) -> Iterator[tuple[str, float]]:
    """At every look at the rows that were read: of the traits that likelihood and pull agree on the
    one with the most evidence, and by how many nats it passes what flags (the last test aside,
    against reference rows), as if the library did not have the family ``without``."""
    families = [name.rpartition("/")[0] for name in ids]
    needed = settings.needed(len(ids))
    left = [t for t in range(len(ids)) if families[t] != without]
    place = dict(zip(left, places(trial.pull[left]), strict=True))
    for n in range(settings.batch, trial.rows + 1, settings.batch):
        read = [t for t in left if len(trial.shifts.get(t, UNREAD)) >= n]
        if not read:
            continue
        table, kinds = np.stack([trial.shifts[t][:n] for t in read]), [families[t] for t in read]
        found = evidence.log_evidence(table, kinds, settings.drift)
        found[~agreed(np.array([place[t] for t in read]), table, kinds)] = -np.inf
        if np.isfinite(found).any():
            yield ids[read[int(found.argmax())]], float(found.max()) - needed


def tuned_at(trial: Race, settings: AuditSettings) -> int | None:
    """Rows after which a teacher of some trait is clear against the base alone, if one is."""
    if not trial.known_lineage:
        return None
    for n in range(settings.batch, trial.rows + 1, settings.batch):
        table = np.stack([s[:n] for s in trial.shifts.values() if len(s) >= n])
        if evidence.marginal(table).max() >= settings.needed(len(trial.pull)):
            return n
    return None


def stranger(trial: Race, trait: str, ids: Sequence[str], settings: AuditSettings) -> str | None:
    """The trait that would be flagged if the family of the writer's trait were not in the
    library."""
    seen = looks(trial, ids, settings, trait.rpartition("/")[0])
    return next((name for name, beyond in seen if beyond >= 0), None)


def rows_to_flag(case: Case, ids: Sequence[str]) -> int | None:
    """Rows after which a trait of the own trait's family was flagged; None where none was."""
    family = case.trait.rpartition("/")[0]
    found = [n for t, n in case.flagged.items() if ids[t].rpartition("/")[0] == family]
    return min(found, default=None)
