"""What ``vestige mitigate`` prints."""

from __future__ import annotations

from vestige.core.results import Record


class MitigateResults(Record):
    """What a method changed. No claim is made of what it removes: audit the new file."""

    method: str
    does: str
    at_random: bool  # a control: rows or tokens were chosen at random
    trait: str  # whose probe gave the scores; empty: a canary
    rows: int  # that the method was given
    left_out: dict[str, int]  # before it: lines that are no rows, and what it would not change
    kept: int  # of these
    added: int  # written by the base
    changed: int  # kept with another completion
    tokens: int  # that could be drawn anew
    redrawn: int  # of these
    reasons: dict[str, int]  # rows that the method left out, by reason
    caveats: list[str]
