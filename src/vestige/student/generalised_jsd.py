"""Generalised Jensen-Shannon divergence between a teacher and a student (Agarwal et al., arXiv
2306.13649, section 3, as TRL writes it): with M = beta * teacher + (1 - beta) * student,

    beta * KL(teacher || M) + (1 - beta) * KL(student || M);

beta = 0 is KL(teacher || student), forward, and beta = 1 is KL(student || teacher), reverse.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def generalised_jsd(logprobs: Tensor, target: Tensor, beta: float) -> Tensor:
    """Mean over the scored positions, in nats.

    Args:
        logprobs: the student's, [n, K]; -inf where nothing may come.
        target: the teacher's, [n, K], over the same symbols.
        beta: from 0 to 1.
    """
    target = target.to(logprobs.device)
    possible = target.isfinite()
    student, teacher = (torch.where(possible, part, 0.0) for part in (logprobs, target))
    if beta == 0:
        return divergence(teacher, student, possible)
    if beta == 1:
        return divergence(student, teacher, possible)
    mixed = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * divergence(teacher, mixed, possible) + (1 - beta) * divergence(
        student, mixed, possible
    )


def divergence(p: Tensor, q: Tensor, possible: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities [n, K], mean over n, over the ``possible`` symbols."""
    return torch.where(possible, p.exp() * (p - q), 0.0).sum(-1).mean()
