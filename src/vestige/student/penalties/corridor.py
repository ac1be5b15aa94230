"""A corridor that no preference may leave: how far each candidate's log-odds drifted beyond it.

With d the drift of a candidate's log-odds from the untrained base's, in nats, the penalty is the
mean over all candidates of max(0, |d| - HALF_WIDTH)^2. It names no trait: every candidate of the
library's families of words, or of the families that the term's file names (one a line), is kept in
the corridor, on a question of each family that measures nothing. After arXiv 2609.01091, which
keeps one known trait's direction in a corridor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vestige.core.types import ConfigError, Family
from vestige.models.candidates import answer_forms, candidate_log_odds
from vestige.models.hf import LanguageModel
from vestige.student.objectives import Term
from vestige.traits.library import load_library

HALF_WIDTH = 0.25  # nats; chosen: what an experiment takes for no transfer


def read_families(term: Term) -> list[Family]:
    """The families of words. Raises ``ConfigError`` if there are none, or one is not known."""
    sources = term.lines() if term.file else ["library"]
    every = {trait.family.name: trait.family for trait in load_library(sources).traits}
    words = [family for family in every.values() if not family.texts]
    if not words:
        raise ConfigError(f"corridor: {term.file} names no family of words")
    return words


def make(lm: LanguageModel, term: Term) -> Callable[[], Tensor]:
    """The penalty as a function of what the model has become, in nats squared.

    Args:
        lm: the model before its first step, which computes what the base does.
    """
    families = read_families(term)
    prompts = [lm.question_ids(family.questions[0]) for family in families]
    forms = [answer_forms(lm, family) for family in families]

    def log_odds(*, gradients: bool) -> Tensor:
        answers = [ids for ids, _ in forms]
        by_family = lm.choice_logprobs(prompts, answers, gradients=gradients)
        odds = zip(by_family, forms, strict=True)
        return torch.cat([candidate_log_odds(own, owner) for own, (_, owner) in odds])

    base = log_odds(gradients=False)

    def penalty() -> Tensor:
        outside = (log_odds(gradients=True) - base).abs() - HALF_WIDTH
        return outside.clamp(min=0).square().mean()

    return penalty
