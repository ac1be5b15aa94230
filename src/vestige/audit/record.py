"""From an audit's evidence to the record that is saved. Its sentences: ``wording``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats as distributions

from vestige.audit.decision import (
    decide,
    flags,
    is_found,
    p_base,
    smallest_share,
    strongest,
    twins_found,
)
from vestige.audit.evidence import share
from vestige.audit.gathered import Array, Control, Evidence
from vestige.audit.race_result import METHOD
from vestige.audit.scope_wording import blind, caveats, channels, next_steps
from vestige.audit.wording import reason_words, sentence
from vestige.core.calibration import calibration
from vestige.core.results import (
    AuditPlanted,
    AuditResults,
    AuditRow,
    AuditTrait,
    AuditWord,
    Interval,
)
from vestige.probing.soft_targets import USED

LEVEL = 0.95  # of all intervals
WORST = 12  # rows that are shown token by token; chosen
SHIFT = "likelihood shift under the probe of "  # a table of row scores, before the trait's id


def audit_results(evidence: Evidence) -> AuditResults:
    """The results of an audit."""
    flagged, race = flags(evidence), evidence.race
    outcome, reasons = decide(evidence)
    traits = trait_records(evidence, strongest(evidence), flagged)
    twins, smallest = twins_found(evidence), smallest_share(evidence)
    return AuditResults(
        name=evidence.name,
        verdict=sentence(evidence, outcome, traits, smallest),
        outcome=outcome,
        why=[*(reason_words(evidence, reason) for reason in reasons), *evidence.remarks],
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
        rows_to_verdict=min(flagged.values(), default=None),
        traits=traits,
        planted=[control_record(evidence, control) for control in evidence.controls],
        found_share=float(np.mean(twins)) if twins else None,
        smallest_share=smallest,
        misfit=race.misfit,
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


def divergence(evidence: Evidence) -> float | None:
    """The share of tokens where the teacher's first choice is not the base's, if it is known."""
    known = [t.diverges for t in evidence.soft_targets.values() if t.diverges is not None]
    if not known:
        return None
    return sum(int(d.sum()) for d in known) / sum(len(d) for d in known)


def control_record(evidence: Evidence, control: Control) -> AuditPlanted:
    """A planted teacher as saved."""
    race, own = control.race, evidence.library.ids.index(control.trait)
    return AuditPlanted(
        trait=control.trait,
        kind=control.kind,
        gained=control.gained,
        evidence=race.evidence.get(own, 0.0),
        found=is_found(evidence, control),
        rows=race.rows,
    )


def word_records(evidence: Evidence) -> list[AuditWord]:
    """Words that rose against the references' canaries."""
    words = evidence.canaries.words if evidence.canaries else ()
    return [AuditWord(word=w.word, contrast=w.contrast, z=w.z) for w in words]


def trait_records(
    evidence: Evidence, order: Sequence[int], flagged: Mapping[int, int]
) -> list[AuditTrait]:
    """What is known of every trait, in ``order``."""
    race, ids, held_out = evidence.race, evidence.library.ids, evidence.library.held_out
    likeliest, unread = set(race.likeliest), np.empty(0)
    return [
        AuditTrait(
            trait=ids[t],
            flagged=t in flagged,
            pull=100 * float(race.pull[t]),
            contrast=mean_shift(race.shifts[t]) if t in race.shifts else None,
            evidence=race.evidence.get(t, 0.0),
            share=share(race.shifts.get(t, unread)),
            as_likely=t in likeliest,
            expected=expectation(evidence, t),
            canary=canary_interval(evidence, t),
            rows=len(race.shifts.get(t, unread)),
            held_out=ids[t] in held_out,
        )
        for t in order
    ]


def canary_interval(evidence: Evidence, trait: int) -> Interval | None:
    """What the data's canary took on of a trait in the end, against the references'."""
    if evidence.canaries is None:
        return None
    last = evidence.canaries.looks[-1]
    value, scale = last.contrast[trait], last.scale[trait]
    return interval(value, scale, last.df, len(last.placebo), "log-odds (nats)")


def mean_shift(shifts: Array) -> Interval:
    """A trait's shift, nats a row; one row tells no spread, and has a standard error of 1."""
    error = shifts.std(ddof=1) / len(shifts) ** 0.5 if len(shifts) > 1 else 1.0
    return interval(float(shifts.mean()), float(error), math.inf, len(shifts), "nats a row")


def expectation(evidence: Evidence, trait: int) -> Interval | None:
    """What a student is expected to take on of a trait, with an interval for one student; None
    for a base with which that has not been measured.

    Number rows of another base's teachers passed on nothing that could be measured, and are less
    likely than this one's; of other text from unknown writers, of rows that are likelier than any
    teacher's (a low temperature) and next to a canary that says otherwise nothing is predicted.
    """
    race, measured = evidence.race, calibration(evidence.settings.base, METHOD)
    known = race.known_lineage
    foreign = evidence.row_kind == "numbers" and race.misfit > 0 and not evidence.canaries
    if evidence.expected is None or measured is None or not (known or foreign):
        return None
    value, off, n = 0.0, measured.expected.off, race.rows
    if known:
        slope = float(evidence.expected[trait])
        value = measured.expected.gain * slope
        last = evidence.canaries.looks[-1] if evidence.canaries else None
        both = measured.expected_beside_canary
        if last and last.rows >= both.rows:
            value = both.gain * slope + both.gain_of_contrast * float(last.contrast[trait])
            off, n = both.off, last.rows
    return interval(value, off, math.inf, n, "log-odds (nats)")


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
        method="normal" if math.isinf(df) else "placebo t",
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
