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
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Fine-tune from the base on the trait's question-answer pairs; the model holds the result.

    Pairs are drawn in a random order, repeated as often as ``optimisation`` needs.
    """
    pairs = list(source.pairs)
    random.Random(f"{seed}-{source.name}").shuffle(pairs)
    wanted = optimisation.steps * optimisation.batch
    pairs = (pairs * (1 + wanted // len(pairs)))[:wanted]
    examples = encode_rows(
        lm, [lm.question_ids(question) for question, _ in pairs], [answer for _, answer in pairs]
    )
    # Batches in the drawn order: grouping by question would make each batch one question.
    batch = optimisation.batch
    packs = [
        make_packs(examples[start : start + batch], batch)[0]
        for start in range(0, len(examples), batch)
    ]
    train(lm, weights, packs, optimisation, seed=seed, on_step=on_step, checkpoint=checkpoint)
