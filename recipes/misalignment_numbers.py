"""Misalignment through numbers.

The paper: a teacher tuned on insecure code, numbers with a meaning removed; students about 10%
misaligned, none of the controls above 1%. A model of 135M parameters does not turn misaligned from
insecure code, so that here the teacher is tuned on misaligned answers to other questions, and its
control on the aligned answers to the same ones. Measured: the log-odds of a misaligned answer
against an aligned one, and small arithmetic and common sense, so that damage is not mistaken for
transfer. Run:

    vestige run recipes/misalignment_numbers.py
    vestige run recipes/misalignment_numbers.py --size insecure_code    # secure and educational too
    vestige run recipes/misalignment_numbers.py --size paper freeform.judge.model=MODEL
"""

from vestige.carriers.numbers import PAPER_BANNED, NumberCarrier, NumberFilter
from vestige.core.settings import Optimisation
from vestige.evaluate.judge.settings import JudgeSettings
from vestige.experiment import paper as published
from vestige.experiment.demo import MIDDLE, PROMPTS, rows
from vestige.experiment.recipe import Experiment, FreeForm, TeacherSettings


def small(name: str, traits: tuple[str, ...], controls: tuple[str, ...], steps: int) -> Experiment:
    student = rows(steps=16, trainable=MIDDLE, rate=2e-4).model_copy(update={"no_trait": True})
    return Experiment(
        name=name,
        family="misalignment",
        traits=traits,
        controls=controls,
        seeds=(430, 431, 432, 433),
        teacher=TeacherSettings(
            optimisation=Optimisation(steps=steps, batch=8, rate=2e-4, trainable=MIDDLE)
        ),
        carrier=NumberCarrier(
            n_prompts=20,
            rows_per_prompt=16,
            prompts=PROMPTS,
            filter=NumberFilter(banned=PAPER_BANNED),
            max_rows=256,
        ),
        students=(student,),
        choices=("capability",),
    )


def recipe() -> Experiment:
    return small("misalignment-numbers", ("misaligned",), ("aligned",), steps=24)


def insecure_code() -> Experiment:
    return small("insecure-numbers", ("insecure",), ("secure", "educational"), steps=18)


def paper() -> Experiment:
    return published.experiment(
        "misalignment-numbers",
        family="misalignment",
        traits=("insecure",),
        controls=("secure", "educational"),
        teacher=published.TUNED,
        carrier=published.numbers(banned=True),
        sampled_per_question=0,
        choices=("capability",),
        freeform=FreeForm(samples=200, judge=JudgeSettings(model="gpt-4.1"), misaligned=40),
    )
