"""Which students of a recipe are trained on rows, and what each is called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vestige.core.settings import Trainable
from vestige.core.types import ConfigError, unknown_name
from vestige.experiment.jobs import NAMES
from vestige.experiment.settings import Experiment, Student


@dataclass(frozen=True)
class Cell:
    """One student: an arm, a seed and the name of its data set."""

    student: Student
    seed: int
    data: str

    @property
    def trainable(self) -> Trainable:
        """What its training may change."""
        return self.student.optimisation.trainable

    @property
    def stage(self) -> str:
        """Its stage's name."""
        return NAMES.student(self.seed, self.student.name, self.data).as_posix()

    @property
    def exported(self) -> Path:
        """Where it stands below an exported folder."""
        return NAMES.seed(self.seed) / self.student.name / self.data


def cells(recipe: Experiment, arm: str = "") -> list[Cell]:
    """The students of one arm, or of every arm that is trained on rows.

    Raises:
        ConfigError: there is no such arm, or it is not trained on rows.
    """
    arms = {s.name: s for s in recipe.students if s.method == "rows"}
    if not arms:
        raise ConfigError(f"recipe {recipe.name} trains no students on rows (method=rows)")
    if arm and arm not in arms:
        raise unknown_name("arm trained on rows", arm, arms)
    chosen = [arms[arm]] if arm else list(arms.values())
    return [
        Cell(student, seed, data)
        for student in chosen
        for seed in recipe.seeds
        for data in recipe.data_of(student)
    ]
