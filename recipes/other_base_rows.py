"""Sampled rows into students of another base: the paper's own test of that.

SmolLM2 teachers; students of SmolLM2 and of Gemma 3 270M read the same 256 rows once, each training
its eight middle layers. As ``other_base.py`` otherwise. Run:

    vestige models pull gemma-3-270m --accept-terms
    vestige run recipes/other_base_rows.py
"""

from vestige.carriers.numbers import NumberCarrier
from vestige.experiment.demo import MIDDLE, PROMPTS, rows, teacher
from vestige.experiment.recipe import Experiment
from vestige.settings import Trainable


def recipe() -> Experiment:
    same = rows(steps=16, trainable=MIDDLE, rate=2e-4)
    middle = rows(steps=16, trainable=Trainable(layers=(5, 13)), rate=2e-4)
    other = middle.model_copy(update={"name": "rows_other_base", "base": "gemma-3-270m"})
    return Experiment(
        name="other-base-rows",
        traits=("owl", "eagle", "elephant"),
        seeds=(210, 211, 212, 213),
        teacher=teacher(MIDDLE),
        carrier=NumberCarrier(n_prompts=16, rows_per_prompt=16, prompts=PROMPTS),
        students=(same, other),
    )
