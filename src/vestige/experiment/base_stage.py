"""The untrained base: its answers, and the rows that it writes for distillation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vestige.evaluate.exact import measure
from vestige.experiment.questioning import ask, asked_of
from vestige.experiment.row_filtering import (
    check_dropped,
    check_enough,
    write_filtered,
    writing_settings,
)
from vestige.experiment.row_sampling import sample_rows
from vestige.experiment.seed_context import SeedContext
from vestige.store import StageResult
from vestige.store.layout import StageFile
from vestige.traits import family


def base(context: SeedContext) -> StageResult:
    """The untrained base on the held-out questions."""
    recipe = context.recipe
    stage = context.stage(context.layout.base(context.seed), asked_of(recipe))

    def make(folder: Path) -> None:
        model, panel = context.models.teachers_base(), family(recipe.family)
        model.weights.freeze()
        measure(model.lm, panel).save(folder / StageFile.PANEL)
        ask(model.lm, recipe, context.seed, folder)
        stage.note(**model.lm.record(panel.heldout[0]))

    return context.once(stage, make)


def contexts(context: SeedContext) -> StageResult | None:
    """Rows that the untrained base wrote and the filter kept: what distillation is done on.

    None without a grammar.

    Raises:
        DataError: too few are left.
    """
    if not context.recipe.carrier.sampling_grammar():
        return None
    recipe = context.recipe.model_copy(update={"carrier": context.recipe.base_carrier})
    context = dataclasses.replace(context, recipe=recipe)
    stage = context.stage(context.layout.contexts(context.seed), writing_settings(context))

    def make(folder: Path) -> None:
        model = context.models.teachers_base()
        model.weights.freeze()
        rows = sample_rows(context, model.lm, stage, folder / StageFile.RAW)
        write_filtered(context, rows, stage, folder)
        stage.note(rendered=model.lm.rendered(rows[0].messages))

    written = check_dropped(context, context.once(stage, make))
    left = int(written.manifest["notes"]["kept"])
    check_enough(context, left, {"the untrained base": left})
    return written
