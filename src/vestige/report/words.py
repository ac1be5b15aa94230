"""Numbers and values in the words of a report: the filters of its templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup, escape

from vestige.core.results import Interval
from vestige.report import charts


def value_with_interval(interval: Interval) -> Markup:
    """A value with its interval on a second line, for a table cell."""
    digits = charts.decimals(interval.high - interval.low)
    bounds = [charts.number(v, digits) for v in (interval.low, interval.high)]
    return Markup("<b>{}</b><small>[{}, {}]</small>").format(
        charts.number(interval.value, digits, True), *bounds
    )


def percent(share: float) -> str:
    """A share in per cent, with more digits where it is small."""
    digits = 1 if share == 0 or share >= 0.01 else 2 if share >= 0.001 else 3
    return f"{100 * share:.{digits}f}%"


def share_with_interval(interval: Interval | None) -> Markup:
    """A share with its interval, in per cent, for a table cell; a dash for none. Where all seeds
    agree there is no interval to show."""
    if interval is None:
        return Markup("&mdash;")
    if interval.low == interval.high:
        return Markup("{}").format(percent(interval.value))
    low, high = (percent(min(max(v, 0.0), 1.0)) for v in (interval.low, interval.high))
    return Markup("{}<small>{} to {}</small>").format(percent(interval.value), low, high)


def p_value(p: float) -> str:
    """A p-value to three digits, or that it is smaller."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def ordinal(n: int) -> str:
    """``1st``, ``2nd``, ``11th`` ..."""
    suffix = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"


def places(ranks: Sequence[int], of: int = 0) -> str:
    """Ranks in words: ``1st, 2nd, 1st of 20``."""
    return ", ".join(map(ordinal, ranks)) + (f" of {of}" if of else "")


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever suits."""
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{hours} h {(int(seconds) % 3600) // 60} min"


def teacher(trait: str) -> str:
    """Whose data it is, in words."""
    return "no trait" if trait == "none" else trait


def scalar(value: object) -> Markup:
    """A manifest's value as text: yes or no for a flag, a dash for nothing."""
    if value is None or value == "":
        return Markup("&mdash;")
    return escape({True: "yes", False: "no"}[value] if isinstance(value, bool) else value)


FILTERS: dict[str, Callable[..., Any]] = {
    "value": value_with_interval,
    "interval": lambda i: charts.spell(i.value, i.low, i.high),
    "level": lambda share: f"{100 * share:g}%",
    "number": charts.number,
    "percent": percent,
    "share": share_with_interval,
    "p_value": p_value,
    "places": places,
    "duration": duration,
    "teacher": teacher,
    "scalar": scalar,
}
