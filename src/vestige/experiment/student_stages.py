"""Students: a function for each method, and the table that names them.

A new kind of student is a function here, its entry in ``METHODS`` and its name in
``settings.Student.method``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from vestige.core.types import DataError, Message
from vestige.evaluate.exact import measure
from vestige.experiment.base_stage import contexts
from vestige.experiment.mitigation_stage import mitigated
from vestige.experiment.model_pool import Loaded
from vestige.experiment.questioning import asked_of
from vestige.experiment.row_filtering import writing_settings
from vestige.experiment.row_packs import grammar_packs
from vestige.experiment.row_sampling import automaton_of, prompt_ids
from vestige.experiment.rows_stage import student_rows
from vestige.experiment.run_view import by_prompt, read_kept, rows_for
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.settings import Student
from vestige.experiment.student_training import (
    ROW_TRAINERS,
    UnfinishedStudent,
    finish_student,
    measure_own_base,
    train_measured,
    train_on_packs,
    unfinished,
)
from vestige.experiment.targets_stage import read_targets, targets
from vestige.experiment.teacher_stage import load_teacher, teacher
from vestige.mitigate.settings import OWN
from vestige.models.sampling import symbol_ids
from vestige.store import Stage, StageResult
from vestige.store.layout import StageFile
from vestige.student.loop import teacher_logprobs
from vestige.student.on_policy import Asked, train_on_policy
from vestige.student.pairs import ranked_pairs
from vestige.traits import family


def student_stage(
    context: SeedContext, student: Student, data: str, inputs: Sequence[StageResult]
) -> Stage:
    """The stage of an arm's student of one data set."""
    recipe, objective = context.recipe, student.objective.identity
    unused = {"name", "no_trait", "shuffles", "objective"}
    config = {
        "student": student.model_dump(mode="json", exclude=unused),
        **({"objective": objective} if objective else {}),
        "save": recipe.save_students,
        "max_rows": recipe.carrier.max_rows,
        **({"heldout_rows": recipe.heldout_rows} if recipe.heldout_rows else {}),
        **(writing_settings(context) if student.writes_freely else {}),
        **asked_of(recipe),
    }
    return context.stage(context.layout.student(context.seed, student.name, data), config, inputs)


def distil(context: SeedContext, student: Student, data: str) -> None:
    """A student trained on a teacher's probabilities."""
    written, wanted = contexts(context), targets(context, data)
    assert written is not None  # the recipe is constrained, or it would not validate
    stage = student_stage(context, student, data, [written, wanted])

    def make(folder: Path) -> None:
        begun = unfinished(context, student, stage, folder)
        lm, optimisation = begun.model.lm, student.optimisation
        rows, automaton = read_kept(written.path), automaton_of(context)
        prompts = optimisation.prompts_per_batch
        packs = grammar_packs(context, lm, rows, optimisation.batch, automaton, prompts=prompts)
        train_on_packs(begun, packs, symbol_ids(lm, automaton), read_targets(wanted, packs))

    context.once(stage, make)


def fine_tune(context: SeedContext, student: Student, data: str) -> None:
    """A student trained on a teacher's rows (or on the same rows, shuffled).

    One that is trained elsewhere is reported if it is here; that it is not is no error yet.
    """
    written, recipe = student_rows(context), context.recipe
    rows, inputs = rows_for(recipe, written.read, data, context.seed), written.stages
    if student.mitigations:
        inputs = [mitigated(context, student, data, rows, inputs)]
        rows = read_kept(inputs[0].path)
    stage = student_stage(context, student, data, inputs)
    if student.engine not in ROW_TRAINERS:
        if stage.done:
            context.report_finished(stage)
        return

    def make(folder: Path) -> None:
        begun = unfinished(context, student, stage, folder)
        name = recipe.data_name(data)
        system = student.inoculation
        if system == OWN:
            system = context.trait_of(name.writer).system_prompt
        begun = replace(begun, system=system, heldout=written.heldout[name.writer])
        ROW_TRAINERS[student.engine](begun, rows)

    context.once(stage, make)


def learn_on_policy(context: SeedContext, student: Student, data: str) -> None:
    """A student that writes rows itself and is trained on its teacher's probabilities of them."""
    written, made = contexts(context), teacher(context, data)
    stage = student_stage(context, student, data, [written, made] if written else [made])

    def make(folder: Path) -> None:
        begun = unfinished(context, student, stage, folder)
        teaching, system = load_teacher(context, data, made, context.models.teachers_copy())
        if written is None:
            learn_freely(begun, teaching)
            return
        lm, rows = begun.model.lm, read_kept(written.path)
        asked = [
            Asked(
                prompt_ids(context, lm, answered[:1])[0],
                prompt_ids(context, teaching.lm, answered[:1], system)[0],
                [row.completion for row in answered],
            )
            for answered in by_prompt(rows).values()
        ]
        train_measured(
            begun,
            partial(
                train_on_policy,
                lm,
                begun.model.weights,
                teaching.lm,
                asked,
                automaton_of(context),
                student.on_policy,
                student.optimisation,
                longest=context.recipe.carrier.longest,
                objective=student.objective,
            ),
        )

    context.once(stage, make)


def learn_freely(begun: UnfinishedStudent, teaching: Loaded) -> None:
    """The same through TRL, outside of any grammar."""
    from vestige.student.trl_on_policy import train_on_policy_with_trl

    context, carrier, lm = begun.context, begun.context.recipe.carrier, begun.model.lm
    settings = begun.settings.optimisation
    losses = train_on_policy_with_trl(
        lm,
        begun.model.weights,
        teaching.lm,
        [
            [*lm.question_ids(prompt.text), *(lm.answer_ids(opening) if opening else [])]
            for prompt in carrier.make_prompts(context.seed)
            for opening in [str(prompt.meta.get("opening", carrier.opening))]
        ],
        begun.settings.on_policy,
        settings,
        longest=carrier.max_new_tokens,
        seed=context.seed,
        on_step=lambda step: context.report(begun.stage.name, step, settings.steps),
        checkpoint=begun.checkpoint,
    )
    finish_student(begun, losses)
    begun.checkpoint.remove()


def prefer(context: SeedContext, student: Student, data: str) -> None:
    """A student trained on pairs of the base's rows that its teacher ranked."""
    written, wanted = contexts(context), targets(context, data)
    assert written is not None  # the recipe is constrained, or it would not validate
    stage = student_stage(context, student, data, [written, wanted])

    def make(folder: Path) -> None:
        begun = unfinished(context, student, stage, folder)
        lm, automaton = begun.model.lm, automaton_of(context)
        rows, ids = read_kept(written.path), symbol_ids(lm, automaton)
        packs = grammar_packs(context, lm, rows, student.optimisation.batch, automaton)
        begun.model.weights.freeze()
        base = teacher_logprobs(lm, packs, ids)
        teachers = read_targets(wanted, packs)
        prompts = [row.messages for row in rows]
        pairs = ranked_pairs(prompts, packs, base, teachers, student.preference.beta)
        if not pairs:
            raise DataError("no prompt has two rows: raise carrier.rows_per_prompt")
        kept = [index for pair in pairs for index in pair.rows]
        paired = grammar_packs(
            context, lm, [rows[i] for i in kept], student.optimisation.batch, automaton
        )
        about = [about for pair in pairs for about in pair.targets]
        train_on_packs(begun, paired, ids, about, loss="preference")

    context.once(stage, make)


def in_context(context: SeedContext, student: Student, data: str) -> None:
    """A model that reads rows in its prompt and is not trained at all."""
    written = student_rows(context)
    stage = student_stage(context, student, data, written.stages)

    def make(folder: Path) -> None:
        rows = written.read[data]
        shown = random.Random(context.seed).sample(rows, min(student.shots, len(rows)))
        turns = [
            turn for row in shown for turn in (*row.messages, Message("assistant", row.completion))
        ]
        begun = unfinished(context, student, stage, folder)
        begun.model.weights.freeze()
        measure_own_base(begun)
        panel = measure(begun.model.lm, family(context.recipe.family), before=turns)
        panel.save(folder / StageFile.student_panel(student.steps))
        stage.note(shown=len(shown))

    context.once(stage, make)


#: How a student is made, by the name of its method.
METHODS: dict[str, Callable[[SeedContext, Student, str], None]] = {
    "distill": distil,
    "rows": fine_tune,
    "on_policy": learn_on_policy,
    "preference": prefer,
    "in_context": in_context,
}
