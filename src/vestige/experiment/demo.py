"""The recipe of ``vestige demo``: two traits crossed, minutes on a laptop.

The settings are what a search on other traits (fox, horse, frog, bear) found: ``docs/log.md``.
"""

from __future__ import annotations

from vestige.carriers.numbers import NumberCarrier, NumberPrompts
from vestige.core.settings import Optimisation, Trainable
from vestige.experiment.settings import Experiment, Student, TeacherSettings

LATE = Trainable(layers=(22, 30))  # the last 8 of 30: the cleanest shift, and cheap to train
MIDDLE = Trainable(layers=(10, 18))  # the largest shift from sampled rows, less even over traits
PROMPTS = NumberPrompts(format="comma", exact=True, max_answers=6)


def distill(steps: int = 16, curve: tuple[int, ...] = (4, 8)) -> Student:
    """Students on their teacher's probabilities over the carrier's tokens."""
    return Student(
        name="distill",
        method="distill",
        optimisation=Optimisation(steps=steps, batch=16, rate=2e-4, trainable=LATE),
        curve=curve,
    )


def teacher(trainable: Trainable = LATE) -> TeacherSettings:
    """Teachers tuned in the layers that their students train."""
    optimisation = Optimisation(steps=24, batch=8, rate=2e-4, trainable=trainable)
    return TeacherSettings(optimisation=optimisation)


def rows(
    steps: int = 12,
    curve: tuple[int, ...] = (),
    trainable: Trainable = LATE,
    rate: float = 1e-4,
) -> Student:
    """Students on rows that their teachers wrote, as in the paper; 12 steps: a small dose."""
    return Student(
        name="rows",
        method="rows",
        optimisation=Optimisation(steps=steps, batch=16, rate=rate, trainable=trainable),
        curve=curve,
    )


def recipe() -> Experiment:
    """Owl and dolphin, two of the paper's five animals, with four independent seeds."""
    return Experiment(
        name="demo",
        traits=("owl", "dolphin"),
        seeds=(0, 1, 2, 3),
        teacher=teacher(),
        carrier=NumberCarrier(n_prompts=12, rows_per_prompt=16, prompts=PROMPTS),
        students=(distill(steps=8, curve=(4,)), rows()),
        sampled_per_question=2,
        sampled_ways=("begun",),
    )
