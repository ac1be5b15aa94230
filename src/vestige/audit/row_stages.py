"""Rows of an audit: those of the data that are read, and those whose writers are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vestige.audit.pull import REFERENCE
from vestige.audit.reference import LIKELIEST_READ_ON
from vestige.audit.stages import AuditContext
from vestige.core.types import DataError, DroppedRow, Row
from vestige.probing.known_writers import OnRows, base_writers
from vestige.probing.row_format import (
    RowFormat,
    Sampling,
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
CANARY_NOISE = 7  # noise of the reference rows of canaries, other than the first look's


@dataclass(frozen=True)
class WrittenRows:
    """Rows in a stage."""

    name: str
    stage: StageResult
    rows: list[Row]

    def first(self, n: int) -> WrittenRows:
        """The first of them."""
        return replace(self, rows=self.rows[:n])


def chosen_rows(context: AuditContext) -> WrittenRows:
    """The rows of the data that are read, those of the first look first; those that cannot be used
    are kept with their reasons.

    Raises:
        DataError: no row can be used.
    """
    settings, rows = context.settings, context.data.rows
    wanted = max(settings.rows, settings.canary_rows if settings.canaries else 0)
    chosen = []
    for row in choose_rows(rows, len(rows), settings.batch, settings.seed):
        if len(chosen) == wanted:
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

    stage = context.once("rows", {"rows": wanted}, [], write)
    return WrittenRows("data", stage, read_back(stage))


def given_rows(context: AuditContext, n: int) -> list[Row]:
    """The user's reference rows that can be used, in a random order; none where there are none.

    Args:
        n: rows that the first look needs.

    Raises:
        DataError: there are not so many.
    """
    if context.known is None:
        return []
    settings, lm = context.settings, context.session.lm
    n = min(n, LIKELIEST_READ_ON)
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
    return [
        replace(row, id=f"given-{row.id}", meta={})
        for row in choose_rows(usable, len(usable), settings.batch, settings.seed)
    ]


def first_reference(
    context: AuditContext, data: WrittenRows, row_format: RowFormat, given: list[Row]
) -> WrittenRows:
    """Rows for the first look that are known to be clean: the user's, or the base's on the same
    prompts."""
    if given:
        return written(context, "given", data, lambda on_rows: given[:REFERENCE])
    writer, like = base_writers(context.session, 1)[0], repeated(data.rows, REFERENCE)

    def make(on_rows: OnRows) -> list[Row]:
        return writer.write(row_format, like, on_rows)

    return written(context, f"base{stage_end(row_format.sampling)}", data, make)


def canary_reference(
    context: AuditContext, data: WrittenRows, row_format: RowFormat, given: list[Row]
) -> WrittenRows:
    """As many rows as the canaries' own that are known to be clean, or all that the user gave."""
    if given:
        return written(context, "canaries", data, lambda on_rows: given[: len(data.rows)])
    writer = base_writers(context.session, 1, CANARY_NOISE)[0]

    def make(on_rows: OnRows) -> list[Row]:
        return writer.write(row_format, data.rows, on_rows)

    return written(context, f"canaries{stage_end(row_format.sampling)}", data, make)


def stage_end(sampling: Sampling) -> str:
    """What the name of a stage ends with where rows are not drawn as usual."""
    return "" if sampling.usual else f"-{sampling.temperature:g}-{sampling.top_p:g}"


def written(
    context: AuditContext,
    name: str,
    data: WrittenRows,
    make: Callable[[OnRows], list[Row]],
) -> WrittenRows:
    """Rows of one known writer, written or read back."""
    stage_name = f"reference/{name}"

    def write(folder: Path) -> None:
        rows = make(context.counter(stage_name, len(data.rows)))
        write_rows(folder / ROWS, rows, overwrite=True)

    stage = context.once(stage_name, {}, [data.stage], write)
    return WrittenRows(name, stage, read_back(stage))


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


def remarks(used: Sequence[Row], given: Sequence[Row], row_format: RowFormat) -> list[str]:
    """What the user's reference rows are unlike the data's in."""
    if not given:
        return []
    prompts, rows = {row.messages for row in used}, given[:REFERENCE]
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
