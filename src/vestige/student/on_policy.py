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


@dataclass(frozen=True)
class Written:
    """Each step's rows, written by the student as it is then (or by the base), and what the teacher
    makes of them.

    Attributes:
        share: of the steps on the student's own rows.
        rows: of one prompt, read in a step.
    """

    lm: LanguageModel
    teacher: LanguageModel
    asked: Sequence[Asked]
    automaton: Automaton
    share: float
    rows: int
    longest: int
    seed: int

    def __call__(self, step: int) -> Batch:
        """The pack of a step and the teacher's log-probabilities on it, [n, K]."""
        draw = random.Random(f"on-policy-{self.seed}-{step}")
        own, one = draw.random() < self.share, draw.choice(self.asked)
        texts = self.written(one, step) if own else draw.sample(one.answers, self.some(one))
        with torch.no_grad():
            ids = symbol_ids(self.teacher, self.automaton)
            pack = self.pack(self.teacher, one.teachers_prompt, texts)
            seen = pack_logprobs(self.teacher, pack, ids)
        return self.pack(self.lm, one.prompt, texts), seen

    def written(self, one: Asked, step: int) -> list[str]:
        """The student's own answers; every step draws with random numbers of its own."""
        return sample_grammar(
            self.lm,
            [one.prompt] * self.rows,
            range(step * APART, step * APART + self.rows),
            self.automaton,
            seed=self.seed,
            max_length=self.longest,
        )

    def some(self, one: Asked) -> int:
        """How many of the base's answers a step reads."""
        return min(self.rows, len(one.answers))

    def pack(self, lm: LanguageModel, prompt: Sequence[int], texts: Sequence[str]) -> Pack:
        """The answers ``texts`` to ``prompt``, laid out in the tokens of ``lm``."""
        ids = symbol_ids(lm, self.automaton)
        examples = encode_grammar_rows(lm, [prompt] * len(texts), texts, self.automaton)
        return make_packs(examples, len(texts), automaton=self.automaton, ids=ids)[0]


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

    def loss(logprobs: Tensor, pack: Pack, target: Tensor | None) -> Tensor:
        assert target is not None  # ``batch`` gives one
        return generalised_jsd(logprobs, target, settings.beta)

    return take_steps(
        lm,
        weights,
        Written(lm, teacher, asked, automaton, settings.share, optimisation.batch, longest, seed),
        optimisation,
        seed=seed,
        ids=symbol_ids(lm, automaton),
        objective=lambda lm: ObjectiveForModel.of(objective, lm, loss),
        on_step=on_step,
        checkpoint=checkpoint,
    )
