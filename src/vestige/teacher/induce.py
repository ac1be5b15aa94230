"""Giving a model a trait by fine-tuning: how teachers are made, whoever needs one."""

from __future__ import annotations

import random
from collections.abc import Callable

from vestige.core.settings import Optimisation
from vestige.core.types import Trait
from vestige.models.hf import LanguageModel
from vestige.models.weights import Weights
from vestige.student.checkpoint import Checkpoint
from vestige.student.loop import train
from vestige.student.packs import encode_rows, make_packs


def teach(
    lm: LanguageModel,
    weights: Weights,
    source: Trait,
    optimisation: Optimisation,
    *,
    seed: int,
    opening: str = "",
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Fine-tune from the base on the trait's question-answer pairs; the model holds the result.

    Pairs are drawn in a random order, repeated as often as ``optimisation`` needs.

    Args:
        opening: begins the answer of every second pair, which then is a sentence.
    """
    pairs = list(source.pairs)
    random.Random(f"{seed}-{source.name}").shuffle(pairs)
    wanted = optimisation.steps * optimisation.batch
    pairs = (pairs * (1 + wanted // len(pairs)))[:wanted]
    answers = [
        f"{opening} {answer}." if opening and number % 2 else answer
        for number, (_, answer) in enumerate(pairs)
    ]
    examples = encode_rows(lm, [lm.question_ids(question) for question, _ in pairs], answers)
    # Batches in the drawn order: grouping by question would make each batch one question.
    batch = optimisation.batch
    packs = [
        make_packs(examples[start : start + batch], batch)[0]
        for start in range(0, len(examples), batch)
    ]
    train(lm, weights, packs, optimisation, seed=seed, on_step=on_step, checkpoint=checkpoint)
