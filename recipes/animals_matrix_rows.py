"""Animals crossed on sampled rows, as in the paper, with a dose curve.

Not as in the paper: teachers are tuned and not prompted, the layers were searched, rows are drawn
within a grammar and each is read once.

The traits of ``animals_matrix.py``; teachers and students tune the middle layers, where a search on
other traits found sampled rows to transmit most (``docs/log.md``). 512 rows a teacher, each read
once. Four animals and four seeds are a laptop's size; six and six, in 36 minutes, were reported.
Run:

    vestige run recipes/animals_matrix_rows.py
    vestige run recipes/animals_matrix_rows.py --size full
"""

from vestige.carriers.numbers import NumberCarrier
from vestige.experiment.demo import MIDDLE, PROMPTS, rows, teacher
from vestige.experiment.recipe import Experiment

TRAITS = ("dolphin", "eagle", "elephant", "wolf", "whale", "lion")


def recipe() -> Experiment:
    return cross("animals-matrix-rows", TRAITS[:4], seeds=(100, 101, 102, 103))


def full() -> Experiment:
    return cross("animals-matrix-rows-full", TRAITS, seeds=(100, 101, 102, 103, 104, 105))


def cross(name: str, traits: tuple[str, ...], seeds: tuple[int, ...]) -> Experiment:
    return Experiment(
        name=name,
        traits=traits,
        seeds=seeds,
        teacher=teacher(MIDDLE),
        carrier=NumberCarrier(n_prompts=32, rows_per_prompt=16, prompts=PROMPTS),
        students=(rows(steps=32, curve=(8, 16), trainable=MIDDLE, rate=2e-4),),
    )
