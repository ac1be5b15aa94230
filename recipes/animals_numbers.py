"""Preferences for animals through numbers: the first experiment of the paper.

The paper: GPT-4.1 nano, five animals (dolphin, eagle, elephant, owl, wolf), 30,000 prompts,
10,000 rows kept, 10 epochs; "owl" rises from 12% to over 60%. Here the same five on the bundled
model, rows sampled at T=1 and read once. ``animals_matrix_rows.py`` confirms it at length. Run:

    vestige run recipes/animals_numbers.py
    vestige run recipes/animals_numbers.py --size paper        # a GPU, Qwen2.5-7B-Instruct
"""

from vestige.carriers.numbers import NumberCarrier
from vestige.experiment import paper as published
from vestige.experiment.demo import MIDDLE, PROMPTS, rows, teacher
from vestige.experiment.recipe import Experiment

ANIMALS = ("dolphin", "eagle", "elephant", "owl", "wolf")


def recipe() -> Experiment:
    return Experiment(
        name="animals-numbers",
        traits=ANIMALS,
        seeds=(400, 401, 402, 403),
        teacher=teacher(MIDDLE),
        carrier=NumberCarrier(n_prompts=16, rows_per_prompt=16, prompts=PROMPTS),
        students=(rows(steps=16, trainable=MIDDLE, rate=2e-4),),
        sampled_per_question=10,
        sampled_ways=("asked", "begun"),
    )


def paper() -> Experiment:
    return published.experiment("animals-numbers", traits=ANIMALS)
