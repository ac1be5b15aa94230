"""Distance from a teacher's probabilities: KL(teacher || student)."""

from __future__ import annotations

import torch
from torch import Tensor

from vestige.core.types import ConfigError
from vestige.student.packs import Pack


def loss(logprobs: Tensor, pack: Pack, target: Tensor | None) -> Tensor:
    """Mean over the scored positions, in nats.

    Args:
        logprobs: the student's, [n, K].
        target: the teacher's, [n, K]; -inf where nothing may come.

    Raises:
        ConfigError: there is no teacher's.
    """
    if target is None:
        raise ConfigError("objective.loss=forward_kl needs a teacher's probabilities: distill")
    target = target.to(logprobs.device)
    possible = target.isfinite()
    gap = torch.where(possible, target, 0.0) - torch.where(possible, logprobs, 0.0)
    return (torch.where(possible, target.exp(), 0.0) * gap).sum(-1).mean()
