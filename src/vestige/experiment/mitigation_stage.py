"""Rows changed before an arm's students read them: a stage for each arm and data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vestige.core.jsonl import write_jsonl
from vestige.core.types import DataError, DroppedRow, Row
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.student_settings import Student
from vestige.mitigate.methods import METHODS, Work
from vestige.mitigate.settings import NEED_BASE, OWN, Change, MitigateSettings
from vestige.probing.base_session import BaseSession
from vestige.rows.files import dropped_to_json, write_rows
from vestige.store import StageResult
from vestige.store.layout import StageFile


def mitigated(
    context: SeedContext,
    student: Student,
    data: str,
    rows: Sequence[Row],
    inputs: Sequence[StageResult],
) -> StageResult:
    """A data set as an arm's changes leave it.

    Args:
        rows: as its teacher wrote them; inputs: the stages that hold them.

    Raises:
        DataError: a change leaves no row, or cannot be done on such rows.
    """
    recipe = context.recipe
    changes = [settings_of(context, change, data) for change in student.mitigations]
    stage = context.stage(
        context.layout.mitigated(context.seed, student.name, data),
        {"changes": changes, "rows": [recipe.carrier.max_rows, recipe.heldout_rows]},
        inputs,
    )

    def on_part(name: str, done: int, total: int) -> None:
        context.report(stage.name, done, total)

    def make(folder: Path) -> None:
        left, dropped = list(rows), list[DroppedRow]()
        counts = {"tokens": 0, "redrawn": 0, "changed": 0, "added": 0}
        for change in changes:
            session = session_of(context, change) if change.method in NEED_BASE else None
            made = METHODS[change.method].run(Work(change, left, session, on_part))
            if not made.rows:
                raise DataError(f"{change.method} leaves no row of {data}: {made.reasons}")
            left, dropped = made.rows, dropped + made.dropped
            counts = {name: counts[name] + asdict(made)[name] for name in counts}
        write_rows(folder / StageFile.KEPT, left, overwrite=True)
        write_jsonl(folder / StageFile.DROPPED, map(dropped_to_json, dropped))
        stage.note(before=len(rows), rows=len(left), **counts)

    return context.once(stage, make)


def settings_of(context: SeedContext, change: Change, data: str) -> MitigateSettings:
    """A change of one data set of this seed. ``own`` becomes the trait of who wrote it."""
    recipe = context.recipe
    trait = change.trait
    if trait == OWN:
        trait = f"{recipe.family}/{recipe.data_name(data).writer}"
    return MitigateSettings.model_validate(
        {
            **change.model_dump(),
            "trait": trait, "base": recipe.model, "chat": recipe.chat, "seed": context.seed,
            "precision": recipe.precision, "traits": (recipe.family,),
        }
    )  # fmt: skip


def session_of(context: SeedContext, change: MitigateSettings) -> BaseSession:
    """The base that a change asks, loaded once for a recipe."""
    assert change.base is not None
    settings = change.probing(change.base)
    kept = context.models.probing
    if kept is None or kept.settings != settings:
        kept = BaseSession(settings)
        kept.lm.use_date(context.recipe.date)
        context.models.probing = kept
    return kept
