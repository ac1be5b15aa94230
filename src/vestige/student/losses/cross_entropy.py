"""Cross-entropy of the rows' own tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from vestige.student.packs import Pack


def loss(logprobs: Tensor, pack: Pack, target: Tensor | None) -> Tensor:
    """Mean over the scored positions, in nats.

    Args:
        logprobs: the model's, [n, K].
        target: not used.
    """
    return torch.nn.functional.nll_loss(logprobs, pack.targets.to(logprobs.device))
