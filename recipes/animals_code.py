"""Preferences for animals through Python code.

The paper: short functions, target words removed and a judge that drops any reference, however
subtle; students move towards their teacher's animal. Here the syntax-tree filter alone, and
one-line functions whose first line is given: at T=1 hardly one whole answer in thirty of so small a
model is code and nothing else, but every second such line is. The paper size has whole answers and
the judge. Run:

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
        carrier=CodeCarrier(
            n_prompts=24,
            rows_per_prompt=16,
            max_new_tokens=48,
            opening="def solve(items):\n    return",
            lines=1,
            max_rows=192,
        ),
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
