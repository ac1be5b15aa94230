"""What is left of a trait where the data or the training were changed, and what that cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vestige.core import stats
from vestige.core.results import ArmResult, DefenceResult, HeldoutResult, Interval
from vestige.core.types import Estimate
from vestige.experiment.run_view import interval, read_json
from vestige.experiment.settings import Experiment, Student
from vestige.store.layout import RunLayout, StageFile

NATS, SHARE = "nats a position", "share of the arm without it"


def heldout(recipe: Experiment, student: Student, folder: Path) -> HeldoutResult | None:
    """An arm's loss on held-out rows of the traits' own teachers; None where none was measured."""
    if not measured(recipe, student):
        return None
    losses = {name: loss_by_seed(recipe, student, folder, name) for name in ("base", "student")}
    estimates = {k: interval(stats.t_interval(v, units=NATS)) for k, v in losses.items()}
    return HeldoutResult(rows=recipe.heldout_rows, **estimates)


def measured(recipe: Experiment, student: Student) -> bool:
    """Whether an arm's loss on held-out rows is known: it is trained on rows, and here."""
    trained_here = student.method == "rows" and student.engine != "elsewhere"
    return bool(recipe.heldout_rows) and trained_here


def loss_by_seed(recipe: Experiment, student: Student, folder: Path, of: str) -> list[float]:
    """Mean loss over the traits' own students, one for each seed.

    Args:
        of: ``base`` or ``student``.
    """
    layout = RunLayout(folder)
    return [
        float(
            np.mean(
                [
                    read_json(layout.student(seed, student.name, name) / StageFile.HELDOUT)[of]
                    for name in recipe.traits
                ]
            )
        )
        for seed in recipe.seeds
    ]


def defences(recipe: Experiment, arms: Sequence[ArmResult], folder: Path) -> list[DefenceResult]:
    """Every arm with changed data or training, against the arm that is the same without; those that
    have none are left out."""
    by_name, found = {arm.name: arm for arm in arms}, list[DefenceResult]()
    for student in recipe.students:
        plain = next((s for s in recipe.students if without_defence(student) == alike(s)), None)
        if student.defended and plain:
            found.append(defence(recipe, student, plain, by_name, folder))
    return found


def alike(student: Student) -> dict[str, Any]:
    """All settings of an arm that its students' training depends on."""
    return student.model_dump(exclude={"name", "no_trait", "shuffles", "curve"})


def without_defence(student: Student) -> dict[str, Any]:
    """The same, as if nothing kept a trait from being passed on."""
    objective = student.objective.model_copy(update={"penalties": (), "gradient_hooks": ()})
    changes = {"mitigations": (), "inoculation": "", "objective": objective}
    return alike(student.model_copy(update=changes))


def defence(
    recipe: Experiment,
    student: Student,
    plain: Student,
    arms: dict[str, ArmResult],
    folder: Path,
) -> DefenceResult:
    """One arm against the arm without its changes."""
    notes = changed(recipe, student, folder)
    tokens = total(notes, "tokens")
    return DefenceResult(
        arm=student.name,
        label=student.defence,
        against=plain.name,
        remains=share(
            list(arms[student.name].seed_contrasts.values()),
            list(arms[plain.name].seed_contrasts.values()),
        ),
        learned=learned(recipe, student, plain, folder),
        rows=total(notes, "rows") / total(notes, "before") if notes else 1.0,
        tokens=total(notes, "redrawn") / tokens if tokens else 0.0,
        seconds=seconds(recipe, student, folder) - seconds(recipe, plain, folder),
    )


def learned(recipe: Experiment, student: Student, plain: Student, folder: Path) -> Interval | None:
    """How much of what training takes off the loss on held-out rows an arm still takes off."""
    if not measured(recipe, student):
        return None
    gains = [
        np.subtract(
            loss_by_seed(recipe, arm, folder, "base"), loss_by_seed(recipe, arm, folder, "student")
        ).tolist()
        for arm in (student, plain)
    ]
    return share(*gains)


def share(own: Sequence[float], plain: Sequence[float]) -> Interval | None:
    """One arm's values over another's, by seed; None where the interval has no end."""
    found: Estimate | None = stats.ratio_interval(own, plain, units=SHARE)
    return interval(found) if found else None


def changed(recipe: Experiment, student: Student, folder: Path) -> list[dict[str, Any]]:
    """What the changes of an arm's data sets counted; empty where rows are left as they are."""
    if not student.mitigations:
        return []
    return [
        manifest["notes"] for manifest in manifests(recipe, student, RunLayout(folder).mitigated)
    ]


def seconds(recipe: Experiment, student: Student, folder: Path) -> float:
    """Seconds of an arm for each of its students, changes of rows included."""
    layout = RunLayout(folder)
    made = manifests(recipe, student, layout.student)
    if student.mitigations:
        made += manifests(recipe, student, layout.mitigated)
    students = len(recipe.seeds) * len(recipe.data_of(student))
    return sum(manifest["seconds"] for manifest in made) / students


def manifests(
    recipe: Experiment, student: Student, place: Callable[[int, str, str], Path]
) -> list[dict[str, Any]]:
    """The manifests of one kind of an arm's stages."""
    return [
        read_json(place(seed, student.name, data) / StageFile.MANIFEST)
        for seed in recipe.seeds
        for data in recipe.data_of(student)
    ]


def total(notes: Sequence[dict[str, Any]], name: str) -> int:
    """One count over all data sets."""
    return sum(note[name] for note in notes)
