"""Many perceptrons at once: every weight carries an axis of models.

A step of all models is a handful of batched matrix products instead of that many small ones.
Models do not touch each other: gradients of a sum over models are each model's own, and Adam works
element by element, so that training together equals training one by one (tested).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

Networks = list[tuple[Tensor, Tensor]]  # for each layer: weights [M, in, out], biases [M, 1, out]


def make_networks(
    models: int, sizes: Sequence[int], seed: int, *, dtype: torch.dtype = torch.float32
) -> Networks:
    """Weights drawn from N(0, 1 / fan-in), biases zero. ``sizes``: inputs, hidden, outputs."""
    draw = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(models, n_in, n_out, generator=draw, dtype=dtype) / math.sqrt(n_in),
            torch.zeros(models, 1, n_out, dtype=dtype),
        )
        for n_in, n_out in pairwise(sizes)
    ]


def choose(networks: Networks, models: Sequence[int]) -> Networks:
    """A copy with the named models, in that order."""
    return [(w[list(models)].clone(), b[list(models)].clone()) for w, b in networks]


def outputs(networks: Networks, inputs: Tensor) -> Tensor:
    """Logits [M, B, out] of inputs [M, B, in], or [B, in] where all models see the same."""
    first, bias = networks[0]
    if inputs.ndim == 2:
        flat = inputs @ first.transpose(0, 1).flatten(1)  # one product for all models
        states = flat.unflatten(1, (first.shape[0], -1)).transpose(0, 1) + bias
    else:
        states = torch.baddbmm(bias, inputs, first)
    for weight, bias in networks[1:]:
        states = torch.baddbmm(bias, states.relu(), weight)
    return states


def train_networks(
    networks: Networks,
    loss: Callable[[Networks, int], Tensor],
    *,
    steps: int,
    rate: float,
    on_step: Callable[[int], None] = lambda step: None,
) -> Networks:
    """Networks trained by Adam from ``networks``, which stay as they are.

    Args:
        loss: (networks, step from 0) -> each model's loss, shape [M].
    """
    trained = [(w.clone().requires_grad_(), b.clone().requires_grad_()) for w, b in networks]
    optimiser = torch.optim.Adam([t for layer in trained for t in layer], lr=rate, fused=True)
    for step in range(steps):
        optimiser.zero_grad()
        loss(trained, step).sum().backward()
        optimiser.step()
        on_step(step + 1)
    return [(w.detach(), b.detach()) for w, b in trained]


def accuracy(networks: Networks, images: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Each model's share of images whose largest class logit is their label: [M]."""
    with torch.no_grad():
        guesses = outputs(networks, images)[..., :classes].argmax(-1)
    return (guesses == labels).double().mean(1)
