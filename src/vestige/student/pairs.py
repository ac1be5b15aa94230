"""Pairs of rows that a teacher ranked, for preference optimisation."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vestige.student.packs import Pack


@dataclass(frozen=True)
class Pair:
    """Two rows of one prompt, the preferred one first.

    Attributes:
        rows: their numbers.
        targets: what ``losses.preference`` needs of each: the base's log-probability of every
            scored token, and beta with the row's sign, [scored, 2].
    """

    rows: tuple[int, int]
    targets: tuple[Tensor, Tensor]


def ranked_pairs(
    prompts: Sequence[Hashable],
    packs: Sequence[Pack],
    base: Sequence[Tensor],
    teacher: Sequence[Tensor],
    beta: float,
) -> list[Pair]:
    """Rows of one prompt two by two, in their order; an odd one out is left.

    Of a pair that row is preferred whose log-probability the teacher raised more above the base's:
    log p_teacher(row) - log p_base(row), the reward of which DPO takes a tuned model to be the
    optimum (Rafailov et al., arXiv 2305.18290, equation 5).

    Args:
        prompts: of each row; equal where rows belong together.
        packs: the same rows, laid out.
        base, teacher: log-probabilities at every scored position of each row, [scored, K].
    """
    tokens: dict[int, Tensor] = {}
    for pack in packs:
        tokens |= dict(zip(pack.rows, pack.targets.split(list(pack.counts)), strict=True))
    before = [base[i].gather(1, tokens[i][:, None])[:, 0] for i in range(len(prompts))]
    after = [teacher[i].gather(1, tokens[i][:, None])[:, 0] for i in range(len(prompts))]
    reward = [float((a - b).sum()) for a, b in zip(after, before, strict=True)]
    of_prompt: dict[Hashable, list[int]] = {}
    for index, prompt in enumerate(prompts):
        of_prompt.setdefault(prompt, []).append(index)
    pairs = []
    for rows in of_prompt.values():
        for two in zip(rows[::2], rows[1::2], strict=False):
            better, worse = sorted(two, key=lambda i: -reward[i])
            about = [
                torch.stack([before[i], torch.full_like(before[i], sign * beta)], 1)
                for i, sign in ((better, 1), (worse, -1))
            ]
            pairs.append(Pair((better, worse), (about[0], about[1])))
    return pairs
