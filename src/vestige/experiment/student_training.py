"""Training one student in its unfinished stage, and measuring it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vestige.core.jsonl import write_text
from vestige.core.types import Row
from vestige.evaluate.exact import measure
from vestige.experiment.model_pool import Loaded
from vestige.experiment.questioning import ask
from vestige.experiment.row_packs import student_packs
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.settings import Student
from vestige.lineage.run import lineage
from vestige.store import Stage
from vestige.store.layout import StageFile
from vestige.student.checkpoint import Checkpoint
from vestige.student.loop import train
from vestige.student.losses.cross_entropy import loss as cross_entropy
from vestige.student.packs import Pack, pack_logprobs
from vestige.traits import family


@dataclass(frozen=True)
class UnfinishedStudent:
    """A student whose stage is being written.

    Attributes:
        model: its base in memory, which becomes the student.
        folder: where the stage's files go.
        system: the system prompt before each prompt that it is trained on, and on no other.
        heldout: rows that it does not read, and that its loss is measured on.
    """

    context: SeedContext
    settings: Student
    model: Loaded
    stage: Stage
    folder: Path
    system: str = ""
    heldout: Sequence[Row] = ()

    @property
    def checkpoint(self) -> Checkpoint:
        """Where its training goes on if it is stopped."""
        return Checkpoint(self.folder / StageFile.CHECKPOINT)


def unfinished(
    context: SeedContext, settings: Student, stage: Stage, folder: Path
) -> UnfinishedStudent:
    """A student to be made, with its base loaded."""
    return UnfinishedStudent(context, settings, context.models.base_of(settings), stage, folder)


def train_on_packs(
    student: UnfinishedStudent,
    packs: Sequence[Pack],
    ids: Tensor | None,
    targets: Sequence[Tensor] | None = None,
    *,
    loss: str = "",
) -> None:
    """Train in our own loop, measuring on the way where the recipe wants a curve.

    Args:
        ids: token ids of a grammar, to score within it [K]; None scores the whole vocabulary.
        targets: what the loss needs of each row besides its tokens, such as the teacher's
            log-probabilities; None: nothing.
        loss: where the objective names none.
    """
    settings, model = student.settings, student.model
    objective = settings.objective
    if loss and not objective.loss:
        objective = objective.model_copy(update={"loss": loss})
    train_measured(
        student,
        partial(
            train,
            model.lm,
            model.weights,
            packs,
            settings.optimisation,
            ids=ids,
            targets=targets,
            objective=objective,
        ),
    )
    steps = settings.optimisation.steps
    student.stage.note(tokens=sum(packs[i % len(packs)].tokens for i in range(steps)))


def train_measured(student: UnfinishedStudent, trained: Callable[..., float]) -> None:
    """Make a student by ``trained`` and measure it, on the way too where the recipe wants a curve.

    Args:
        trained: a loop of ours; it is given ``seed``, ``on_step`` and ``checkpoint``.
    """
    context, model, settings = student.context, student.model, student.settings
    steps, panel = settings.optimisation.steps, family(context.recipe.family)
    checkpoint = student.checkpoint
    losses = checkpoint.losses()
    measure_own_base(student)

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        if step in settings.curve and step != steps:
            path = student.folder / StageFile.student_panel(step)
            measure(model.lm, panel).save(path)
        context.report(student.stage.name, step, steps)

    trained(seed=context.seed, on_step=on_step, checkpoint=checkpoint)
    finish_student(student, losses)
    checkpoint.remove()


def train_packed(student: UnfinishedStudent, rows: Sequence[Row]) -> None:
    """Train on rows in our own loop."""
    packs, ids = student_packs(
        student.context, student.settings, student.model.lm, rows, system=student.system
    )
    train_on_packs(student, packs, ids)


def train_trl(student: UnfinishedStudent, rows: Sequence[Row]) -> None:
    """Train on rows with TRL's ``SFTTrainer``."""
    from vestige.student.trl import train_with_trl

    context, optimisation = student.context, student.settings.optimisation
    measure_own_base(student)
    checkpoint = student.checkpoint
    losses = train_with_trl(
        student.model.lm,
        student.model.weights,
        rows,
        optimisation,
        seed=context.seed,
        on_step=lambda step: context.report(student.stage.name, step, optimisation.steps),
        checkpoint=checkpoint,
        objective=student.settings.objective,
    )
    finish_student(student, losses)
    checkpoint.remove()


#: Engines that train on rows here, by the name in a student's settings; ``elsewhere`` trains in
#: another program.
ROW_TRAINERS: dict[str, Callable[[UnfinishedStudent, Sequence[Row]], None]] = {
    "packed": train_packed,
    "trl": train_trl,
}


def measure_own_base(student: UnfinishedStudent) -> None:
    """Keep the untrained base's panel next to a student of another base, and note whether that
    base shares its start with the teachers'."""
    if student.settings.base:
        model, panel = student.model, family(student.context.recipe.family)
        student.stage.note(**model.lm.record(panel.heldout[0]))
        student.stage.note(
            lineage=shared_start(student.context.recipe.model, student.settings.base)
        )
        model.weights.freeze()
        measure(model.lm, panel).save(student.folder / StageFile.BASE_PANEL)


@cache
def shared_start(teachers: str, students: str) -> dict[str, Any]:
    """Whether two bases share an initialisation, for a manifest; each is loaded once more."""
    found = lineage(teachers, students)
    return {"outcome": found.outcome, "log10_p": found.log10_p, "why": found.why}


def finish_student(student: UnfinishedStudent, losses: Sequence[float]) -> None:
    """Measure and keep a student that is trained, and give its base back."""
    write_text(student.folder / StageFile.LOSS, json.dumps(losses))
    measure_student(student)
    after = heldout_loss(student)
    if student.context.recipe.save_students:
        student.model.weights.save(student.folder / StageFile.WEIGHTS)
    student.model.weights.freeze()
    if student.heldout:
        record = {"rows": len(student.heldout), "base": heldout_loss(student), "student": after}
        write_text(student.folder / StageFile.HELDOUT, json.dumps(record))


def heldout_loss(student: UnfinishedStudent) -> float:
    """Mean cross-entropy of the model in memory on rows that the student does not read, in nats a
    position that is scored; 0 without any."""
    if not student.heldout:
        return 0.0
    lm = student.model.lm
    packs, ids = student_packs(student.context, student.settings, lm, student.heldout)
    with torch.no_grad():
        lost = [
            float(cross_entropy(pack_logprobs(lm, pack, ids), pack, None)) * len(pack.targets)
            for pack in packs
        ]
    return sum(lost) / sum(len(pack.targets) for pack in packs)


def measure_student(student: UnfinishedStudent) -> None:
    """Ask the model in memory everything that a student of the recipe is asked."""
    context, lm = student.context, student.model.lm
    path = student.folder / StageFile.student_panel(student.settings.optimisation.steps)
    measure(lm, family(context.recipe.family)).save(path)
    ask(lm, context.recipe, context.seed, student.folder)
