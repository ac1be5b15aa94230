"""Directions in weight space, and how far each row's gradient points along them.

A trait's direction (its probe, or the gradient of its log-odds) is kept for every tuned linear map
as a product of a few ranks. A map's gradient for one row is a sum over tokens of outer products of
what enters the map, ``a``, and what comes back, ``d``; its inner product with ``u v^T`` is
``sum (a . v)(d . u)``. So all traits cost one backward pass and two thin matrix products a map, and
no gradient is ever formed (the products of LoGra, Choe et al., arXiv 2405.13954, with the traits'
own factors in place of random ones).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vestige.core.types import DataError, Row
from vestige.models.hf import LanguageModel
from vestige.models.sampling import symbol_ids
from vestige.models.tree import build_tree
from vestige.probing.base_session import BaseSession
from vestige.probing.row_format import AT_ONCE, RowFormat
from vestige.probing.soft_targets import SoftTargets
from vestige.probing.trait_panel import Array
from vestige.student.packs import Example, scored_positions

RANK = 4  # ranks kept of each map; scores rows as the whole does (docs/log.md)
SPARE = 6  # ranks more than kept, for the accuracy of the randomised decomposition; chosen


@dataclass(frozen=True)
class Directions:
    """One direction for each of T traits.

    Attributes:
        factors: by weight [m, n]: (out [T, m, R], into [T, n, R]); trait t's part of the weight's
            direction is ``out[t] @ into[t].T``.
    """

    factors: dict[str, tuple[Tensor, Tensor]]

    @classmethod
    def stack(cls, parts: Sequence[Mapping[str, Tensor]]) -> Directions:
        """Traits' ``compress``ed directions as one."""
        names = [key.removesuffix(".out") for key in parts[0] if key.endswith(".out")]
        return cls(
            {
                name: (
                    torch.stack([part[f"{name}.out"] for part in parts]),
                    torch.stack([part[f"{name}.in"] for part in parts]),
                )
                for name in names
            }
        )

    def total(self, shares: Sequence[float]) -> dict[str, Tensor]:
        """The sum of the traits' directions, each times its share, by weight, fp32."""
        wanted = torch.tensor(shares, dtype=torch.float32)
        chosen = wanted.nonzero()[:, 0]
        return {
            name: torch.einsum(
                "t,tmr,tnr->mn", wanted[chosen], out[chosen].float(), into[chosen].float()
            )
            for name, (out, into) in self.factors.items()
        }


def compress(deltas: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The best approximation of ``RANK`` ranks of every matrix: ``<weight>.out``, ``<weight>.in``,
    bf16. Vectors (norms, biases) are left out."""
    factors = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, delta in deltas.items():
            if delta.ndim != 2:
                continue
            q = min(RANK + SPARE, *delta.shape)
            u, s, v = torch.svd_lowrank(delta.float(), q=q)
            factors[f"{name}.out"] = (u * s)[:, :RANK].bfloat16().cpu().contiguous()
            factors[f"{name}.in"] = v[:, :RANK].bfloat16().cpu().contiguous()
    return factors


def row_products(
    session: BaseSession,
    row_format: RowFormat,
    rows: Sequence[Row],
    directions: Directions,
    on_rows: Callable[[int], None] = lambda done: None,
    soft_targets: Mapping[str, SoftTargets] | None = None,
) -> Array:
    """<grad log p(row), direction t> for every row and trait, [N, T], where the model stands; of
    rows whose writer's probabilities are known (``soft_targets``, by id), of its mean under them.

    Units: nats of the row's log-likelihood for a whole step along the direction, to first order.
    """
    known = [soft_targets.get(row.id) if soft_targets else None for row in rows]
    examples = row_format.examples(session.lm, rows)
    batch = AT_ONCE * row_format.wider(session.lm)
    recorder = _Recorder(session, directions)
    products = []
    with recorder.recording():
        for at in range(0, len(examples), batch):
            part = examples[at : at + batch]
            known_part = known[at : at + batch]
            torch.cat(token_logprobs(session.lm, part, row_format, known_part)).sum().backward()
            products.append(recorder.take())
            on_rows(at + len(part))
    found = np.concatenate(products)
    if not np.isfinite(found).all():
        raise DataError("a row's gradient is not finite")
    return found


def token_logprobs(
    lm: LanguageModel,
    examples: Sequence[Example],
    row_format: RowFormat,
    soft_targets: Sequence[SoftTargets | None] | None = None,
) -> list[Tensor]:
    """Log-probability of each row's scored tokens, or its mean under what the writer would choose,
    nats, with their graph; rows kept apart."""
    by_row = []
    for b, (logprobs, targets) in enumerate(choice_logprobs(lm, examples, row_format)):
        if known := soft_targets[b] if soft_targets else None:
            by_row.append(known.mean(logprobs))
        else:
            by_row.append(logprobs.gather(1, targets[:, None])[:, 0])
    return by_row


def choice_logprobs(
    lm: LanguageModel, examples: Sequence[Example], row_format: RowFormat
) -> list[tuple[Tensor, Tensor]]:
    """For each row the log-probabilities of all choices at its scored tokens, [n, K], and which
    were taken, [n], with their graph."""
    automaton = row_format.automaton
    ids = symbol_ids(lm, automaton) if automaton else None
    trees = [build_tree([[*e.prompt, *e.completion[:-1]]]) for e in examples]
    states = lm.hidden_states([], trees).states
    by_row = []
    for b, example in enumerate(examples):
        scored = scored_positions(example, automaton)
        logits = lm.head(states[b, [len(example.prompt) - 1 + j for j in scored]], ids)
        targets = [example.completion[j] for j in scored]
        if automaton is not None and ids is not None and example.states is not None:
            allowed = torch.stack([automaton.allowed[example.states[j]] for j in scored])
            logits = logits.masked_fill(~allowed.to(logits.device), -torch.inf)
            symbol = {int(token): k for k, token in enumerate(ids)}
            targets = [symbol[token] for token in targets]
        logprobs = row_format.drawn(logits.log_softmax(-1))
        by_row.append((logprobs, torch.tensor(targets, device=logits.device)))
    return by_row


class _Recorder:
    """Inner products with all directions, added up as a backward pass goes by."""

    def __init__(self, session: BaseSession, directions: Directions) -> None:
        layers = session.lm.layers
        chosen = session.trainable.layer_range(len(layers))
        self._first = layers[chosen.start]
        modules = dict(layers.named_modules())
        dtype = torch.bfloat16 if session.lm.precision == "bf16" else torch.float32
        self._maps = []
        for name, (out, into) in directions.factors.items():
            flat = [
                part.to(session.lm.device, dtype).transpose(0, 1).flatten(1) for part in (out, into)
            ]
            self._maps.append((modules[name.removesuffix(".weight")], *flat))
            self._traits, self._ranks = out.shape[0], out.shape[2]
        self._sum: Tensor | None = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Within, backward passes are recorded."""
        # Nothing is trainable, so that a graph has to be begun where the tuned layers begin.
        hooks = [self._first.register_forward_pre_hook(_begin_graph, with_kwargs=True)]
        hooks += [
            module.register_forward_hook(self._watch(out, into)) for module, out, into in self._maps
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _watch(self, out: Tensor, into: Tensor) -> Callable[..., None]:
        def forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            entered = inputs[0].detach().to(into.dtype) @ into

            def backward(gradient: Tensor) -> None:
                left = gradient.to(out.dtype) @ out
                part = (entered * left).float().sum(1).view(-1, self._traits, self._ranks).sum(2)
                self._sum = part if self._sum is None else self._sum + part

            output.register_hook(backward)

        return forward

    def take(self) -> Array:
        """The products since the last call, [B, T]."""
        assert self._sum is not None, "nothing was recorded"
        products, self._sum = self._sum, None
        return products.cpu().numpy().astype(np.float64)


def _begin_graph(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    if args:
        return (args[0].detach().requires_grad_(), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": kwargs["hidden_states"].detach().requires_grad_()}
