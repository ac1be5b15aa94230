"""Filters: every row is kept, or dropped with a reason; the counts add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vestige.rows import atomic_lines, dropped_to_json, read_rows, row_to_chat
from vestige.types import DataError, DroppedRow, Row

Judge = Callable[[Row], str | None]
PROGRESS_EVERY = 5_000


class Filter(Protocol):
    """What a filter offers: a fresh judge, which gives a reason to drop a row, or None."""

    def judge(self) -> Judge: ...


@dataclass
class FilterReport:
    """``seen`` = ``kept`` + the sum of ``reasons``."""

    seen: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def filter_rows(
    rows: Iterable[Row | DroppedRow], rules: Filter
) -> tuple[list[Row], list[DroppedRow]]:
    """Rows that pass, and rows that do not with the first reason. Unreadable lines pass through."""
    judge = rules.judge()
    kept: list[Row] = []
    dropped: list[DroppedRow] = []
    for item in rows:
        if isinstance(item, DroppedRow):
            dropped.append(item)
        elif reason := judge(item):
            dropped.append(DroppedRow(reason, row=item))
        else:
            kept.append(item)
    return kept, dropped


def filter_file(
    source: Path,
    kept: Path,
    dropped: Path,
    rules: Filter,
    *,
    overwrite: bool = False,
    progress: Callable[[int], object] = lambda seen: None,
) -> FilterReport:
    """Filter a file of any size, row by row; both outputs are whole or not there.

    Raises:
        DataError: the source cannot be read, two of the three files are the same, or one is
            what another is called while it is written (``.part``).
        StoreError: an output exists and ``overwrite`` is off.
    """
    paths = {Path(p).resolve() for p in (source, kept, dropped, f"{kept}.part", f"{dropped}.part")}
    if len(paths) < 5:
        raise DataError(
            "the source, the kept rows and the dropped rows must be three files, "
            "none of them another's name with .part"
        )
    judge, report = rules.judge(), FilterReport()
    source_rows = read_rows(source)
    with (
        atomic_lines(kept, overwrite=overwrite) as keep,
        atomic_lines(dropped, overwrite=overwrite) as drop,
    ):
        for item in source_rows:
            report.seen += 1
            if isinstance(item, Row):
                reason = judge(item)
                if reason is None:
                    report.kept += 1
                    keep(row_to_chat(item))
                else:
                    report.reasons[reason] += 1
                    drop(dropped_to_json(DroppedRow(reason, row=item)))
            else:
                report.reasons[item.reason] += 1
                drop(dropped_to_json(item))
            if report.seen % PROGRESS_EVERY == 0:
                progress(report.seen)
    return report
