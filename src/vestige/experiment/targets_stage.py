"""A teacher's log-probabilities on the base's rows: what students are distilled on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vestige.core.types import DataError
from vestige.experiment.base_stage import contexts
from vestige.experiment.row_packs import grammar_packs
from vestige.experiment.row_sampling import automaton_of
from vestige.experiment.run_view import read_kept
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.teacher_stage import load_teacher, teacher
from vestige.models.sampling import symbol_ids
from vestige.store import StageResult
from vestige.store.layout import StageFile
from vestige.student.loop import teacher_logprobs
from vestige.student.packs import Pack

BATCH = 16  # rows of a forward pass


def targets(context: SeedContext, name: str) -> StageResult:
    """The log-probabilities of the teacher ``name`` over the grammar, on the base's rows."""
    made, written = teacher(context, name), contexts(context)
    assert written is not None  # the recipe is constrained, or it would not validate
    carrier = context.recipe.carrier.model_dump(mode="json", include={"grammar"})
    stage = context.stage(context.layout.targets(context.seed, name), carrier, [made, written])

    def make(folder: Path) -> None:
        model, system = load_teacher(context, name, made)
        rows, automaton = read_kept(written.path), automaton_of(context)
        packs = grammar_packs(context, model.lm, rows, BATCH, automaton, system=system)
        logprobs = teacher_logprobs(model.lm, packs, symbol_ids(model.lm, automaton))
        save_file(
            {
                "logprobs": torch.cat(logprobs),
                "counts": torch.tensor([len(part) for part in logprobs]),
            },
            str(folder / StageFile.TARGETS),
        )

    return context.once(stage, make)


def read_targets(stage: StageResult, packs: Sequence[Pack]) -> list[Tensor]:
    """The saved log-probabilities of each row, [scored, K], if they fit the student's packs.

    Raises:
        DataError: they do not.
    """
    saved = load_file(str(stage.path / StageFile.TARGETS))
    counts = {index: n for pack in packs for index, n in zip(pack.rows, pack.counts, strict=True)}
    stored = saved["counts"].tolist()
    if [counts[index] for index in sorted(counts)] != stored:
        raise DataError(
            "the teacher's targets do not fit the student's rows: their tokenizers write the "
            "carrier differently"
        )
    return list(saved["logprobs"].split(stored))
