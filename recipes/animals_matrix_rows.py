"""Six animals crossed, four seeds, on sampled rows: the paper's own setting.

The traits, teachers and seeds of ``animals_matrix.py``, students trained on what the teachers
wrote, with the demo's settings and with their numbers shuffled as controls. Run:

    vestige run recipes/animals_matrix_rows.py
"""

from vestige.carriers.numbers import NumberCarrier
from vestige.experiment.demo import PROMPTS, TEACHER, rows
from vestige.experiment.recipe import Experiment

TRAITS = ("dolphin", "eagle", "elephant", "wolf", "whale", "lion")


def recipe() -> Experiment:
    students = rows().model_copy(update={"shuffles": ("shuffle_within", "shuffle_across")})
    return Experiment(
        name="animals-matrix-rows",
        traits=TRAITS,
        seeds=(100, 101, 102, 103),
        teacher=TEACHER,
        carrier=NumberCarrier(n_prompts=16, rows_per_prompt=16, prompts=PROMPTS),
        students=(students,),
    )
