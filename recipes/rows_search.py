"""Where sampled rows transmit best: a search, on traits that no reported result uses.

Student settings side by side on the rows of the same teachers. Other teachers by overrides, such
as ``teacher.kind=system_prompt``; what was found is told in ``docs/log.md``. Run:

    vestige run recipes/rows_search.py
"""

from vestige.carriers.numbers import NumberCarrier
from vestige.core.settings import Optimisation, Trainable
from vestige.experiment.demo import LATE, PROMPTS, rows, teacher
from vestige.experiment.recipe import Experiment, Student


def arm(name: str, trainable: Trainable = LATE, **settings: object) -> Student:
    how = Optimisation.model_validate(
        {"steps": 32, "batch": 16, "rate": 1e-4, "trainable": trainable, **settings}
    )
    return rows().model_copy(update={"name": name, "optimisation": how, "curve": (8, 16)})


def recipe() -> Experiment:
    return Experiment(
        name="rows-search",
        traits=("fox", "horse", "frog", "bear"),
        seeds=(0, 1),
        teacher=teacher(),
        carrier=NumberCarrier(n_prompts=16, rows_per_prompt=32, prompts=PROMPTS),
        students=(
            arm("late"),
            arm("late_faster", rate=2e-4),
            arm("late_lora8", Trainable(layers=LATE.layers, lora_rank=8), rate=5e-4),
            arm("late_mixed_prompts", prompts_per_batch=4),
            arm("all_layers", Trainable(), rate=5e-5),
        ),
    )
