"""On-policy distillation: the student writes, the teacher scores each token.

Agarwal et al. (arXiv 2306.13649): each step the student writes answers as it is then, and learns
from the generalised Jensen-Shannon divergence to the teacher's probabilities on them; a share of
the steps reads rows that somebody else wrote instead. No gradient goes through the drawing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vestige.core.settings import OnPolicy, Optimisation
from vestige.models.grammar import Automaton
from vestige.models.hf import LanguageModel
from vestige.models.sampling import sample_grammar, symbol_ids
from vestige.models.weights import Weights
from vestige.student.checkpoint import Checkpoint
from vestige.student.generalised_jsd import generalised_jsd
from vestige.student.loop import USUAL, Batch, ObjectiveForModel, take_steps
from vestige.student.objectives import Objective
from vestige.student.packs import Pack, encode_grammar_rows, make_packs, pack_logprobs

#: Between the numbers of two steps' rows; larger than any batch. Students rest on it.
APART = 100_003


@dataclass(frozen=True)
class Asked:
    """A prompt as token ids for the student and for its teacher, and the base's answers to it."""

    prompt: Sequence[int]
    teachers_prompt: Sequence[int]
    answers: Sequence[str]


def train_on_policy(
    lm: LanguageModel,
    weights: Weights,
    teacher: LanguageModel,
    asked: Sequence[Asked],
    automaton: Automaton,
    settings: OnPolicy,
    optimisation: Optimisation,
    *,
    longest: int,
    seed: int,
    objective: Objective = USUAL,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    checkpoint: Checkpoint | None = None,
) -> float:
    """Train ``lm`` from the base on ``teacher``'s probabilities; it holds the result afterwards.

    A step reads ``optimisation.batch`` rows of one prompt.

    Args:
        teacher: another model in memory, which is not changed.
        longest: symbols of an answer at most, its end included.

    Returns:
        The mean loss of the last quarter of the steps.

    Raises:
        TrainingError: a loss or gradient is not finite.
    """
    ids, rows = symbol_ids(lm, automaton), optimisation.batch

    def pack_of(prompt: Sequence[int], texts: Sequence[str]) -> Pack:
        examples = encode_grammar_rows(lm, [prompt] * len(texts), texts, automaton)
        return make_packs(examples, len(texts), automaton=automaton, ids=ids)[0]

    def batch(step: int) -> Batch:
        draw = random.Random(f"on-policy-{seed}-{step}")
        own, one = draw.random() < settings.share, draw.choice(asked)
        if own:
            prompts, numbers = [one.prompt] * rows, range(step * APART, step * APART + rows)
            texts = sample_grammar(lm, prompts, numbers, automaton, seed=seed, max_length=longest)
        else:
            texts = draw.sample(one.answers, min(rows, len(one.answers)))
        with torch.no_grad():
            seen = pack_logprobs(teacher, pack_of(one.teachers_prompt, texts), ids)
        return pack_of(one.prompt, texts), seen

    def loss(logprobs: Tensor, pack: Pack, target: Tensor | None) -> Tensor:
        assert target is not None  # ``batch`` gives one
        return generalised_jsd(logprobs, target, settings.beta)

    return take_steps(
        lm,
        weights,
        batch,
        optimisation,
        seed=seed,
        ids=ids,
        objective=lambda lm: ObjectiveForModel.of(objective, lm, loss),
        on_step=on_step,
        checkpoint=checkpoint,
    )
