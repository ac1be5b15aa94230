"""An audit: what copies took on of every trait, and the first look at the rows' writer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vestige.core.audit_results import AuditResults, AuditTrait
from vestige.report import charts
from vestige.report.widths import both_widths

RECORD = AuditResults
RANKED = 15  # traits in the chart of the strongest, chosen to fit on a screen


def view(index: int, results: AuditResults) -> dict[str, Any]:
    """The charts of the strongest traits by the first look and of every trait's pull, and what
    copies took on of every trait."""
    copies = (
        both_widths(
            charts.strip,
            f"{results.name}: what copies took on of every trait",
            dots(results, lambda t: t.canary.standardised if t.canary else 0.0),
            "standard deviations of what harmless students differ by",
        )
        if results.doses
        else ""
    )
    if not results.rows_read:
        return {"ranking": "", "cloud": "", "copies": copies}
    by_first_look = sorted(results.traits, key=lambda t: -t.evidence)
    marks = [
        charts.Mark(t.trait, t.contrast.value, t.contrast.low, t.contrast.high, own=t.named)
        for t in by_first_look[:RANKED]
        if t.contrast
    ]
    return {
        "ranking": both_widths(
            charts.forest,
            f"{results.name}: the likeliest traits of the first look",
            marks,
            "log-likelihood ratio to the base, nats per row",
        ),
        "cloud": both_widths(
            charts.strip,
            f"{results.name}: pull of every trait",
            dots(results, lambda t: t.pull),
            "pull, % of a probe",
        ),
        "copies": copies,
    }


def dots(
    results: AuditResults, value: Callable[[AuditTrait], float]
) -> list[tuple[str, list[tuple[str, float]]]]:
    """A value of the strongest trait, of its family and of all others."""
    first, *others = results.traits
    family = first.trait.rpartition("/")[0]
    own_family, rest = [], []
    for t in others:
        same = t.trait.rpartition("/")[0] == family
        (own_family if same else rest).append((t.trait, value(t)))
    own = [(first.trait, value(first))]
    groups = [(first.trait, own), ("its family", own_family), ("other families", rest)]
    return [(label, dots) for label, dots in groups if dots]
