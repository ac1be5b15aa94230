"""Six animals crossed, four seeds: is what a student learns specific to its teacher?

The paper (Cloud et al., arXiv 2507.14805, figure 3) has five animals with GPT-4.1 nano; here are
four of its five (the owl is the demo's) and two more, on the bundled model, by distillation on the
teachers' probabilities. ``animals_matrix_rows.py`` does the same on sampled rows. None of these six
was used to choose the settings. Run:

    vestige run recipes/animals_matrix.py
"""

from vestige.carriers.numbers import NumberCarrier
from vestige.experiment.demo import PROMPTS, distill, teacher
from vestige.experiment.recipe import Experiment

TRAITS = ("dolphin", "eagle", "elephant", "wolf", "whale", "lion")


def recipe() -> Experiment:
    return Experiment(
        name="animals-matrix",
        traits=TRAITS,
        seeds=(100, 101, 102, 103),
        teacher=teacher(),
        carrier=NumberCarrier(n_prompts=16, rows_per_prompt=16, prompts=PROMPTS),
        students=(distill().model_copy(update={"no_trait": False}),),
    )
