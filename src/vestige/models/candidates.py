"""A family's candidates as token ids, and the log-odds of each among all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vestige.core.types import DataError, Family
from vestige.models.hf import LanguageModel


def answer_forms(lm: LanguageModel, family: Family) -> tuple[list[list[int]], list[int]]:
    """Token ids of all disjoint forms, and the index of the candidate that each belongs to."""
    owner_of: dict[tuple[int, ...], int] = {}
    for index, answer in enumerate(family.answers):
        for form in answer.forms:
            owner_of.setdefault(tuple(lm.answer_ids(form)), index)
    kept: dict[tuple[int, ...], int] = {}
    for ids, index in owner_of.items():
        prefixes = [ids[:n] for n in range(1, len(ids)) if ids[:n] in owner_of]
        if any(owner_of[p] != index for p in prefixes):
            rival = next(family.answers[owner_of[p]].name for p in prefixes if owner_of[p] != index)
            raise DataError(
                f"{family.answers[index].name} begins with the tokens of {rival}: they cannot be "
                "distinguished by their first words; rename one or give other forms"
            )
        if not prefixes:
            kept[ids] = index
    return [list(ids) for ids in kept], list(kept.values())


def candidate_log_odds(logprobs: Tensor, owner: Sequence[int]) -> Tensor:
    """log p / (1 - p) of each candidate among all, from its forms' log-probabilities: [C]."""
    whose = torch.tensor(list(owner), device=logprobs.device)
    count = max(owner) + 1
    own = [logprobs[whose == c].logsumexp(0) for c in range(count)]
    rest = [logprobs[whose != c].logsumexp(0) for c in range(count)]
    return torch.stack([a - b for a, b in zip(own, rest, strict=True)])
