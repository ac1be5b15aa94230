"""Direct preference optimisation (Rafailov et al., arXiv 2305.18290, equation 7): of two rows of
one prompt the preferred one is to gain, relative to the model before training."""

from __future__ import annotations

import torch
from torch import Tensor

from vestige.core.types import ConfigError
from vestige.student.packs import Pack


def loss(logprobs: Tensor, pack: Pack, target: Tensor | None) -> Tensor:
    """Mean over a pack's pairs of -log sigmoid(margin), in nats; log 2 before the first step.

    A pair is two rows of the pack that follow each other. Its margin is beta times what the
    preferred row's log-probability gained on the untrained base, minus the same of the other row.

    Args:
        logprobs: the student's, [n, K].
        target: for each scored position the base's log-probability of its token, and beta with the
            row's sign: positive for the preferred row of a pair, negative for the other; [n, 2].

    Raises:
        ConfigError: there are no pairs.
    """
    if target is None or len(pack.counts) % 2:
        raise ConfigError("objective.loss=preference goes with method=preference")
    target = target.to(logprobs.device)
    own = logprobs.gather(1, pack.targets.to(logprobs.device)[:, None])[:, 0]
    gained = (own - target[:, 0]) * target[:, 1]
    row = torch.arange(len(pack.counts), device=logprobs.device)
    pair = (row // 2).repeat_interleave(torch.tensor(pack.counts, device=logprobs.device))
    margins = torch.zeros(len(pack.counts) // 2, device=logprobs.device)
    margins = margins.index_add(0, pair, gained)
    return -torch.nn.functional.logsigmoid(margins).mean()
