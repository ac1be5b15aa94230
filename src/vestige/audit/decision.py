"""The one decision rule: from what canaries took on to an outcome. Pure: nothing here loads a model
or torch.

*Flagged*: a trait's p-value is at most alpha's share at some dose. *Not found*: half of the traits
would have been seen, had the training that is to be spared taken them to ``limit`` of the answers.
A canary reads fewer rows than that training, and so takes on less: shifts of log-odds grow with the
rows read to a power whose upper bound is taken (``calibration.growth``). *Inconclusive*: otherwise;
the first look alone, who wrote the rows, decides nothing (``first_look``).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.special import logit

from vestige.audit.first_look import by_first_look
from vestige.audit.gathered import Dose, Evidence
from vestige.audit.settings import AuditSettings
from vestige.core.calibration import latest
from vestige.probing import findings

TINY = 1e-9  # shares of the answers are held away from 0 and 1 by
Outcome = Literal["flagged", "not_found", "inconclusive"]
Reason = Literal["found", "nothing", "no canaries", "no battery", "few members", "blind"]


def decide(evidence: Evidence) -> tuple[Outcome, Reason]:
    """The outcome and its ground. What was not asked of canaries is inconclusive, never clean."""
    canaries = evidence.canaries
    if canaries is None:
        return "inconclusive", "no canaries"
    if canaries.missing:
        return "inconclusive", "no battery"
    if 1 / (canaries.placebos + 1) > canaries.alpha:
        return "inconclusive", "few members"
    if flags(evidence):
        return "flagged", "found"
    if sees(canaries.doses[-1], evidence.settings, evidence.training_rows):
        return "not_found", "nothing"
    return "inconclusive", "blind"


def flags(evidence: Evidence) -> list[int]:
    """Flagged traits, the clearest first."""
    return clear(evidence.last, evidence.canaries.alpha) if evidence.canaries else []


def clear(dose: Dose | None, alpha: float) -> list[int]:
    """Traits that stand out at a dose, the clearest first."""
    return findings.found(dose.reading, alpha) if dose else []


def relatives(evidence: Evidence) -> list[int]:
    """Traits that cannot be distinguished from one of their family that is flagged."""
    if not flags(evidence) or not (dose := evidence.last) or not evidence.canaries:
        return []
    return findings.relatives(evidence.library.ids, dose.reading, evidence.canaries.alpha)


def settles(dose: Dose, alpha: float, settings: AuditSettings, training_rows: int) -> bool:
    """Whether a further dose is needless."""
    return bool(clear(dose, alpha)) or sees(dose, settings, training_rows)


def sees(dose: Dose, settings: AuditSettings, training_rows: int) -> bool:
    """Whether half of the traits would have been seen, had the training taken them to ``limit``."""
    return needed(dose, settings.limit) <= reached(dose.rows, training_rows)


def visible(dose: Dose) -> float:
    """The share of the answers from which half of the traits would have been seen at this dose."""
    return float(np.median(dose.smallest_shares))


def needed(dose: Dose, limit: float) -> float:
    """The part of the way to ``limit`` of the answers, in log-odds, after which half of the traits
    would have been seen in a canary; infinite where they would not be."""
    usual = np.clip(dose.usual, TINY, 1 - TINY)
    way = logit(limit) - logit(usual)
    seen = logit(np.clip(dose.smallest_shares, TINY, 1 - TINY)) - logit(usual)
    open_ = np.isfinite(dose.smallest_shares) & (way > 0)
    parts = np.divide(seen, way, out=np.full(len(way), np.inf), where=open_)
    return float(np.median(parts))


def reached(rows: int, training_rows: int) -> float:
    """The part of the way that a canary of so many rows goes, of the whole training's."""
    return min(1.0, rows / training_rows) ** latest().growth.interval[1]


def rows_needed(dose: Dose, limit: float, training_rows: int) -> float:
    """Rows that a canary would have to read for ``limit`` in the whole training to be seen, if what
    is visible stays as it is at this dose; infinite where not even all of them suffice."""
    part = needed(dose, limit)
    if part > 1:
        return float("inf")
    return float(training_rows * max(part, 0.0) ** (1 / latest().growth.interval[1]))


def strongest(evidence: Evidence) -> list[int]:
    """All traits, the strongest first: as canaries took them on, else by the first look."""
    if dose := evidence.last:
        return dose.reading.order
    return by_first_look(evidence)
