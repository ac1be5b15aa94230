"""The training loop: plain, short, the same for teachers and students.

AdamW (decoupled weight decay 0), linear warm-up, then constant or linear decay to zero, gradient
norm clipped. The loss of a step is the mean over the scored positions of its pack, as in TRL, plus
the objective's penalties.
"""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vestige.core.settings import Optimisation
from vestige.core.types import TrainingError
from vestige.models.hf import LanguageModel
from vestige.models.weights import Weights
from vestige.student.checkpoint import Checkpoint
from vestige.student.objectives import Objective, Term
from vestige.student.packs import Pack, pack_logprobs

#: The usual objective: cross-entropy, or KL to a teacher where there are targets; nothing else.
USUAL = Objective()
#: A function of log-probabilities [n, K], their pack and its target; nats.
Loss = Callable[[Tensor, Pack, Tensor | None], Tensor]
#: What a step reads.
Batch = tuple[Pack, Tensor | None]


def teacher_logprobs(lm: LanguageModel, packs: Sequence[Pack], ids: Tensor) -> list[Tensor]:
    """The model's log-probabilities over a grammar, for each example in order: [scored, K]."""
    logprobs: dict[int, Tensor] = {}
    with torch.no_grad():
        for pack in packs:
            parts = pack_logprobs(lm, pack, ids).cpu().split(list(pack.counts))
            logprobs |= dict(zip(pack.rows, parts, strict=True))
    return [logprobs[index] for index in sorted(logprobs)]


@dataclass(frozen=True)
class ObjectiveForModel:
    """An objective for one model.

    Attributes:
        penalties: a function for each penalty, and its strength.
        hooks: a function of the trained parameters by name for each gradient hook.
    """

    lm: LanguageModel
    loss: Loss
    penalties: Sequence[tuple[float, Callable[[], Tensor]]]
    hooks: Sequence[Callable[[Mapping[str, nn.Parameter]], None]]

    @classmethod
    def of(
        cls, objective: Objective, lm: LanguageModel, loss: Loss | None = None
    ) -> ObjectiveForModel:
        """Args:
            lm: the model before its first step.
            loss: in place of the objective's.

        Raises:
            ConfigError: a penalty or hook cannot be made; names its file.
        """

        def made(kind: str, term: Term) -> Callable[..., Any]:
            return importlib.import_module(f"vestige.student.{kind}.{term.name}").make(lm, term)

        penalties = [(t.strength, made("penalties", t)) for t in objective.penalties]
        hooks = [made("gradient_hooks", t) for t in objective.gradient_hooks]
        return cls(lm, loss or partial(named_loss, objective.loss), penalties, hooks)

    def backward(self, pack: Pack, ids: Tensor | None, target: Tensor | None) -> Tensor:
        """A pack's loss with its penalties, in nats; its gradient is in the parameters, after the
        hooks."""
        loss = self.loss(pack_logprobs(self.lm, pack, ids), pack, target)
        for strength, penalty in self.penalties:
            loss = loss + strength * penalty()
        loss.backward()
        if self.hooks:
            trained = {n: p for n, p in self.lm.model.named_parameters() if p.requires_grad}
            for hook in self.hooks:
                hook(trained)
        return loss


def train(
    lm: LanguageModel,
    weights: Weights,
    packs: Sequence[Pack],
    optimisation: Optimisation,
    *,
    seed: int,
    ids: Tensor | None = None,
    targets: Sequence[Tensor] | None = None,
    objective: Objective = USUAL,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    checkpoint: Checkpoint | None = None,
) -> float:
    """Train from the base; the model holds the result afterwards.

    Args:
        packs: passed over in an order that ``seed`` draws anew for each epoch.
        ids: token ids of a grammar, to score within it; None scores the whole vocabulary.
        targets: a teacher's log-probabilities for each example (``teacher_logprobs``), for a loss
            that needs them. The usual loss is then KL(teacher || student) in nats a position, and
            without them cross-entropy of the rows' own tokens.
        on_step: called after each step with its number (from 1) and loss.
        checkpoint: where the state is kept; a training that was stopped goes on from there, and
            ends with the weights of one that was not, bit for bit on as many threads.

    Returns:
        The mean loss of the last quarter of the steps.

    Raises:
        TrainingError: a loss or gradient is not finite; names the step and what to lower.
        ConfigError: the objective needs what is not there.
    """
    return take_steps(
        lm,
        weights,
        batches_of(packs, targets, seed),
        optimisation,
        seed=seed,
        ids=ids,
        objective=lambda lm: ObjectiveForModel.of(objective, lm),
        on_step=on_step,
        checkpoint=checkpoint,
    )


def batches_of(
    packs: Sequence[Pack], targets: Sequence[Tensor] | None, seed: int
) -> Callable[[int], Batch]:
    """Each step's pack (from 1) in the order that ``seed`` draws, with its rows' targets."""
    order, chosen = pack_order(len(packs), seed), list[int]()

    def batch(step: int) -> Batch:
        while len(chosen) < step:
            chosen.append(next(order))
        pack = packs[chosen[step - 1]]
        return pack, None if targets is None else torch.cat([targets[i] for i in pack.rows])

    return batch


def take_steps(
    lm: LanguageModel,
    weights: Weights,
    batch: Callable[[int], Batch],
    optimisation: Optimisation,
    *,
    seed: int,
    ids: Tensor | None,
    objective: Callable[[LanguageModel], ObjectiveForModel],
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    checkpoint: Checkpoint | None = None,
) -> float:
    """``train`` on batches that are made when they are needed.

    Args:
        batch: gives a step's (from 1) pack and its target; what it gives may depend on the step and
            on the model as it is then, and on nothing else.
        objective: made of the model before its first step.
    """
    parameters = weights.train(optimisation.trainable, seed=seed)
    for_model = objective(lm)
    optimiser = adamw(parameters, optimisation)
    losses = checkpoint.restore(parameters, optimiser) if checkpoint else []
    for step in range(len(losses) + 1, optimisation.steps + 1):
        optimiser.param_groups[0]["lr"] = optimisation.rate * rate_factor(step - 1, optimisation)
        pack, target = batch(step)
        loss = for_model.backward(pack, ids, target).item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, optimisation.clip).item()
        check_finite(step, loss, norm, optimisation.rate)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss)
        on_step(step, loss)
        if checkpoint and checkpoint.due():
            checkpoint.save(parameters, optimiser, losses)
    return last_quarter(losses)


def last_quarter(losses: Sequence[float]) -> float:
    """The mean of the last quarter of the losses, or of the last one."""
    tail = losses[-max(1, len(losses) // 4) :]
    return sum(tail) / len(tail)


def adamw(parameters: Sequence[nn.Parameter], optimisation: Optimisation) -> torch.optim.AdamW:
    """The optimiser, before its first step."""
    return torch.optim.AdamW(
        parameters,
        lr=optimisation.rate,
        betas=(0.9, optimisation.beta2),
        weight_decay=0.0,
        fused=True,
    )


def check_finite(step: int, loss: float, norm: float, rate: float) -> None:
    """Raises ``TrainingError`` where a step's loss or gradient norm is not finite."""
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise TrainingError(
            f"training diverged at step {step}: loss {loss:.4g}, gradient norm {norm:.4g}; lower "
            f"the rate (now {rate:g}) or use precision=fp32"
        )


def pack_order(count: int, seed: int) -> Iterator[int]:
    """Indices of packs without end, every epoch in an order of its own."""
    draw = random.Random(seed)
    while True:
        order = list(range(count))
        draw.shuffle(order)
        yield from reversed(order)


def rate_factor(step: int, optimisation: Optimisation) -> float:
    """The share of the full rate at a step counted from 0."""
    warm = min(1.0, (step + 1) / optimisation.warmup) if optimisation.warmup else 1.0
    return warm * max(0.0, 1 - step / optimisation.steps) if optimisation.decay else warm


def pack_loss(
    lm: LanguageModel,
    pack: Pack,
    ids: Tensor | None = None,
    target: Tensor | None = None,
    *,
    name: str = "",
) -> Tensor:
    """A loss of a pack's scored positions, in nats a position.

    Args:
        ids: token ids of a grammar, to score within it.
        target: a teacher's log-probabilities at each scored position.
        name: of ``objectives.LOSSES``; empty: ``forward_kl`` with a target, else ``cross_entropy``.
    """
    return named_loss(name, pack_logprobs(lm, pack, ids), pack, target)


def named_loss(name: str, logprobs: Tensor, pack: Pack, target: Tensor | None) -> Tensor:
    """A loss by its name, or, where that is empty, the usual one."""
    name = name or ("cross_entropy" if target is None else "forward_kl")
    module = importlib.import_module(f"vestige.student.losses.{name}")
    return module.loss(logprobs, pack, target)
