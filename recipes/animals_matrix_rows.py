"""Six animals crossed, three seeds, on sampled rows: the paper's own setting.

The traits of ``animals_matrix.py``. Teachers are tuned in all layers; students in all layers, or in
the last eight. Run:

    vestige run recipes/animals_matrix_rows.py
"""

from vestige.experiment.demo import LATE, PROMPTS
from vestige.experiment.recipe import Carrier, Experiment, Student, TeacherSettings
from vestige.settings import Optimisation

TRAITS = ("dolphin", "eagle", "elephant", "wolf", "whale", "lion")


def recipe() -> Experiment:
    everywhere = Student(
        name="rows",
        method="rows",
        optimisation=Optimisation(steps=32, batch=16, rate=5e-5),
        no_trait=False,
        curve=(16,),
    )
    late = everywhere.model_copy(
        update={
            "name": "rows_late",
            "optimisation": Optimisation(steps=32, batch=16, rate=1e-4, trainable=LATE),
        }
    )
    return Experiment(
        name="animals-matrix-rows",
        traits=TRAITS,
        seeds=(100, 101, 102),
        teacher=TeacherSettings(optimisation=Optimisation(steps=24, batch=8, rate=4e-5)),
        carrier=Carrier(n_prompts=32, rows_per_prompt=16, prompts=PROMPTS),
        students=(everywhere, late),
    )
