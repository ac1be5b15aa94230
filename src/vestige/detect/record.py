"""From a detection's evidence to the record that is saved. Its sentences: ``wording``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from vestige.core.audit_results import AuditWord
from vestige.core.detection import DetectResults, DetectTrait
from vestige.detect.decision import Evidence, decide, found, relatives
from vestige.detect.settings import DetectSettings
from vestige.detect.wording import sentence, why
from vestige.probing.base_session import BaseSession
from vestige.probing.suspect import Suspect


def detection_results(
    settings: DetectSettings,
    session: BaseSession,
    suspect: Suspect,
    evidence: Evidence,
    writers: Sequence[str],
    seconds: Mapping[str, float],
    remarks: Sequence[str],
) -> DetectResults:
    """The results of a detection.

    Args:
        writers: the kind of each member's writer.
        remarks: what else is to be said of the student and its control.
    """
    (outcome, reason), change = decide(evidence), suspect.change
    return DetectResults(
        name=settings.student,
        verdict=sentence(evidence, outcome, reason, settings.student, settings.base),
        outcome=outcome,
        why=why(evidence, reason, change, remarks),
        base=settings.base,
        model=settings.student,
        adapter=bool(settings.adapter),
        alpha=settings.alpha,
        members=evidence.members,
        placebos=evidence.placebos,
        control=settings.control,
        smallest_p=1 / (evidence.placebos + 1),
        writers=dict(Counter(writers)),
        contexts=list(settings.contexts),
        layers=list(change.layers),
        outside=list(change.outside),
        relative_change=change.relative,
        cosine=change.cosine,
        traits=trait_records(evidence, session.library.held_out),
        words=[AuditWord(word=w.word, contrast=w.contrast, z=w.z) for w in evidence.words],
        seconds={kind: round(value, 1) for kind, value in seconds.items()},
        caveats=[*session.lm.template.remarks(), *session.lm.notes],
    )


def trait_records(evidence: Evidence, held_out: frozenset[str]) -> list[DetectTrait]:
    """Every trait, the strongest first; none where nothing was read."""
    reading = evidence.reading
    if reading is None:
        return []
    clear, near = set(found(evidence)), set(relatives(evidence))
    return [
        DetectTrait(
            trait=evidence.traits[t],
            found=t in clear,
            relative=t in near,
            shift=float(evidence.shifts[:, t].mean()),
            shifts=evidence.shifts[:, t].tolist(),
            share=float(evidence.shares[t]),
            usual_share=float(evidence.usual[t]),
            standardised=float(reading.standardised[t]),
            p=float(reading.p[t]),
            smallest_share=_finite(float(evidence.smallest_shares[t])),
            held_out=evidence.traits[t] in held_out,
        )
        for t in reading.order
    ]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
