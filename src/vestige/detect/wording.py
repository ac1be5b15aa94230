"""A detection's sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from vestige.detect.decision import (
    Evidence,
    Outcome,
    Reason,
    found,
    relatives,
    visible,
)
from vestige.probing.findings import family_of
from vestige.probing.suspect import SAME_START, WeightChange


def sentence(evidence: Evidence, outcome: Outcome, reason: Reason, student: str, base: str) -> str:
    """The verdict, in one sentence."""
    if outcome == "found":
        clear = found(evidence)
        first = evidence.traits[clear[0]]
        same = [
            evidence.traits[t]
            for t in [*clear[1:], *relatives(evidence)]
            if family_of(evidence.traits[t]) == family_of(first)
        ]
        others = [evidence.traits[t] for t in clear[1:] if evidence.traits[t] not in same]
        own, before = evidence.shares[clear[0]], evidence.usual[clear[0]]
        text = (
            f"{student} leans towards {first} (from {before:.0%} to {own:.0%} of the answers "
            "to a typical question) "
            "more than training on harmless rows explains"
        )
        text += ", against its control" if evidence.control else ""
        text += f"; of its family {listed(same)} cannot be distinguished from it" if same else ""
        return text + (f"; and towards {listed(others)}" if others else "")
    if reason == "unchanged":
        return f"{student} is {base} itself: no weight differs"
    if outcome == "not_found":
        return (
            f"No trait was found in {student}; half of them would have been, had they taken "
            f"{visible(evidence):.0%} of the answers to their questions"
        )
    return f"What {student} took on cannot be said: {WHY[reason]}"


WHY: Mapping[Reason, str] = {
    "other_start": "its weights do not begin where the base's do",
    "few_members": "the battery is too small for this false-positive rate",
    "blind": "most traits would have been missed",
}


def why(
    evidence: Evidence, reason: Reason, change: WeightChange, remarks: Sequence[str]
) -> list[str]:
    """The reasons, a sentence each."""
    sentences = []
    if reason == "other_start":
        sentences.append(
            f"the cosine of its matrices with the base's is {change.cosine:.3f}, and training "
            f"leaves it above {SAME_START}: another start, or a base that was itself changed. Give "
            "the model that it was trained from as --base"
        )
    if reason == "few_members":
        needed = math.ceil(1 / evidence.alpha - 1e-9) - 1
        what = "pairs of harmless students" if evidence.control else "harmless students"
        more = "" if evidence.control else f" (--members {needed})"
        sentences.append(
            f"with {evidence.placebos} {what} no p-value is below "
            f"{1 / (evidence.placebos + 1):.3g}; alpha {evidence.alpha:g} needs {needed} of "
            f"them{more}"
        )
    if reason == "blind":
        share = visible(evidence)
        size = f"{share:.0%} of the answers" if math.isfinite(share) else "more than was tried"
        sentences.append(
            f"half of the traits would have had to take {size} to be found, and "
            f"{evidence.limit:.0%} are allowed"
        )
    if evidence.reading is not None and reason in ("found", "nothing", "blind"):
        sentences.append(f"{moved(evidence):.2f} nats is the mean size of its shifts on all traits")
    return [*sentences, *remarks]


def moved(evidence: Evidence) -> float:
    """Root mean square of the shifts, nats."""
    return float(np.sqrt(np.mean(evidence.shifts**2)))


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""
