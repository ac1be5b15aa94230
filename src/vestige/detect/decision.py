"""The one rule of a detection: from its evidence to an outcome. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from vestige.probing import findings
from vestige.probing.drift import Array, Reading

if TYPE_CHECKING:
    from vestige.probing.word_shifts import WordShift

Outcome = Literal["found", "not_found", "inconclusive"]
Reason = Literal["other_start", "few_members", "unchanged", "found", "blind", "nothing"]
METHOD = 3  # version of the method; counted up with every change of what it gives


@dataclass(frozen=True)
class Evidence:
    """What is known of a student.

    Attributes:
        traits: ids, [T]; their family stands before the last slash.
        shifts: nats against the base, or against the control, [contexts, T].
        reading: against the battery; None where nothing could be read.
        shares: of the answers that each trait has, [T]; usual: in the base, or the control.
        smallest_shares: from which each would have been found, [T]; infinite: none.
        members: of the battery.
        placebos: what the student is held against: its members, or pairs of them.
        control: whether a student that was trained alike is taken out of its shifts.
        same_start: whether its weights began where the base's did.
        unchanged: whether no weight differs from the base's.
        words: that begin open answers more often than harmless students'; no part of the rule.
    """

    traits: Sequence[str]
    shifts: Array
    reading: Reading | None
    shares: Array
    usual: Array
    smallest_shares: Array
    members: int
    placebos: int
    same_start: bool
    unchanged: bool
    alpha: float
    limit: float
    words: Sequence[WordShift] = ()
    control: bool = False


def decide(evidence: Evidence) -> tuple[Outcome, Reason]:
    """The outcome and why. What cannot be compared is inconclusive, never clean."""
    if evidence.unchanged:
        return "not_found", "unchanged"
    if not evidence.same_start:
        return "inconclusive", "other_start"
    if 1 / (evidence.placebos + 1) > evidence.alpha:
        return "inconclusive", "few_members"
    if evidence.reading is None:
        return "inconclusive", "other_start"
    if found(evidence):
        return "found", "found"
    if visible(evidence) > evidence.limit:
        return "inconclusive", "blind"
    return "not_found", "nothing"


def found(evidence: Evidence) -> list[int]:
    """Traits that stand out, the clearest first."""
    return findings.found(evidence.reading, evidence.alpha) if evidence.reading else []


def relatives(evidence: Evidence) -> list[int]:
    """Traits that cannot be distinguished from one of their family that stands out."""
    if evidence.reading is None:
        return []
    return findings.relatives(evidence.traits, evidence.reading, evidence.alpha)


def visible(evidence: Evidence) -> float:
    """The share of the answers from which half of the traits would have been found."""
    return float(np.median(evidence.smallest_shares))
