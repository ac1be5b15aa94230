"""Six animals crossed, six seeds, on sampled rows: the paper's own setting.

The traits of ``animals_matrix.py``; teachers and students tune the middle layers, where a search on
other traits found sampled rows to transmit most (``docs/log.md``). 512 rows a teacher, each read
once, with a dose curve. Run:

    vestige run recipes/animals_matrix_rows.py
"""

from vestige.carriers.numbers import NumberCarrier
from vestige.experiment.demo import MIDDLE, PROMPTS, rows, teacher
from vestige.experiment.recipe import Experiment

TRAITS = ("dolphin", "eagle", "elephant", "wolf", "whale", "lion")


def recipe() -> Experiment:
    return Experiment(
        name="animals-matrix-rows",
        traits=TRAITS,
        seeds=(100, 101, 102, 103, 104, 105),
        teacher=teacher(MIDDLE),
        carrier=NumberCarrier(n_prompts=32, rows_per_prompt=16, prompts=PROMPTS),
        students=(rows(steps=32, curve=(8, 16), trainable=MIDDLE, rate=2e-4),),
    )
