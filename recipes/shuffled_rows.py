"""The same numbers in another order: what is left when a teacher's rows are shuffled.

The paper (Cloud et al., arXiv 2507.14805, section 3) finds that permuting the numbers within rows
takes away half to three quarters of the effect, and across rows nearly all of it. Here two
teachers' rows, as they are and shuffled: 256 of each, or the 512 that were reported (21 minutes).
Run:

    vestige run recipes/shuffled_rows.py
    vestige run recipes/shuffled_rows.py --size full
"""

from vestige.carriers.numbers import NumberCarrier
from vestige.experiment.demo import MIDDLE, PROMPTS, rows, teacher
from vestige.experiment.recipe import Experiment


def recipe() -> Experiment:
    return shuffled("shuffled-rows", prompts=16)


def full() -> Experiment:
    return shuffled("shuffled-rows-full", prompts=32)


def shuffled(name: str, prompts: int) -> Experiment:
    """Sixteen rows a prompt, a step for each prompt: every row is read once."""
    students = rows(steps=prompts, trainable=MIDDLE, rate=2e-4).model_copy(
        update={"shuffles": ("shuffle_within", "shuffle_across")}
    )
    return Experiment(
        name=name,
        traits=("elephant", "whale"),
        seeds=(300, 301, 302, 303),
        teacher=teacher(MIDDLE),
        carrier=NumberCarrier(n_prompts=prompts, rows_per_prompt=16, prompts=PROMPTS),
        students=(students,),
    )
