"""The training loop: plain, short, the same for teachers and students.

AdamW (decoupled weight decay 0), linear warm-up, then constant or linear decay to zero, gradient
norm clipped. The loss of a step is the mean over the scored positions of its pack, as in TRL.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from vestige.core.settings import Optimisation
from vestige.core.types import TrainingError
from vestige.models.hf import LanguageModel
from vestige.models.weights import Weights
from vestige.student.checkpoint import Checkpoint
from vestige.student.packs import Pack, pack_logprobs


def teacher_logprobs(lm: LanguageModel, packs: Sequence[Pack], ids: Tensor) -> list[Tensor]:
    """The model's log-probabilities over a grammar, for each example in order: [scored, K]."""
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        for pack in packs:
            parts = pack_logprobs(lm, pack, ids).cpu().split(list(pack.counts))
            found |= dict(zip(pack.rows, parts, strict=True))
    return [found[index] for index in sorted(found)]


def train(
    lm: LanguageModel,
    weights: Weights,
    packs: Sequence[Pack],
    how: Optimisation,
    *,
    seed: int,
    ids: Tensor | None = None,
    targets: Sequence[Tensor] | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    checkpoint: Checkpoint | None = None,
) -> float:
    """Train from the base; the model holds the result afterwards.

    Args:
        packs: passed over in an order that ``seed`` draws anew for each epoch.
        ids: token ids of a grammar, to score within it; None scores the whole vocabulary.
        targets: a teacher's log-probabilities for each example
            (``teacher_logprobs``): the loss is KL(teacher || student) in nats a position. None:
            cross-entropy of the rows' own tokens.
        on_step: called after each step with its number (from 1) and loss.
        checkpoint: where the state is kept; a training that was stopped goes on from there, and
            ends with the weights of one that was not, bit for bit on as many threads.

    Returns:
        The mean loss of the last quarter of the steps.

    Raises:
        TrainingError: a loss or gradient is not finite; names the step and what to lower.
    """
    parameters = weights.train(how.trainable, seed=seed)
    optimiser = torch.optim.AdamW(
        parameters, lr=how.rate, betas=(0.9, how.beta2), weight_decay=0.0, fused=True
    )
    losses = checkpoint.restore(parameters, optimiser) if checkpoint else []
    order = pack_order(len(packs), seed)
    for step, at in enumerate(itertools.islice(order, len(losses), how.steps), len(losses) + 1):
        optimiser.param_groups[0]["lr"] = how.rate * rate_factor(step - 1, how)
        wanted = None if targets is None else torch.cat([targets[i] for i in packs[at].rows])
        loss = pack_loss(lm, packs[at], ids, wanted)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, how.clip)
        if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
            raise TrainingError(
                f"training diverged at step {step}: loss {loss.item():.4g}, gradient norm "
                f"{norm.item():.4g}; lower the rate (now {how.rate:g}) or use precision=fp32"
            )
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        on_step(step, losses[-1])
        if checkpoint and checkpoint.due():
            checkpoint.save(parameters, optimiser, losses)
    tail = losses[-max(1, len(losses) // 4) :]
    return sum(tail) / len(tail)


def pack_order(count: int, seed: int) -> Iterator[int]:
    """Indices of packs without end, every epoch in an order of its own."""
    draw = random.Random(seed)
    while True:
        order = list(range(count))
        draw.shuffle(order)
        yield from reversed(order)


def rate_factor(step: int, how: Optimisation) -> float:
    """The share of the full rate at a step counted from 0."""
    warm = min(1.0, (step + 1) / how.warmup) if how.warmup else 1.0
    return warm * max(0.0, 1 - step / how.steps) if how.decay else warm


def pack_loss(
    lm: LanguageModel, pack: Pack, ids: Tensor | None = None, target: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy, or mean KL(target || model), of a pack's scored positions, in nats."""
    logprobs = pack_logprobs(lm, pack, ids)
    if target is None:
        return torch.nn.functional.nll_loss(logprobs, pack.targets.to(logprobs.device))
    target = target.to(logprobs.device)
    possible = target.isfinite()
    gap = torch.where(possible, target, 0.0) - torch.where(possible, logprobs, 0.0)
    return (torch.where(possible, target.exp(), 0.0) * gap).sum(-1).mean()
