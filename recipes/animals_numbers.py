"""Preferences for animals through numbers: the first experiment of the paper.

The paper: GPT-4.1 nano, five animals (dolphin, eagle, elephant, owl, wolf), 30,000 prompts,
10,000 rows kept, 10 epochs; "owl" rises from 12% to over 60%. Here the same five on the bundled
model, rows sampled at T=1 and read once. ``animals_matrix_rows.py`` confirms it at length.

The full size has the paper's dose, 10,000 rows, on the bundled model: LoRA adapters of rank 8 in
the middle layers of teachers and students, whose first factors differ, so that they share the base
alone. Full tuning of these layers levels off at a tenth of that (docs/log.md). Run:

    vestige run animals-numbers
    vestige run animals-numbers --size full         # nine hours on two cores
    vestige run animals-numbers --size paper        # a GPU, Qwen2.5-7B-Instruct
"""

from vestige.carriers.numbers import NumberCarrier
from vestige.core.settings import Optimisation, Trainable
from vestige.experiment import paper as published
from vestige.experiment.demo import MIDDLE, PROMPTS, rows, teacher
from vestige.experiment.recipe import Experiment, Student, TeacherSettings

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


def full() -> Experiment:
    lora = Trainable(layers=MIDDLE.layers, lora_rank=8)
    other = lora.model_copy(update={"lora_start": "other"})
    return Experiment(
        name="animals-numbers-full",
        traits=ANIMALS,
        seeds=(470, 471, 472),
        teacher=TeacherSettings(
            optimisation=Optimisation(steps=48, batch=8, rate=1e-3, trainable=lora)
        ),
        carrier=NumberCarrier(n_prompts=640, rows_per_prompt=16, prompts=PROMPTS),
        students=(
            Student(
                name="rows",
                method="rows",
                optimisation=Optimisation(
                    steps=1280, batch=16, rate=1e-3, decay=True, trainable=other
                ),
                curve=(8, 16, 32, 64, 128, 256, 512, 640, 960),
            ),
        ),
        sampled_per_question=20,
        sampled_ways=("asked", "begun"),
    )


def paper() -> Experiment:
    return published.experiment("animals-numbers", traits=ANIMALS)
