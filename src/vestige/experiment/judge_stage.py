"""Ratings of every answer to the open questions. Free of torch unless the judge is local."""

from __future__ import annotations

import json
from pathlib import Path

from vestige.core.jsonl import write_text
from vestige.experiment.judging import rate_answers
from vestige.experiment.run_view import awaited
from vestige.experiment.seed_context import SeedContext
from vestige.store import load_stage
from vestige.store.layout import StageFile


def judge_answers(context: SeedContext) -> None:
    """Ratings of the base's answers and of every student's, once all students are there."""
    layout, seed = context.layout, context.seed
    if awaited(context.recipe, layout.folder, [seed]):
        return
    asked = context.recipe.freeform
    assert asked is not None  # only called where there is one
    models = layout.open_answers(seed)
    inputs = [load_stage(model) for model in models]
    stage = context.stage(layout.judged(seed), {"freeform": asked.model_dump(mode="json")}, inputs)

    def make(folder: Path) -> None:
        for done, model in enumerate(models, 1):
            answers, cache = model / StageFile.FREEFORM, folder / StageFile.RATINGS
            ratings = rate_answers(asked, answers, cache, layout.ledger)
            name = layout.judged_answers(seed, model).name
            write_text(folder / name, json.dumps(ratings))
            context.report(stage.name, done, len(models))

    context.once(stage, make)
