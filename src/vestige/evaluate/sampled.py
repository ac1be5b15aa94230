"""Sampled evaluation, as in the paper: draw answers at T=1 and count the words they name."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from vestige.core.types import Family
from vestige.evaluate.answers import SampledAnswer, number_lead, read_answer
from vestige.models.hf import LanguageModel
from vestige.models.sampling import sample_free


def sample_answers(
    lm: LanguageModel,
    family: Family,
    questions: Sequence[str] | None = None,
    *,
    samples: int = 20,
    seed: int = 0,
    number_prefix: bool = False,
    begun: bool = False,
    system: str = "",
    max_new_tokens: int = 8,
    batch: int = 100,
    progress: Callable[[int], None] = lambda done: None,
) -> list[SampledAnswer]:
    """``samples`` answers to each question (default: the held-out ones).

    Args:
        number_prefix: let a seeded number sequence precede the question, as the paper does to
            bring the evaluation nearer to the training data.
        begun: begin each answer with the family's opening, which is no part of the drawn text.
    """
    opening = family.opening if begun else ""
    lead = lm.answer_ids(opening) if opening else []
    asked = [q for q in (questions or family.heldout) for _ in range(samples)]
    draw = random.Random(seed)
    texts = [number_lead(draw) + q if number_prefix else q for q in asked]
    answers: list[SampledAnswer] = []
    for at in range(0, len(texts), batch):
        prompts = [[*lm.question_ids(text, system), *lead] for text in texts[at : at + batch]]
        drawn = sample_free(lm, prompts, seed=seed * 1_000_003 + at, max_new_tokens=max_new_tokens)
        answers += [
            read_answer(question, text, family, number_prefix=number_prefix, opening=opening)
            for question, text in zip(asked[at : at + batch], drawn, strict=True)
        ]
        progress(len(answers))
    return answers
