"""A run on small networks: accuracies with intervals, and a dot for every network."""

from __future__ import annotations

from typing import Any

from vestige.core.results import MlpResults
from vestige.report import charts
from vestige.report.widths import both_widths

RECORD = MlpResults


def view(index: int, results: MlpResults) -> dict[str, Any]:
    """The charts of the arms' accuracies and of every network's."""
    marks = [
        charts.Mark(
            arm.label,
            arm.accuracy.value,
            arm.accuracy.low,
            arm.accuracy.high,
            own=arm.name == "auxiliary_same",
        )
        for arm in results.arms
    ]
    dots = [
        (arm.label, [(f"network {i}", value) for i, value in enumerate(arm.values)])
        for arm in results.arms
    ]
    return {
        "accuracy": both_widths(charts.forest, f"{results.name}: accuracy", marks, "test accuracy"),
        "strip": both_widths(charts.strip, f"{results.name}: every network", dots, "test accuracy"),
    }
