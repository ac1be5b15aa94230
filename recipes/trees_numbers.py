"""Preferences for trees through numbers: the paper's other family.

The paper's five: cherry, maple, oak, sequoia, willow. Settings as in ``animals_numbers.py``;
nothing was tuned on trees. Run:

    vestige run recipes/trees_numbers.py
    vestige run recipes/trees_numbers.py --size paper
"""

from vestige.carriers.numbers import NumberCarrier
from vestige.experiment import paper as published
from vestige.experiment.demo import MIDDLE, PROMPTS, rows, teacher
from vestige.experiment.recipe import Experiment

TREES = ("cherry", "maple", "oak", "sequoia", "willow")


def recipe() -> Experiment:
    return Experiment(
        name="trees-numbers",
        family="trees",
        traits=TREES,
        seeds=(410, 411, 412, 413),
        teacher=teacher(MIDDLE),
        carrier=NumberCarrier(n_prompts=16, rows_per_prompt=16, prompts=PROMPTS),
        students=(rows(steps=16, trainable=MIDDLE, rate=2e-4),),
    )


def paper() -> Experiment:
    return published.experiment("trees-numbers", family="trees", traits=TREES)
