"""An audit: the strongest traits with intervals, and the strongest among all others."""

from __future__ import annotations

from typing import Any

from vestige.core.results import AuditResults
from vestige.report import charts
from vestige.report.widths import both_widths

RECORD = AuditResults
RANKED = 15  # traits in the chart of the strongest, chosen to fit on a screen


def view(index: int, results: AuditResults) -> dict[str, Any]:
    """The charts of the strongest traits and of every trait's pull."""
    marks = [
        charts.Mark(t.trait, t.contrast.value, t.contrast.low, t.contrast.high, own=t.flagged)
        for t in results.traits[:RANKED]
        if t.contrast
    ]
    return {
        "ranking": both_widths(
            charts.forest,
            f"{results.name}: the strongest traits",
            marks,
            "log-likelihood ratio to the base, nats per row",
        ),
        "cloud": both_widths(
            charts.strip,
            f"{results.name}: pull of every trait",
            pulls(results),
            "pull, % of a probe",
        ),
    }


def pulls(results: AuditResults) -> list[tuple[str, list[tuple[str, float]]]]:
    """The pull of the strongest trait, of its family and of all others, each other's placebos."""
    first, *others = results.traits
    family = first.trait.rpartition("/")[0]
    own_family, rest = [], []
    for t in others:
        same = t.trait.rpartition("/")[0] == family
        (own_family if same else rest).append((t.trait, t.pull))
    own = [(first.trait, first.pull)]
    groups = [(first.trait, own), ("its family", own_family), ("other families", rest)]
    return [(label, dots) for label, dots in groups if dots]
