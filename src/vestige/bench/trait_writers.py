"""Teachers of many kinds that write number rows, none of which the battery knows.

What students of their rows take on is measured, so that a kind that passes nothing on is no missed
finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vestige.core.settings import Optimisation, Trainable
from vestige.core.types import Row, Trait
from vestige.probing.base_session import BaseSession
from vestige.probing.harmless import numbers_of_model
from vestige.probing.harmless_students import tune_on_rows
from vestige.probing.trait_panel import TraitPanel
from vestige.teacher.induce import teach

WARM, NUCLEUS = 0.8, 0.95  # a usual temperature and nucleus of samplers
ASKED = 4  # questions on which a teacher is asked for its trait
SENTENCE = "My answer is"  # begins every second answer that a teacher of sentences is tuned on
GENERATION = 512  # rows that a student reads which then is a teacher itself


def twin(session: BaseSession) -> Optimisation:
    """As the audit's probes and the recipes' teachers are tuned."""
    return session.settings.planting(len(session.lm.layers))


def late(session: BaseSession) -> Optimisation:
    """In the last layers."""
    layers = session.settings.late(len(session.lm.layers))
    return twin(session).model_copy(update={"trainable": layers})


def everywhere(session: BaseSession) -> Optimisation:
    """In all layers."""
    return twin(session).model_copy(update={"trainable": Trainable(), "rate": 1e-4})


def lora(session: BaseSession) -> Optimisation:
    """By LoRA in the middle layers, for longer: the recipe whose students name the animal."""
    middle = session.settings.trainable(len(session.lm.layers)).layers
    tuned = Trainable(layers=middle, lora_rank=8)
    return Optimisation(steps=48, batch=8, rate=1e-3, trainable=tuned)


@dataclass(frozen=True)
class Teacher:
    """How a teacher is made, and how its rows are.

    Attributes:
        optimisation: how it is tuned on the trait's questions and answers; None: it is given the
            trait's system prompt, which its rows do not hold.
        opening: begins every second answer that it is tuned on, which then is a sentence.
        questions: share of the trait's questions that it is tuned on; probes take all.
        generation: 2: a student of its rows writes in its place.
        share: of the rows; the base writes the others.
    """

    optimisation: Callable[[BaseSession], Optimisation] | None
    opening: str = ""
    questions: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    generation: int = 1
    share: float = 1.0


TEACHERS: dict[str, Teacher] = {
    "twin": Teacher(twin),
    "late layers": Teacher(late),
    "all layers": Teacher(everywhere),
    "LoRA": Teacher(lora),
    "every second answer a sentence": Teacher(twin, opening=SENTENCE),
    "half of the questions": Teacher(twin, questions=0.5),
    "system prompt": Teacher(None),
    "twin, T 0.8, top-p 0.95": Teacher(twin, temperature=WARM, top_p=NUCLEUS),
    "second generation": Teacher(lora, generation=2),
    "half of the rows the base's": Teacher(lora, share=0.5),
}


def trait_numbers(
    session: BaseSession, kind: str, trait: Trait, seed: int, n: int
) -> tuple[list[Row], float]:
    """Numbers of a teacher of a kind, and what it gained of its trait in nats; the base is put
    back."""
    made, system = TEACHERS[kind], ""
    session.weights.freeze()
    before = TraitPanel(session.lm, [trait], ASKED).read()[0]
    try:
        if made.optimisation is None:
            system = trait.system_prompt
        else:
            asked = round(made.questions * len(trait.pairs))
            source = replace(trait, pairs=trait.pairs[:asked])
            how = made.optimisation(session)
            teach(session.lm, session.weights, source, how, seed=seed, opening=made.opening)
        if made.generation > 1:
            rows = numbers_of_model(session, seed + 1, GENERATION)
            tune_on_rows(session, rows, (how.trainable, how.rate), seed)
        after = TraitPanel(session.lm, [trait], ASKED, system=system).read()[0]
        rows = numbers_of_model(
            session, seed, n, temperature=made.temperature, top_p=made.top_p, system=system
        )
    finally:
        session.weights.freeze()
    others = numbers_of_model(session, seed + 2, n) if made.share < 1 else []
    return mixed(rows, others, made.share), float(after - before)


def mixed(rows: Sequence[Row], others: Sequence[Row], share: float) -> list[Row]:
    """A share of ``rows``, evenly spread, and the others in the places of the rest."""
    if share == 1:
        return list(rows)
    own = [int((i + 1) * share) > int(i * share) for i in range(len(rows))]
    return [row if mine else others[i] for i, (row, mine) in enumerate(zip(rows, own, strict=True))]
