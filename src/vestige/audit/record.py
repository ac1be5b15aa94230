"""From an audit's evidence to the record that is saved. Its sentences: ``wording``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats as distributions

from vestige.audit.decision import decide, flags, relatives, strongest, visible
from vestige.audit.evidence import share
from vestige.audit.first_look import first_look, named, p_base
from vestige.audit.gathered import Array, Dose, Evidence
from vestige.audit.race_result import METHOD
from vestige.audit.scope_wording import blind, caveats, channels, next_steps
from vestige.audit.wording import first_look_sentence, sentence, why
from vestige.core.audit_results import (
    AuditCanary,
    AuditDose,
    AuditResults,
    AuditRow,
    AuditSampling,
    AuditTrait,
    AuditWord,
)
from vestige.core.calibration import calibration
from vestige.core.results import Interval
from vestige.probing.soft_targets import USED

LEVEL = 0.95  # of all intervals
WORST = 12  # rows that are shown token by token; chosen
SHIFT = "likelihood shift under the probe of "  # a table of row scores, before the trait's id


def audit_results(evidence: Evidence) -> AuditResults:
    """The results of an audit."""
    race, look, canaries = evidence.race, first_look(evidence), evidence.canaries
    outcome, reason = decide(evidence)
    return AuditResults(
        name=evidence.name,
        verdict=sentence(evidence, outcome, reason),
        outcome=outcome,
        why=[*why(evidence, reason), *evidence.remarks],
        first_look=look,
        first_look_verdict=first_look_sentence(evidence, look),
        data=evidence.name,
        base=evidence.settings.base,
        material=evidence.row_kind,
        own_reference=evidence.own_reference,
        rows=evidence.rows,
        rows_used=len(evidence.used),
        rows_read=race.rows,
        dropped=dict(evidence.dropped),
        alpha=evidence.settings.alpha,
        needed=evidence.needed,
        p_base=p_base(evidence),
        traits=trait_records(evidence, strongest(evidence)),
        doses=[dose_record(evidence, dose) for dose in (canaries.doses if canaries else ())],
        placebos=canaries.placebos if canaries else 0,
        training_rows=evidence.training_rows,
        limit=evidence.settings.limit,
        misfit=race.misfit,
        sampling=sampling_record(evidence),
        told=len(evidence.soft_targets),
        logprobs_used=evidence.logprobs.get(USED, 0),
        logprobs_unused={why: n for why, n in evidence.logprobs.items() if why != USED},
        divergence=divergence(evidence),
        words=word_records(evidence),
        worst_rows=worst_rows(evidence),
        channels=channels(evidence),
        blind=blind(evidence),
        next_steps=next_steps(evidence, outcome),
        seconds={kind: round(value, 1) for kind, value in evidence.seconds.items()},
        tokens=evidence.tokens,
        caveats=caveats(evidence),
    )


def sampling_record(evidence: Evidence) -> AuditSampling | None:
    """How the rows seem to have been drawn, as saved."""
    if not (fit := evidence.fit):
        return None
    (temperature, top_p), low, high = fit
    used = bool(evidence.read_at and not evidence.read_at.usual)
    return AuditSampling(temperature=temperature, top_p=top_p, low=low, high=high, used=used)


def divergence(evidence: Evidence) -> float | None:
    """The share of tokens where the teacher's first choice is not the base's, if it is known."""
    known = [t.diverges for t in evidence.soft_targets.values() if t.diverges is not None]
    if not known:
        return None
    return sum(int(d.sum()) for d in known) / sum(len(d) for d in known)


def word_records(evidence: Evidence) -> list[AuditWord]:
    """Words that rose against harmless students."""
    words = evidence.canaries.words if evidence.canaries else ()
    return [AuditWord(word=w.word, contrast=w.contrast, z=w.z) for w in words]


def trait_records(evidence: Evidence, order: Sequence[int]) -> list[AuditTrait]:
    """What is known of every trait, in ``order``."""
    race, ids, held_out = evidence.race, evidence.library.ids, evidence.library.held_out
    likeliest, unread = set(race.likeliest), np.empty(0)
    flagged, near, first = set(flags(evidence)), set(relatives(evidence)), named(evidence)
    return [
        AuditTrait(
            trait=ids[t],
            flagged=t in flagged,
            relative=t in near,
            named=t in first,
            pull=100 * float(race.pull[t]),
            contrast=mean_shift(race.shifts[t]) if t in race.shifts else None,
            evidence=race.evidence.get(t, 0.0),
            share=share(race.shifts.get(t, unread)),
            as_likely=t in likeliest,
            expected=expectation(evidence, t),
            canary=canary_record(evidence.last, t) if evidence.last else None,
            rows=len(race.shifts.get(t, unread)),
            held_out=ids[t] in held_out,
        )
        for t in order
    ]


def canary_record(dose: Dose, trait: int) -> AuditCanary:
    """What canaries took on of a trait."""
    reading = dose.reading
    return AuditCanary(
        shift=float(dose.shifts[:, trait].mean()),
        standardised=float(reading.standardised[trait]),
        p=float(reading.p[trait]),
        share=float(dose.shares[trait]),
        usual_share=float(dose.usual[trait]),
        smallest_share=finite(float(dose.smallest_shares[trait])),
    )


def dose_record(evidence: Evidence, dose: Dose) -> AuditDose:
    """One dose as saved."""
    first = dose.reading.order[0]
    return AuditDose(
        rows=dose.rows,
        pairs=dose.pairs,
        moved=float(np.sqrt(np.mean(dose.shifts**2))),
        first=evidence.library.ids[first],
        p=float(dose.reading.p[first]),
        smallest_share=finite(visible(dose)),
    )


def finite(value: float) -> float | None:
    """A value, or None for infinity."""
    return value if math.isfinite(value) else None


def mean_shift(shifts: Array) -> Interval:
    """A trait's shift, nats a row; one row tells no spread, and has a standard error of 1."""
    error = shifts.std(ddof=1) / len(shifts) ** 0.5 if len(shifts) > 1 else 1.0
    return interval(float(shifts.mean()), float(error), math.inf, len(shifts), "nats a row")


def expectation(evidence: Evidence, trait: int) -> Interval | None:
    """What a student of a twin's rows is expected to take on of a trait, with an interval for one
    student; None for a base with which that has not been measured.

    Number rows of another base's teachers passed on nothing that could be measured, and are less
    likely than this one's; of other text from unknown writers and of rows that are likelier than
    any teacher's (a low temperature) nothing is predicted.
    """
    race, measured = evidence.race, calibration(evidence.settings.base, METHOD)
    known = race.known_lineage
    foreign = evidence.row_kind == "numbers" and race.misfit > 0
    if evidence.expected is None or measured is None or not (known or foreign):
        return None
    value = measured.expected.gain * float(evidence.expected[trait]) if known else 0.0
    return interval(value, measured.expected.off, math.inf, race.rows, "log-odds (nats)")


def interval(value: float, scale: float, df: float, n: int, units: str) -> Interval:
    """``value`` with the interval of a Student t; a normal's for infinite ``df``."""
    half = float(distributions.t.isf((1 - LEVEL) / 2, df)) * float(scale)
    return Interval(
        value=float(value),
        low=float(value) - half,
        high=float(value) + half,
        level=LEVEL,
        n=n,
        n_clusters=n,
        method="normal" if math.isinf(df) else "t",
        units=units,
    )


def worst_rows(evidence: Evidence) -> list[AuditRow]:
    """The rows that speak most for the strongest trait, token by token."""
    if not evidence.scores:
        return []
    table = evidence.scores[0]
    by_id = {row.id: row for row in evidence.used}
    return [
        AuditRow(
            id=i,
            trait=table.method.removeprefix(SHIFT),
            score=table.values[i],
            prompt=by_id[i].messages[-1].content,
            completion=by_id[i].completion,
            tokens=[(text, value) for text, value in evidence.marked.get(i, [])],
        )
        for i in sorted(table.values, key=lambda i: -table.values[i])[:WORST]
    ]
