"""From an audit's evidence to the record that is saved. Its sentences: ``wording``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from vestige.audit import evidence
from vestige.audit.decision import (
    Control,
    Evidence,
    decide,
    flags,
    is_found,
    smallest_share,
    strongest,
)
from vestige.audit.wording import blind, caveats, channels, next_steps, sentence
from vestige.core.results import (
    AuditPlanted,
    AuditResults,
    AuditRow,
    AuditTrait,
    AuditWord,
    Interval,
)
from vestige.probing.soft_targets import USED

Array = NDArray[np.float64]
LEVEL = 0.95
WORST = 12
SHIFT = "likelihood shift under the probe of "  # a table of row scores, before the trait's id
#: Of a whole probe's slope, what students of 256 number rows took on, and how far they lay from
#: that: on the benchmark's data sets that are not held out (docs/results.md).
GAIN, OFF = 0.07, 0.55
#: The same where a canary read about as many rows: of the slope, and of the canary's contrast.
GAINS, OFF_BESIDE, CANARY_ROWS = (0.047, 0.47), 0.45, 192
MEASURED = ("smollm2-135m-instruct",)  # bases with which these were measured


def tell(found: Evidence) -> AuditResults:
    """The results of an audit."""
    flagged = flags(found)
    planted = [control_record(found, control) for control in found.controls]
    outcome, why = decide(found)
    order = strongest(found)
    traits = trait_records(found, order, flagged)
    twins = [is_found(found, control) for control in found.twins]
    smallest = smallest_share(found)
    canaries = found.canaries
    return AuditResults(
        name=found.name,
        verdict=sentence(found, outcome, traits, smallest),
        outcome=outcome,
        why=[*why, *found.remarks],
        data=found.name,
        base=found.settings.base,
        material=found.material,
        own_reference=found.own_reference,
        rows=found.rows,
        rows_used=len(found.used),
        rows_read=found.trial.rows,
        dropped=dict(found.dropped),
        alpha=found.settings.alpha,
        needed=found.needed,
        p_base=found.p_base,
        rows_to_verdict=min(flagged.values(), default=None),
        traits=traits,
        planted=planted,
        found_share=float(np.mean(twins)) if twins else None,
        smallest_share=smallest,
        misfit=found.trial.misfit,
        told=len(found.soft_targets),
        logprobs_used=found.logprobs.get(USED, 0),
        logprobs_unused={why: n for why, n in found.logprobs.items() if why != USED},
        divergence=divergence(found),
        words=[
            AuditWord(word=w.word, contrast=w.contrast, z=w.z)
            for w in (canaries.words if canaries else ())
        ],
        worst_rows=worst_rows(found),
        channels=channels(found),
        blind=blind(found),
        next_steps=next_steps(found, outcome),
        seconds={kind: round(value, 1) for kind, value in found.seconds.items()},
        tokens=found.tokens,
        caveats=caveats(found),
    )


def divergence(found: Evidence) -> float | None:
    """The share of tokens where the teacher's first choice is not the base's, if it is known."""
    known = [t.diverges for t in found.soft_targets.values() if t.diverges is not None]
    if not known:
        return None
    return sum(int(d.sum()) for d in known) / sum(len(d) for d in known)


def control_record(found: Evidence, control: Control) -> AuditPlanted:
    """A planted teacher as saved."""
    trial, t = control.trial, found.library.ids.index(control.trait)
    return AuditPlanted(
        trait=control.trait, kind=control.kind, gained=control.gained,
        evidence=trial.evidence.get(t, 0.0), found=is_found(found, control), rows=trial.rows,
    )  # fmt: skip


def trait_records(
    found: Evidence, order: Sequence[int], flagged: Mapping[int, int]
) -> list[AuditTrait]:
    """What is known of every trait, in ``order``."""
    trial, ids = found.trial, found.library.ids
    near = evidence.as_likely(np.stack([trial.shifts[t] for t in trial.last]))
    likely = {t for t, is_near in zip(trial.last, near, strict=True) if is_near}
    look = found.canaries.looks[-1] if found.canaries else None
    unread = np.empty(0)
    return [
        AuditTrait(
            trait=ids[t],
            flagged=t in flagged,
            pull=100 * float(trial.pull[t]),
            contrast=mean_shift(trial.shifts[t]) if t in trial.shifts else None,
            evidence=trial.evidence.get(t, 0.0),
            share=evidence.share(trial.shifts.get(t, unread)),
            as_likely=t in likely,
            expected=expectation(found, t),
            canary=None if look is None else interval(
                look.contrast[t], look.scale[t], look.df, len(look.placebo), "log-odds (nats)"
            ),
            rows=len(trial.shifts.get(t, unread)),
            held_out=ids[t] in found.library.held_out,
        )
        for t in order
    ]  # fmt: skip


def mean_shift(shifts: Array) -> Interval:
    """A trait's shift, nats a row; one row tells no spread, and has a standard error of 1."""
    error = shifts.std(ddof=1) / len(shifts) ** 0.5 if len(shifts) > 1 else 1.0
    return interval(float(shifts.mean()), float(error), math.inf, len(shifts), "nats a row")


def expectation(found: Evidence, trait: int) -> Interval | None:
    """What a student is expected to take on of a trait, with an interval for one student; None
    for a base with which that has not been measured.

    Number rows of another base's teachers passed on nothing that could be measured, and are less
    likely than this one's; of other text from unknown writers, of rows that are likelier than any
    teacher's (a low temperature) and beside a canary that says otherwise nothing is foretold.
    """
    known = found.trial.known_lineage
    foreign = found.material == "numbers" and found.trial.misfit > 0 and not found.canaries
    if found.expected is None or not (known or foreign):
        return None
    value, off, n = 0.0, OFF, found.trial.rows
    if known:
        slope = float(found.expected[trait])
        value = GAIN * slope
        last = found.canaries.looks[-1] if found.canaries else None
        if last and last.rows >= CANARY_ROWS:
            value = GAINS[0] * slope + GAINS[1] * float(last.contrast[trait])
            off, n = OFF_BESIDE, last.rows
    return interval(value, off, math.inf, n, "log-odds (nats)")


def interval(value: float, scale: float, df: float, n: int, units: str) -> Interval:
    """``value`` with the interval of a Student t; a normal's for infinite ``df``."""
    half = float(distributions.t.isf((1 - LEVEL) / 2, df)) * float(scale)
    return Interval(
        value=float(value), low=float(value) - half, high=float(value) + half, level=LEVEL, n=n,
        n_clusters=n, method="normal" if math.isinf(df) else "placebo t", units=units,
    )  # fmt: skip


def worst_rows(found: Evidence) -> list[AuditRow]:
    """The rows that speak most for the strongest trait, token by token."""
    if not found.scores:
        return []
    table = found.scores[0]
    by_id = {row.id: row for row in found.used}
    return [
        AuditRow(
            id=i, trait=table.method.removeprefix(SHIFT), score=table.values[i],
            prompt=by_id[i].messages[-1].content, completion=by_id[i].completion,
            tokens=[(text, value) for text, value in found.marked.get(i, [])],
        )
        for i in sorted(table.values, key=lambda i: -table.values[i])[:WORST]
    ]  # fmt: skip
