"""A run on language models: every arm with its charts, teachers, filters and rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from vestige.core.named_shares import named_shares
from vestige.core.results import ArmResult, FilterResult, QuestionResult, Results
from vestige.core.types import DataError
from vestige.report import charts
from vestige.report.widths import both_widths

RECORD = Results


def view(index: int, results: Results) -> dict[str, Any]:
    """The charts of every arm, and the tables of filters and rows."""
    reasons = list(dict.fromkeys(r for f in results.filters for r in f.reasons))
    return {
        "arms": [arm_view(f"run-{index}-arm-{i}", a) for i, a in enumerate(results.arms, 1)],
        "overview": overview(results) if len(results.arms) > 1 else "",
        "front": front(results),
        "reasons": reasons,
        "labels": {arm.name: arm.label for arm in results.arms},
        "open_questions": list(dict.fromkeys(q for f in results.freeform for q in f.questions)),
        "filters": [(f, filter_cells(f, reasons)) for f in results.filters],
        "kept": [row for row in results.samples if not row.reason],
        "dropped": [row for row in results.samples if row.reason],
    }


def overview(results: Results) -> Markup:
    """The chart of every arm's contrast."""
    marks = [
        charts.Mark(
            arm.label,
            arm.contrast.value,
            arm.contrast.low,
            arm.contrast.high,
            own=arm.transmitted == "yes",
        )
        for arm in results.arms
    ]
    title = f"{results.name}: contrast of every arm"
    return both_widths(charts.forest, title, marks, "diagonal contrast, log-odds (nats)")


def front(results: Results) -> Markup | str:
    """The chart of what defences leave and what they cost; empty without any that have both."""
    points = [
        (d.label, d.remains.value, d.learned.value)
        for d in results.defences
        if d.remains and d.learned
    ]
    if not points or len(points) < len(results.defences):
        return ""
    axes = ("share of the trait that is left", "share of the task that is learned")
    return both_widths(charts.front, f"{results.name}: defences", points, axes)


def arm_view(anchor: str, arm: ArmResult) -> dict[str, Any]:
    """One arm with its charts; ``""`` stands for a chart without data."""
    traits, table = by_trait(arm.questions)
    curve_title = f"{arm.label}: contrast by training step"
    unit = arm.contrast.units
    return {
        "id": anchor,
        "arm": arm,
        "named": named_answers(arm),
        "controls": any(g.name.startswith("control_") for g in arm.groups),
        "groups": groups_chart(arm) if arm.groups else "",
        "matrix": heat_map(arm),
        "curve": both_widths(charts.curve, curve_title, arm.curve, f"contrast, {unit}")
        if len(arm.curve) > 1
        else "",
        "strip": questions_chart(arm, traits) if traits else "",
        "question_traits": [name for name, _ in traits],
        "question_table": table,
    }


def named_answers(arm: ArmResult) -> dict[str, Any]:
    """Of each trait, the share of drawn answers that name it among those that name one of the kind:
    in the untrained base, in students of a teacher without a trait, of other traits' teachers (the
    mean) and of its own. Empty where nothing was drawn."""
    opening, groups = named_shares(arm)
    if not groups:
        return {}
    rows, traits = [], [result.trait for result in arm.traits]
    for t in traits:
        others = [groups[other][t].value for other in traits if other != t and other in groups]
        rows.append(
            {
                "trait": t,
                "base": groups.get("base", {}).get(t),
                "none": groups.get("none", {}).get(t),
                "others": sum(others) / len(others) if others else None,
                "own": groups.get(t, {}).get(t),
            }
        )
    return {"opening": opening, "rows": rows}


def groups_chart(arm: ArmResult) -> Markup:
    """The shift of the own trait in the own students, and in every control."""
    marks = [
        charts.Mark(g.label, g.estimate.value, g.estimate.low, g.estimate.high, own=i == 0)
        for i, g in enumerate(arm.groups)
    ]
    title = f"{arm.label}: shift of the own trait and of every control"
    return both_widths(charts.forest, title, marks, f"shift of the trait, {arm.contrast.units}")


def questions_chart(
    arm: ArmResult, traits: Sequence[tuple[str, Sequence[tuple[str, float]]]]
) -> Markup:
    """The specific part of every trait, a dot for each held-out question."""
    title = f"{arm.label}: specific part by held-out question"
    return both_widths(charts.strip, title, traits, f"specific part, {arm.contrast.units}")


def by_trait(
    questions: Sequence[QuestionResult],
) -> tuple[list[tuple[str, list[tuple[str, float]]]], list[tuple[str, dict[str, float]]]]:
    """The per-question values as dots for each trait and as rows for each question."""
    dots: dict[str, list[tuple[str, float]]] = {}
    rows: dict[str, dict[str, float]] = {}
    for q in questions:
        dots.setdefault(q.trait, []).append((q.question, q.specific))
        rows.setdefault(q.question, {})[q.trait] = q.specific
    return list(dots.items()), list(rows.items())


def heat_map(arm: ArmResult) -> dict[str, Any]:
    """Cells of the heat map with their colours, on a scale shared by the whole matrix."""
    m = arm.matrix
    for name in ("value", "low", "high"):
        grid = getattr(m, name)
        if len(grid) != len(m.data) or any(len(row) != len(m.measured) for row in grid):
            raise DataError(
                f"matrix.{name} of arm {arm.name!r} is not {len(m.data)} x {len(m.measured)}"
            )
    limit = max((abs(v) for row in m.value for v in row), default=0.0)
    rows = [
        (
            source,
            [
                (target == source, v, low, high, *charts.heat(v, limit))
                for target, v, low, high in zip(m.measured, *cells, strict=True)
            ],
        )
        for source, *cells in zip(m.data, m.value, m.low, m.high, strict=True)
    ]
    return {"measured": m.measured, "rows": rows, "limit": limit}


def filter_cells(result: FilterResult, reasons: Sequence[str]) -> list[tuple[int, Markup]]:
    """Count and bar for the kept rows, then for every reason in turn."""
    parts = [("kept", result.kept), *((r, result.reasons.get(r, 0)) for r in reasons)]
    cells = []
    for name, n in parts:
        share = n / result.seen if result.seen else 0.0
        title = f"{result.data}, {name}: {n:,} of {result.seen:,} ({share:.1%})"
        cells.append((n, charts.bar(share, title)))
    return cells
