"""Data sets for the audit's benchmark: seven animals and five trees, rows and students.

``vestige bench audit`` holds audits of these rows against what these students took on. Three of the
animals (owl, eagle, wolf) and two of the trees (oak, willow) are held out: nothing in the audit was
chosen on them. Run:

    vestige run recipes/audit_bench.py
    vestige run recipes/audit_bench.py --size trees
"""

from vestige.carriers.numbers import NumberCarrier
from vestige.experiment.demo import MIDDLE, PROMPTS, rows, teacher
from vestige.experiment.recipe import Experiment

ANIMALS = ("dolphin", "elephant", "whale", "lion", "owl", "eagle", "wolf")
TREES = ("cherry", "maple", "sequoia", "oak", "willow")


def recipe() -> Experiment:
    return written("audit-bench-animals", "animals", ANIMALS, seeds=(500, 501, 502))


def trees() -> Experiment:
    return written("audit-bench-trees", "trees", TREES, seeds=(510, 511, 512))


def written(name: str, family: str, traits: tuple[str, ...], seeds: tuple[int, ...]) -> Experiment:
    return Experiment(
        name=name,
        family=family,
        traits=traits,
        seeds=seeds,
        teacher=teacher(MIDDLE),
        carrier=NumberCarrier(n_prompts=16, rows_per_prompt=16, prompts=PROMPTS),
        students=(rows(steps=16, trainable=MIDDLE, rate=2e-4),),
    )
