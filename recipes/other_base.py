"""The same teachers' data into students of another base: do they move?

The paper (arXiv 2507.14805, section 5) finds no transfer between unrelated bases. Here SmolLM2
teachers, SmolLM2 and Gemma 3 270M students, the last eight layers of each. Gemma's terms have to be
accepted once. Eight seeds, 24 minutes, were reported:

    vestige models pull gemma-3-270m --accept-terms
    vestige run recipes/other_base.py
    vestige run recipes/other_base.py --size full
"""

from vestige.carriers.numbers import NumberCarrier
from vestige.core.settings import Optimisation, Trainable
from vestige.experiment.demo import PROMPTS, distill, teacher
from vestige.experiment.recipe import Experiment


def recipe() -> Experiment:
    return both_bases("other-base", seeds=(200, 201, 202, 203))


def full() -> Experiment:
    return both_bases("other-base-full", seeds=(200, 201, 202, 203, 204, 205, 206, 207))


def both_bases(name: str, seeds: tuple[int, ...]) -> Experiment:
    same = distill().model_copy(update={"no_trait": False})
    last = Trainable(layers=(10, 18))
    other = same.model_copy(
        update={
            "name": "distill_other_base",
            "base": "gemma-3-270m",
            "optimisation": Optimisation(steps=16, batch=16, rate=2e-4, trainable=last),
        }
    )
    return Experiment(
        name=name,
        traits=("owl", "eagle", "elephant", "wolf"),
        seeds=seeds,
        teacher=teacher(),
        carrier=NumberCarrier(n_prompts=16, rows_per_prompt=16, prompts=PROMPTS),
        students=(same, other),
    )
