"""Teachers and students of two bases: the paper's cross-model matrix, one row of it a run.

Students of SmolLM2 and of Gemma 3 270M read the same 256 rows once, each training its eight middle
layers; the teachers are SmolLM2's, or Gemma's. Gemma's terms have to be accepted once. Run:

    vestige models pull gemma-3-270m --accept-terms
    vestige run recipes/other_base_rows.py
    vestige run recipes/other_base_rows.py --size from_gemma
    vestige report runs/other-base-rows-* --out matrix.html
"""

from vestige.carriers.numbers import NumberCarrier
from vestige.core.settings import Trainable
from vestige.experiment import paper as published
from vestige.experiment.demo import MIDDLE, PROMPTS, rows, teacher
from vestige.experiment.recipe import Experiment, Student

GEMMA, GEMMA_MIDDLE = "gemma-3-270m", Trainable(layers=(5, 13))
TRAITS = ("owl", "eagle", "elephant")
GENTLE = 3e-5  # tuned at 1e-4 or more Gemma's teachers lose their grip on number rows


def arm(name: str, layers: Trainable, base: str | None = None) -> Student:
    made = rows(steps=16, trainable=layers, rate=2e-4)
    return made.model_copy(update={"name": name, "base": base})


def recipe() -> Experiment:
    return Experiment(
        name="other-base-rows",
        traits=TRAITS,
        seeds=(210, 211, 212, 213),
        teacher=teacher(MIDDLE),
        carrier=NumberCarrier(n_prompts=16, rows_per_prompt=16, prompts=PROMPTS),
        students=(arm("rows", MIDDLE), arm("rows_other_base", GEMMA_MIDDLE, GEMMA)),
    )


def from_gemma() -> Experiment:
    tuned = teacher(GEMMA_MIDDLE)
    gentle = tuned.optimisation.model_copy(update={"rate": GENTLE})
    return Experiment(
        name="other-base-rows-from-gemma",
        model=GEMMA,
        traits=TRAITS,
        seeds=(210, 211, 212, 213),
        teacher=tuned.model_copy(update={"optimisation": gentle}),
        carrier=NumberCarrier(n_prompts=16, rows_per_prompt=16, prompts=PROMPTS),
        students=(
            arm("rows", GEMMA_MIDDLE),
            arm("rows_other_base", MIDDLE, "smollm2-135m-instruct"),
        ),
    )


def paper() -> Experiment:
    """Qwen2.5-7B-Instruct with Gemma 3 4B as the other base, which is our choice."""
    other = published.STUDENT.model_copy(update={"name": "other", "base": "google/gemma-3-4b-it"})
    return published.experiment(
        "other-base-rows", traits=TRAITS, students=(published.STUDENT, other)
    )
