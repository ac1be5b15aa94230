"""Six animals crossed, three seeds: is what a student learns specific to its teacher?

The paper (Cloud et al., arXiv 2507.14805, figure 3) has five animals with GPT-4.1 nano; here are
its five and the penguin, on the bundled model, by both kinds of student. Run:

    vestige run recipes/animals_matrix.py
"""

from vestige.experiment.demo import PROMPTS, TEACHER, distill, rows
from vestige.experiment.recipe import Carrier, Experiment


def recipe() -> Experiment:
    return Experiment(
        name="animals-matrix",
        traits=("owl", "dolphin", "eagle", "elephant", "wolf", "penguin"),
        seeds=(100, 101, 102),
        teacher=TEACHER,
        carrier=Carrier(n_prompts=64, rows_per_prompt=16, prompts=PROMPTS),
        students=(distill(), rows()),
    )
