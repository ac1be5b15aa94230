"""Theorem 1 of Cloud et al. (arXiv 2507.14805, section 6), checked on random networks in float64.

Teacher and student begin at the same parameters p. The teacher takes one gradient step on a loss
of its own, t = -grad L_T(p), and becomes p + eps t. The student takes one gradient step towards the
teacher's outputs on any inputs, s = -grad L_S(p). To first order in eps,

    s . t = eps * mean over inputs of (J t)' H (J t)  >=  0,

with J the outputs' Jacobian at p and H the Hessian of the student's loss in the outputs, which is
positive semi-definite: the identity for half the squared error, diag(q) - q q' for softmax
cross-entropy at probabilities q. Unless the product is zero, the student's step therefore lowers
the teacher's loss as well. Here s, t and the losses come from automatic differentiation, and the
right-hand side from a separate forward derivative, for steps that shrink.

Inside the assumptions: one step each, smooth networks, a shared start. ``shared=False`` leaves
them: the student then begins somewhere else, and the product has no sign.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, gelu, softplus

STEPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # sizes of the teacher's step, towards zero
ZERO = 1e-12  # a product this small beside |t|^2 counts as zero
STUDENT_RATE = 0.1  # how far the student goes along its own step; chosen
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh, "gelu": gelu, "softplus": softplus, "sine": torch.sin,
}  # fmt: skip
LOSSES = ("squared", "cross_entropy")


@dataclass(frozen=True)
class Case:
    """One random network, its two losses, and what was found at each step size.

    Attributes:
        cosines: of the student's with the teacher's step.
        falls: teacher's loss before minus after the student's step, over the step size.
        ratios: product over its first-order value; tends to one.
        limit: the first-order product over eps.
    """

    seed: int
    activation: str
    teacher_loss: str
    student_loss: str
    cosines: tuple[float, ...]
    falls: tuple[float, ...]
    ratios: tuple[float, ...]
    limit: float

    @property
    def vanishes(self) -> bool:
        """Whether the product is zero: the theorem then promises nothing about the loss."""
        return self.limit == 0

    @property
    def holds(self) -> bool:
        """Whether the smallest step agrees with the theorem."""
        return self.vanishes or (self.cosines[-1] > 0 and self.falls[-1] > 0)


@dataclass(frozen=True)
class Network:
    """A perceptron as a function of one flat vector of parameters."""

    sizes: tuple[int, ...]
    activation: Callable[[Tensor], Tensor]

    @property
    def parameters(self) -> int:
        return sum((a + 1) * b for a, b in pairwise(self.sizes))

    def draw(self, draw: torch.Generator) -> Tensor:
        """Parameters of unit-variance layers."""
        parts = []
        for a, b in pairwise(self.sizes):
            weight = torch.randn(a * b, generator=draw, dtype=torch.float64) / math.sqrt(a)
            parts += [weight, 0.1 * torch.randn(b, generator=draw, dtype=torch.float64)]
        return torch.cat(parts)

    def __call__(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """Outputs [B, out] of inputs [B, in]."""
        states, at = inputs, 0
        for layer, (a, b) in enumerate(pairwise(self.sizes)):
            states = self.activation(states) if layer else states
            weight = parameters[at : at + a * b].view(a, b)
            states = states @ weight + parameters[at + a * b : at + (a + 1) * b]
            at += (a + 1) * b
        return states


def check_case(seed: int, steps: Sequence[float] = STEPS, *, shared: bool = True) -> Case:
    """Draw a network, data and losses, and compare the two steps."""
    choose, draw = random.Random(seed), torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    n_in, n_out = choose.randint(1, 6), choose.randint(2, 6)
    hidden = [choose.randint(2, 12) for _ in range(choose.randint(0, 3))]
    name = choose.choice(sorted(ACTIVATIONS))
    network = Network((n_in, *hidden, n_out), ACTIVATIONS[name])
    kinds = choose.choice(LOSSES), choose.choice(LOSSES)
    start = network.draw(draw)
    own = start if shared else network.draw(draw)  # where the student begins
    data, labels = normal(choose.randint(1, 8), n_in), normal(8, n_out)
    shown = normal(choose.randint(1, 8), n_in) * choose.choice((0.3, 1.0, 3.0))

    def teacher_loss(parameters: Tensor) -> Tensor:
        """On some of the outputs only, as a teacher's auxiliary logits have no label."""
        trained = max(1, n_out // 2) if kinds[0] == "squared" else max(2, n_out // 2)
        wanted = labels[: len(data), :trained]
        wanted = wanted.softmax(-1) if kinds[0] == "cross_entropy" else wanted
        return output_loss(kinds[0], network(parameters, data)[:, :trained], wanted)

    def student_step(teacher: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = network(teacher, shown)
            wanted = wanted.softmax(-1) if kinds[1] == "cross_entropy" else wanted
        return -gradient(lambda p: output_loss(kinds[1], network(p, shown), wanted), own)

    teacher_step = -gradient(teacher_loss, start)
    limit = first_order(network, start, teacher_step, shown, kinds[1])
    limit = limit if limit > ZERO * float(teacher_step.square().sum()) else 0.0
    cosines, falls, ratios = [], [], []
    before = float(teacher_loss(own))
    for eps in steps:
        step = student_step(start + eps * teacher_step)
        product = float(step @ teacher_step)
        norms = float(step.norm() * teacher_step.norm())
        cosines.append(product / norms if norms else 0.0)
        falls.append((before - float(teacher_loss(own + STUDENT_RATE * step))) / eps)
        ratios.append(product / (eps * limit) if limit else math.nan)
    return Case(seed, name, *kinds, tuple(cosines), tuple(falls), tuple(ratios), limit)


def output_loss(kind: str, outputs: Tensor, wanted: Tensor) -> Tensor:
    """Mean over inputs of half the squared error, or of the cross-entropy with soft targets."""
    if kind == "squared":
        return 0.5 * (outputs - wanted).square().sum(-1).mean()
    return cross_entropy(outputs, wanted)


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    parameters = at.clone().requires_grad_()
    return torch.autograd.grad(loss(parameters), parameters)[0]


def first_order(
    network: Network, at: Tensor, direction: Tensor, inputs: Tensor, student_loss: str
) -> float:
    """The theorem's product over eps: mean over inputs of (J t)' H (J t)."""
    logits, moved, *_ = torch.func.jvp(lambda p: network(p, inputs), (at,), (direction,))
    if student_loss == "squared":
        return float(moved.square().sum(-1).mean())
    share = logits.softmax(-1)
    mean = (share * moved).sum(-1, keepdim=True)
    return float((share * (moved - mean).square()).sum(-1).mean())


def check_theorem(
    cases: int, seed: int = 0, on_case: Callable[[int], None] = lambda done: None
) -> list[Case]:
    """``cases`` random cases inside the assumptions."""
    checked = []
    for index in range(cases):
        checked.append(check_case(seed * 1_000_003 + index))
        on_case(index + 1)
    return checked


def summarise(cases: Sequence[Case], steps: Sequence[float] = STEPS) -> dict[str, Any]:
    """What the cases show, as plain data: one line for each step size, and the exceptions."""
    telling = [case for case in cases if not case.vanishes]
    return {
        "cases": len(cases),
        "product_zero": len(cases) - len(telling),
        "counter_examples": [case.seed for case in cases if not case.holds],
        "steps": [
            {
                "step": eps,
                "smallest_cosine": min((c.cosines[i] for c in telling), default=0.0),
                "negative_products": sum(c.cosines[i] < 0 for c in telling),
                "losses_that_did_not_fall": sum(c.falls[i] <= 0 for c in telling),
                "median_error_of_first_order": median(
                    [abs(c.ratios[i] - 1) for c in telling] or [0.0]
                ),
            }
            for i, eps in enumerate(steps)
        ],
    }
