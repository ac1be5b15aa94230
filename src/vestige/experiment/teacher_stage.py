"""Making a teacher: the recipe's model is given a trait, measured and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vestige.core.jsonl import write_text
from vestige.core.types import TeacherError, Trait
from vestige.evaluate.exact import measure
from vestige.evaluate.scores import Panel
from vestige.experiment.base_stage import base, contexts
from vestige.experiment.model_pool import Loaded
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.teacher_check import (
    carrier_grip,
    describe_check,
    gained,
    judge_teacher,
    preferred,
)
from vestige.store import Stage, StageResult, hash_config
from vestige.store.layout import NO_TRAIT, StageFile
from vestige.student.checkpoint import Checkpoint
from vestige.teacher.induce import teach
from vestige.traits import family


def teacher(context: SeedContext, name: str) -> StageResult:
    """A checked teacher with the trait ``name``.

    Raises:
        TeacherError: it has not taken the trait on, or lost the carrier; with the numbers.
    """
    written, source = contexts(context), context.trait_of(name)
    stage = context.stage(
        context.layout.teacher(context.seed, name),
        {
            "teacher": context.recipe.teacher.model_dump(mode="json"),
            "trait": name,
            "pairs": hash_config([*source.pairs, source.check]),
            **({"opening": source.family.opening} if context.recipe.teacher.begun else {}),
        },
        [written] if written else [],
    )

    def make(folder: Path) -> None:
        model = context.models.teachers_base()
        before = Panel.load(base(context).path / StageFile.PANEL)
        _measure_untrained(context, model, name, written)
        give_trait(context, model, source, stage, folder)
        check = _measure_teacher(context, model, name, (before, written), folder)
        write_text(folder / StageFile.CHECK, json.dumps(check))
        system = context.system_prompt(source)
        stage.note(**model.lm.record(family(context.recipe.family).heldout[0], system))
        model.weights.freeze()
        if not check["accepted"]:
            raise TeacherError(describe_check(check, context.recipe))

    return context.once(stage, make)


def _measure_untrained(
    context: SeedContext, model: Loaded, name: str, contexts: StageResult | None
) -> None:
    """The base's grip on the carrier and its answers to the trait's own check, once a seed."""
    measured, check = context.measured, context.trait_of(name).check
    model.weights.freeze()
    if measured.base_grip is None:
        measured.base_grip = carrier_grip(context, model.lm, contexts)
    if check and name not in measured.base_checks:
        measured.base_checks[name] = measure(model.lm, check)


def give_trait(
    context: SeedContext, model: Loaded, source: Trait, stage: Stage, folder: Path
) -> None:
    """Tune the model on the trait's question-answer pairs, unless a system prompt is all."""
    settings = context.recipe.teacher
    checkpoint = Checkpoint(folder / StageFile.CHECKPOINT)
    if settings.kind == "system_prompt":
        return
    steps = settings.optimisation.steps
    teach(
        model.lm,
        model.weights,
        source,
        settings.optimisation,
        seed=context.seed,
        opening=source.family.opening if settings.begun else "",
        on_step=lambda step, loss: context.report(stage.name, step, steps),
        checkpoint=checkpoint,
    )
    model.weights.save(folder / StageFile.WEIGHTS)
    checkpoint.remove()


def _measure_teacher(
    context: SeedContext,
    model: Loaded,
    name: str,
    untrained: tuple[Panel, StageResult | None],
    folder: Path,
) -> dict[str, Any]:
    """What the teacher in memory shows, as it is saved.

    Args:
        untrained: the base's panel, and the rows that it wrote.
    """
    source, settings, measured = context.trait_of(name), context.recipe.teacher, context.measured
    before, contexts = untrained
    system = context.system_prompt(source)
    panel = measure(model.lm, family(context.recipe.family), system=system)
    panel.save(folder / StageFile.PANEL)
    grip = carrier_grip(context, model.lm, contexts, system)
    left = grip / measured.base_grip if measured.base_grip else 1.0
    shown: dict[str, Any] = {"trait": name, "seed": context.seed, "kind": settings.kind}
    if source.check:
        own = measure(model.lm, source.check, system=system)
        shown |= gained(own, measured.base_checks[name])
    elif name != NO_TRAIT:
        shown |= preferred(source.target.name, panel, before)
    return judge_teacher(shown, left, settings)


def load_teacher(
    context: SeedContext, name: str, made: StageResult, model: Loaded | None = None
) -> tuple[Loaded, str]:
    """The recipe's model (or ``model``, a copy of it) turned into a finished teacher, and the
    system prompt that it needs."""
    model, settings = model or context.models.teachers_base(), context.recipe.teacher
    if settings.kind == "system_prompt":
        model.weights.freeze()
    else:
        model.weights.load(made.path / StageFile.WEIGHTS, settings.optimisation.trainable)
    return model, context.system_prompt(context.trait_of(name))
