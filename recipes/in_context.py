"""Rows in the prompt instead of training: the paper's in-context control.

The paper finds no effect with up to 10,000 rows in the prompt. Here 48 rows of the same data that
the trained arm reads, 4,700 tokens: more than half of what this model's context holds. Run:

    vestige run recipes/in_context.py
"""

from vestige.carriers.numbers import NumberCarrier
from vestige.experiment import paper as published
from vestige.experiment.demo import MIDDLE, PROMPTS, rows, teacher
from vestige.experiment.recipe import Experiment, Student

TRAITS = ("owl", "dolphin", "whale")


def shown(shots: int) -> Student:
    return Student(name="in_context", method="in_context", shots=shots, no_trait=False)


def recipe() -> Experiment:
    return Experiment(
        name="in-context",
        traits=TRAITS,
        seeds=(420, 421, 422, 423),
        teacher=teacher(MIDDLE),
        carrier=NumberCarrier(n_prompts=16, rows_per_prompt=16, prompts=PROMPTS),
        students=(rows(steps=16, trainable=MIDDLE, rate=2e-4), shown(48)),
    )


def paper() -> Experiment:
    students = (published.STUDENT, shown(1_000))
    return published.experiment("in-context", traits=TRAITS, students=students)
