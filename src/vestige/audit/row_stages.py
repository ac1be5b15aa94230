"""Rows of an audit: those of the data that are read, and those whose writers are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vestige.audit.pull import REFERENCE
from vestige.audit.reference import LIKELIEST_READ_ON
from vestige.audit.stages import AuditContext
from vestige.core.types import DataError, DroppedRow, Row
from vestige.probing.known_writers import OnRows, Writer, base_writers
from vestige.probing.row_format import (
    RowFormat,
    choose_rows,
    empty,
    number_grammar,
    repeated,
    unusable,
)
from vestige.probing.soft_targets import SoftTargets, from_rows, from_teacher
from vestige.rows.files import atomic_lines, dropped_to_json, read_rows, write_rows
from vestige.store import StageResult

ROWS = "rows.jsonl"
#: Rows that each planted teacher writes; chosen: seven batches, where most flags take four.
CONTROL_ROWS = 112


@dataclass(frozen=True)
class WrittenRows:
    """Rows in a stage; ``trait``: what a planted teacher that wrote them was given."""

    name: str
    stage: StageResult
    rows: list[Row]
    trait: str | None = None


def chosen_rows(context: AuditContext) -> WrittenRows:
    """The rows of the data that are read; those that cannot be used are kept with their reasons.

    Raises:
        DataError: no row can be used.
    """
    settings, rows = context.settings, context.data.rows
    chosen = []
    for row in choose_rows(rows, len(rows), settings.batch, settings.seed):
        if len(chosen) == settings.rows:
            break  # only the rows that are read have to fit the model
        if reason := unusable(context.session.lm, row, settings.max_new_tokens):
            context.data.drop(DroppedRow(reason, row=row))
        else:
            chosen.append(row)
    if not chosen:
        raise DataError(f"no row can be used for an audit: {dict(context.data.reasons)}")

    def write(folder: Path) -> None:
        write_rows(folder / ROWS, chosen, overwrite=True)
        with atomic_lines(folder / "dropped.jsonl", overwrite=True) as write_line:
            for row in context.data.dropped:
                write_line(dropped_to_json(row))

    stage = context.once("rows", {"rows": settings.rows}, [], write)
    return WrittenRows("data", stage, read_back(stage))


def given_rows(context: AuditContext, used: Sequence[Row]) -> list[list[Row]]:
    """Sets of the user's reference rows, each as large as the data's.

    Raises:
        DataError: there are not enough rows for one.
    """
    if context.known is None:
        return []
    settings, lm = context.settings, context.session.lm
    n = len(used) if settings.canary_too else min(len(used), LIKELIEST_READ_ON)
    most = len(used) if settings.canary_too else REFERENCE
    usable = [
        row
        for row in context.known
        if not (empty(row) or unusable(lm, row, settings.max_new_tokens))
    ]
    if len(usable) < n:
        raise DataError(
            f"the reference holds {len(usable)} usable rows and {n} are needed; give more, or a "
            "smaller --budget"
        )
    mixed = [
        replace(row, id=f"given-{row.id}", meta={})
        for row in choose_rows(usable, len(usable), settings.batch, settings.seed)
    ]
    sets = min(settings.base_written if settings.canary_too else 1, len(usable) // n)
    return [mixed[k * n : k * n + most] for k in range(sets)]


def reference_rows(
    context: AuditContext, data: WrittenRows, row_format: RowFormat, given: list[list[Row]]
) -> list[WrittenRows]:
    """Rows that are known to be clean: the user's, or the base's on the same prompts."""
    if given:
        return [
            written(context, f"given-{k}", data, lambda on_rows, rows=rows: rows)
            for k, rows in enumerate(given)
        ]
    canaries = context.settings.canary_too  # they need as many rows as the data has
    like = data.rows if canaries else repeated(data.rows, REFERENCE)
    return [
        written(context, w.name, data, lambda on_rows, w=w: w.write(row_format, like, on_rows))
        for w in base_writers(context.session, context.settings.base_written if canaries else 1)
    ]


def planted_rows(
    context: AuditContext, writer: Writer, data: WrittenRows, row_format: RowFormat
) -> WrittenRows:
    """A planted teacher's rows on the same prompts."""
    like = data.rows if context.settings.canary_too else data.rows[:CONTROL_ROWS]
    return written(
        context,
        writer.name,
        data,
        lambda on_rows: writer.write(row_format, like, on_rows),
        writer.planted,
    )


def written(
    context: AuditContext,
    name: str,
    data: WrittenRows,
    make: Callable[[OnRows], list[Row]],
    trait: str | None = None,
) -> WrittenRows:
    """Rows of one known writer, written or read back."""
    stage_name = f"reference/{name}"

    def write(folder: Path) -> None:
        rows = make(context.counter(stage_name, context.settings.rows))
        write_rows(folder / ROWS, rows, overwrite=True)

    stage = context.once(stage_name, {"trait": trait}, [data.stage], write)
    return WrittenRows(name, stage, read_back(stage), trait)


def read_back(stage: StageResult) -> list[Row]:
    """The rows that a stage wrote."""
    return [row for row in read_rows(stage.path / ROWS) if isinstance(row, Row)]


def soft_targets(
    context: AuditContext, row_format: RowFormat, used: Sequence[Row]
) -> dict[str, SoftTargets]:
    """What is known of the writer's probabilities: from itself, else from the rows."""
    session = context.session
    session.weights.freeze()
    if context.teacher is None:
        return from_rows(session.lm, row_format, used, context.logprobs)
    return from_teacher(session.lm, context.teacher, row_format, used, context.settings.batch)


def remarks(
    used: Sequence[Row], given: Sequence[Sequence[Row]], row_format: RowFormat
) -> list[str]:
    """What the user's reference rows are unlike the data's in."""
    if not given:
        return []
    prompts = {row.messages for row in used}
    rows = [row for one_set in given for row in one_set]
    sentences = []
    if (other := sum(row.messages not in prompts for row in rows)) > len(rows) // 2:
        sentences.append(
            f"{other} of {len(rows)} reference rows answer other prompts than the data's: traits "
            "are distinguished less well, and a flag or its absence may be about the prompts; "
            "without --reference the base writes rows on the data's own prompts"
        )
    if row_format.kind == "text" and number_grammar([row.completion for row in used]):
        sentences.append(
            "the data are number sequences of one form and the reference rows are not: all are "
            "read as free text, which tells less"
        )
    return sentences
