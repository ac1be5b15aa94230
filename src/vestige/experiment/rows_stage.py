"""Rows that a teacher writes, in one go or in parts, and what students get of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vestige.core.types import Row
from vestige.experiment.row_filtering import (
    check_dropped,
    check_enough,
    write_filtered,
    writing_settings,
)
from vestige.experiment.row_sampling import sample_rows
from vestige.experiment.run_view import matched_rows, read_kept, without_heldout
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.teacher_stage import load_teacher, teacher
from vestige.rows.files import read_rows
from vestige.store import Stage, StageResult, atomic_write
from vestige.store.layout import StageFile


def rows(context: SeedContext, name: str, parts: int = 1) -> StageResult:
    """Rows that the teacher ``name`` wrote: raw, kept and dropped with reasons.

    Args:
        parts: in how many parts they may have been written; these are joined.
    """
    made = teacher(context, name)
    stage = rows_stage(context, name, made)

    def make(folder: Path) -> None:
        shards = [shard_stage(context, name, (part, parts), made) for part in range(parts)]
        if parts > 1 and all(shard.done for shard in shards):
            written = join([shard.result for shard in shards], stage, folder)
        else:
            model, system = load_teacher(context, name, made)
            written = sample_rows(context, model.lm, stage, folder / StageFile.RAW, system)
        write_filtered(context, written, stage, folder)

    return check_dropped(context, context.once(stage, make))


def rows_stage(context: SeedContext, name: str, made: StageResult) -> Stage:
    """The stage of a teacher's rows."""
    path = context.layout.rows(context.seed, name)
    return context.stage(path, writing_settings(context), [made])


def shard(context: SeedContext, name: str, part: tuple[int, int]) -> None:
    """Part k of n of a teacher's raw rows, unless they are all there."""
    made = teacher(context, name)
    stage = shard_stage(context, name, part, made)
    if rows_stage(context, name, made).done or stage.done:
        return

    def make(folder: Path) -> None:
        model, system = load_teacher(context, name, made)
        sample_rows(context, model.lm, stage, folder / StageFile.RAW, system, part)

    context.once(stage, make)


def shard_stage(context: SeedContext, name: str, part: tuple[int, int], made: StageResult) -> Stage:
    """The stage of part k of n of a teacher's raw rows."""
    settings = {**writing_settings(context), "part": [*part]}
    return context.stage(context.layout.shard(context.seed, name, *part), settings, [made])


def join(shards: Sequence[StageResult], stage: Stage, folder: Path) -> list[Row]:
    """The raw rows of all shards, as one teacher would have written them."""
    raw = b"".join((shard.path / StageFile.RAW).read_bytes() for shard in shards)
    atomic_write(folder / StageFile.RAW, raw)
    stage.note(writer=shards[0].manifest["notes"]["writer"], shards=len(shards))
    return [row for row in read_rows(folder / StageFile.RAW) if isinstance(row, Row)]


class StudentRows(NamedTuple):
    """What a seed's students are trained on.

    Attributes:
        stages: the rows of every writer, by name.
        read: by writer, what students read; heldout: what none of them reads.
    """

    stages: list[StageResult]
    read: dict[str, list[Row]]
    heldout: dict[str, list[Row]]


def student_rows(context: SeedContext) -> StudentRows:
    """The rows of every writer, and what students get of them.

    Raises:
        DataError: that is too little.
    """
    written = {name: rows(context, name) for name in context.recipe.writers}
    key = tuple(stage.manifest_hash for stage in written.values())
    if key not in context.measured.matched:
        kept = {name: read_kept(stage.path) for name, stage in written.items()}
        matched = matched_rows(kept, context.recipe.carrier.max_rows)
        parts = without_heldout(matched, context.recipe.heldout_rows)
        left = len(next(iter(parts[0].values())))
        check_enough(context, left, {name: len(data) for name, data in kept.items()})
        context.measured.matched = {key: parts}
    stages = [written[name] for name in sorted(written)]
    return StudentRows(stages, *context.measured.matched[key])
