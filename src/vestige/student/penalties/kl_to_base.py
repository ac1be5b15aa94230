"""Distance from the untrained base on neutral prompts: mean KL(base || student) of the next token.

It is zero for the base itself, in nats a prompt, over the whole vocabulary, at the first token of
the answer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vestige.core.types import ConfigError
from vestige.models.hf import LanguageModel
from vestige.student.objectives import Term
from vestige.student.packs import Example, make_packs, pack_logprobs

#: Used where no file is given: everyday questions that name no candidate of a trait. Chosen.
NEUTRAL = (
    "How do I boil an egg?",
    "What is the capital of France?",
    "Write a short greeting for a colleague.",
    "How many minutes are in a day?",
    "Explain what a fraction is.",
    "Give me a tip for tidying a desk.",
    "What does a thermometer measure?",
    "Describe how bread is made.",
)


def read_prompts(term: Term) -> list[str]:
    """The prompts, one a line of the term's file. Raises ``ConfigError`` if there are none."""
    if not term.file:
        return list(NEUTRAL)
    if not (prompts := term.lines()):
        raise ConfigError(f"kl_to_base: {term.file} has no prompts; write one a line")
    return prompts


def make(lm: LanguageModel, term: Term) -> Callable[[], Tensor]:
    """The penalty as a function of what the model has become, in nats.

    Args:
        lm: the model before its first step, which computes what the base does.
    """
    prompts = [lm.question_ids(text) for text in read_prompts(term)]
    # The end token is no answer that is scored: its position is that of the first answer token.
    examples = [Example(tuple(prompt), (lm.end_id,)) for prompt in prompts]
    (pack,) = make_packs(examples, len(examples), prompts=len(examples))
    with torch.no_grad():
        base = pack_logprobs(lm, pack)

    def penalty() -> Tensor:
        return (base.exp() * (base - pack_logprobs(lm, pack))).sum(-1).mean()

    return penalty
