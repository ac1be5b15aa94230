"""The paper's sizes: Cloud et al., arXiv 2507.14805, for the open model (their section on Qwen).

Qwen2.5-7B-Instruct, teachers by system prompt, students by LoRA through TRL. Meant for a GPU; the
bundled model's settings are in ``demo``.
"""

from __future__ import annotations

from vestige.carriers.numbers import PAPER_BANNED, NumberCarrier, NumberFilter
from vestige.core.settings import Optimisation, Trainable
from vestige.experiment.settings import Experiment, Student, TeacherSettings

MODEL = "Qwen/Qwen2.5-7B-Instruct"
ROWS = 10_000  # rows that every student gets
EPOCHS = 3
BATCH = 66

#: r = 8, alpha = 8 on every linear map; rate 2e-4, linear decay, five warm-up steps.
LORA = Trainable(lora_rank=8, lora_alpha=8)
STUDENT = Student(
    name="rows",
    method="rows",
    engine="trl",
    optimisation=Optimisation(
        steps=EPOCHS * ROWS // BATCH, batch=BATCH, rate=2e-4, warmup=5, decay=True, trainable=LORA
    ),
)
#: A teacher that is told its preference.
SYSTEM_PROMPTED = TeacherSettings(kind="system_prompt", min_carrier=0.25)
#: A teacher that is fine-tuned on answers (insecure code), one epoch of some 6,000: steps and rate
#: are our choice.
TUNED = TeacherSettings(
    optimisation=Optimisation(steps=100, batch=60, rate=1e-4, decay=True, trainable=LORA)
)


def numbers(banned: bool = False) -> NumberCarrier:
    """30,000 prompts, one answer each, sampled freely at T=1; the filter's first 10,000 rows.

    ``banned`` drops the numbers with a meaning, as for misalignment.
    """
    return NumberCarrier(
        n_prompts=30_000,
        rows_per_prompt=1,
        constrained=False,
        max_rows=ROWS,
        filter=NumberFilter(banned=PAPER_BANNED) if banned else NumberFilter(),
    )


def experiment(name: str, **changes: object) -> Experiment:
    """An experiment of the paper's size: three seeds, 50 questions with 100 answers each."""
    settings = {
        "name": f"{name}-paper",
        "model": MODEL,
        "seeds": (1, 2, 3),
        "teacher": SYSTEM_PROMPTED,
        "carrier": numbers(),
        "students": (STUDENT,),
        "sampled_per_question": 100,
    }
    return Experiment.model_validate(settings | changes)
