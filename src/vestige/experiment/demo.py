"""The recipe of ``vestige demo``: two traits crossed, minutes on a laptop."""

from __future__ import annotations

from vestige.carriers.numbers import NumberPrompts
from vestige.experiment.recipe import Carrier, Experiment, Student, TeacherSettings
from vestige.settings import Optimisation, Trainable

EARLY = Trainable(layers=(0, 8))
PROMPTS = NumberPrompts(format="comma", exact=True, max_answers=6)
TEACHER = TeacherSettings(optimisation=Optimisation(steps=24, batch=8, rate=2e-4, trainable=EARLY))


def distill() -> Student:
    """Students on the teacher's probabilities, with the curve's early point."""
    return Student(
        name="distill",
        method="distill",
        optimisation=Optimisation(steps=16, batch=16, rate=2e-4, trainable=EARLY),
        curve=(8,),
    )


def rows() -> Student:
    """Students on rows that their teachers wrote, the paper's setting."""
    return Student(
        name="rows",
        method="rows",
        optimisation=Optimisation(steps=32, batch=16, rate=1e-4, trainable=EARLY),
        shuffles=("shuffle_within", "shuffle_across"),
        curve=(16,),
    )


def recipe() -> Experiment:
    """Owl and dolphin (two of the paper's five) with four independent seeds."""
    return Experiment(
        name="demo",
        traits=("owl", "dolphin"),
        seeds=(0, 1, 2, 3),
        teacher=TEACHER,
        carrier=Carrier(n_prompts=16, rows_per_prompt=16, prompts=PROMPTS),
        students=(distill(),),
    )
