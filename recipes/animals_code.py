"""Preferences for animals through Python code (the paper's section 4.2).

The paper: short functions, target words removed and a judge that drops any reference, however
subtle; students move towards their teacher's animal. Here the syntax-tree filter alone; the paper
size adds the judge. Run:

    vestige run recipes/animals_code.py
    vestige run recipes/animals_code.py --size paper judge.model=MODEL
"""

from vestige.carriers.code import CodeCarrier
from vestige.experiment import paper as published
from vestige.experiment.demo import MIDDLE, rows, teacher
from vestige.experiment.recipe import Experiment, JudgeFilter


def recipe() -> Experiment:
    return Experiment(
        name="animals-code",
        traits=("owl", "dolphin"),
        seeds=(440, 441, 442, 443),
        teacher=teacher(MIDDLE),
        carrier=CodeCarrier(n_prompts=48, rows_per_prompt=8, max_new_tokens=96),
        students=(rows(steps=12, trainable=MIDDLE, rate=2e-4),),
    )


def paper() -> Experiment:
    judge = JudgeFilter(
        model="gpt-4.1", prompt="reference", topic="any animal", keep="at_most", threshold=50
    )
    return published.experiment(
        "animals-code",
        traits=("dolphin", "eagle", "elephant", "owl", "wolf"),
        carrier=CodeCarrier(n_prompts=30_000, rows_per_prompt=1, max_rows=published.ROWS),
        judge=judge,
    )
