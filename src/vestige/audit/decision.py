"""The one decision rule: from what canaries took on to an outcome. Pure: nothing here loads a model
or torch.

*Flagged*: a trait's p-value is at most alpha's share at some dose. *Not found*: half of the traits
would have been seen, had the rows passed on ``limit`` nats of them in the training that is to be
spared. A canary reads fewer rows than that training, and so takes on less: shifts grow with the
rows read to a power whose upper bound is taken (``calibration.growth``). *Inconclusive*: otherwise;
the first look alone, who wrote the rows, decides nothing (``first_look``).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from vestige.audit.first_look import by_first_look
from vestige.audit.gathered import Dose, Evidence
from vestige.audit.settings import AuditSettings
from vestige.core.calibration import latest
from vestige.probing import findings

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
    """Whether half of the traits would have been seen, had the rows passed on ``limit`` nats."""
    return visible(dose) <= expected_at(dose.rows, settings.limit, training_rows)


def visible(dose: Dose) -> float:
    """Nats of a trait that would have been seen at this dose, of half of the traits."""
    return float(np.median(dose.smallest_effects))


def expected_at(rows: int, limit: float, training_rows: int) -> float:
    """What a canary takes on that reads so many rows, of ``limit`` nats in the whole training."""
    return limit * min(1.0, rows / training_rows) ** latest().growth.interval[1]


def rows_needed(dose: Dose, limit: float, training_rows: int) -> float:
    """Rows that a canary would have to read for ``limit`` nats in the whole training to be seen, if
    what is visible stays as it is at this dose; infinite where not even all of them suffice."""
    share = visible(dose) / limit
    if share > 1:
        return float("inf")
    return float(training_rows * share ** (1 / latest().growth.interval[1]))


def strongest(evidence: Evidence) -> list[int]:
    """All traits, the strongest first: as canaries took them on, else by the first look."""
    if dose := evidence.last:
        return [int(t) for t in np.argsort(-dose.reading.standardised, kind="stable")]
    return by_first_look(evidence)
