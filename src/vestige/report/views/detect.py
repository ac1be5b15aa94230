"""A detection: the strongest traits beyond drift, and all others."""

from __future__ import annotations

from typing import Any

from vestige.core.detection import DetectResults
from vestige.report import charts
from vestige.report.widths import both_widths

RECORD = DetectResults


def view(index: int, results: DetectResults) -> dict[str, Any]:
    """The charts of every trait beyond drift, and of its plain shift; none where nothing was
    read."""
    if not results.traits:
        return {"beyond": None, "shifts": None}
    first, *others = results.traits
    family = first.trait.rpartition("/")[0]
    own = [t for t in others if t.trait.rpartition("/")[0] == family]
    rest = [t for t in others if t not in own]
    groups = [(first.trait, [first]), ("its family", own), ("other families", rest)]

    def dots(field: str) -> list[tuple[str, list[tuple[str, float]]]]:
        return [
            (label, [(t.trait, float(getattr(t, field))) for t in traits])
            for label, traits in groups
            if traits
        ]

    title = f"{results.name}: every trait"
    return {
        "beyond": both_widths(
            charts.strip,
            f"{title} beyond drift",
            dots("standardised"),
            "beyond drift, standard deviations of harmless students",
        ),
        "shifts": both_widths(
            charts.strip, f"{title}, plain shifts", dots("shift"), "shift against the base, nats"
        ),
    }
