"""Four ways to distil a teacher, side by side: which passes on how much of its preference?

The same teachers, prompts and budget (256 rows, 16 steps of 16) for sampled rows (hard labels),
the teacher's probabilities on the base's rows (soft labels), on-policy distillation (the student
writes, the teacher scores: reverse KL) and preference optimisation on pairs that the teacher
ranked. Run:

    vestige run recipes/ways_to_distil.py
    python benchmarks/ways_to_distil.py runs/ways-to-distil-*   # the task's gain, too
"""

from vestige.carriers.numbers import NumberCarrier
from vestige.core.settings import Optimisation
from vestige.experiment.demo import MIDDLE, PROMPTS, teacher
from vestige.experiment.recipe import Experiment, Student

ANIMALS = ("dolphin", "eagle", "elephant", "owl", "wolf")
BUDGET = Optimisation(steps=16, batch=16, rate=2e-4, trainable=MIDDLE)


def recipe() -> Experiment:
    ways = ("rows", "distill", "on_policy", "preference")
    return Experiment(
        name="ways-to-distil",
        traits=ANIMALS,
        seeds=(460, 461, 462),
        teacher=teacher(MIDDLE),
        carrier=NumberCarrier(n_prompts=16, rows_per_prompt=16, prompts=PROMPTS),
        students=tuple(
            Student.model_validate({"name": way, "method": way, "optimisation": BUDGET})
            for way in ways
        ),
        save_students=True,
    )
