"""Filters: every row is kept, or dropped with a reason; the counts add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vestige.core.types import DataError, DroppedRow, Row
from vestige.rows.files import RowSource, dropped_line, row_line
from vestige.rows.outputs import PART, ROWS_A_SHARD, Output, claimed, same_place
from vestige.rows.places import Place, locate
from vestige.rows.trained_parts import other_parts

Judge = Callable[[Row], str | None]
PartJudge = Callable[[str], str | None]
#: What filters read of a row, in words for a reader.
JUDGED = "completions, earlier assistant turns (not those of weight 0) and reasoning"
PROGRESS_EVERY = 5_000  # rows; chosen


class Filter(Protocol):
    """What a filter offers: a fresh judge, which gives a reason to drop a row for its completion,
    or None; and one of any other text that is trained on, such as an earlier turn."""

    def judge(self) -> Judge: ...

    def judge_part(self) -> PartJudge: ...


def judge_whole(rules: Filter, *, prompts: bool = False) -> Judge:
    """A judge of all that a row is trained on. The reason says which part, if it is not the
    completion: ``bad_character (reasoning)``.

    Args:
        prompts: whether prompts are trained on as well.
    """
    judge, part = rules.judge(), None

    def verdict(row: Row) -> str | None:
        nonlocal part
        if row.meta or len(row.messages) > 1 or prompts:
            for kind, text in other_parts(row, prompt=prompts):
                part = part or rules.judge_part()
                if reason := part(text):
                    return f"{reason} ({kind})"
        return judge(row)

    return verdict


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
    judge = judge_whole(rules)
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
    source: Path | str | RowSource,
    kept: Path | str,
    dropped: Path | str,
    rules: Filter,
    *,
    prompts: bool = False,
    overwrite: bool = False,
    rows_a_shard: int = ROWS_A_SHARD,
    progress: Callable[[int], object] = lambda seen: None,
    note: Callable[[str], object] = lambda text: None,
) -> FilterReport:
    """Filter files of any size, row by row; both outputs are whole or not there.

    Args:
        kept, dropped: files, packed and remote as their names say; with a star in its name
            (``kept-*.jsonl.gz``) an output is cut into files of ``rows_a_shard`` rows.
        prompts: whether prompts are trained on, and so are judged as well.
        note: called about files that a stopped filter had left, and that are begun again.

    Raises:
        DataError: the source cannot be read, two of the three files are the same, or one is
            what another is called while it is written (``.part``).
        StoreError: an output exists and ``overwrite`` is off, or another process is writing it.
    """
    check_apart(locate(source) if not isinstance(source, RowSource) else None, kept, dropped)
    rows = source if isinstance(source, RowSource) else RowSource(source)
    for place in rows.places:
        check_apart(place, kept, dropped)
    judge, report = judge_whole(rules, prompts=prompts), FilterReport()
    outputs = [Output(p, overwrite=overwrite, rows_a_shard=rows_a_shard) for p in (kept, dropped)]
    with claimed(*outputs) as left, outputs[0] as keep, outputs[1] as drop:
        for path in left:
            note(f"{path} was left by a filter that was stopped: beginning again")
        for item in rows:
            report.seen += 1
            if isinstance(item, DroppedRow):
                gone = item
            elif reason := judge(item):
                gone = DroppedRow(reason, row=item)
            else:
                gone = None
                report.kept += 1
                keep.write(row_line(item))
            if gone is not None:
                report.reasons[gone.reason] += 1
                drop.write(dropped_line(gone))
            if report.seen % PROGRESS_EVERY == 0:
                progress(report.seen)
    return report


def check_apart(source: Place | None, kept: Path | str, dropped: Path | str) -> None:
    """Raises ``DataError`` unless the three are different files, in writing too."""
    outputs = [locate(kept), locate(dropped)]
    parts = [locate(f"{each}{PART}") for each in outputs]
    named = [*([source] if source is not None else []), *outputs, *parts]
    if any(same_place(a, b) for i, b in enumerate(named) for a in named[:i]) or (
        source is not None and any(same_place(source, each) for each in outputs)
    ):
        raise DataError(
            "the source, the kept rows and the dropped rows must be three files, "
            "none of them another's name with .part"
        )
