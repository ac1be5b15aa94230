"""First-order influence: how much one small step on a row would raise each trait.

For a row r with mean loss l_r (nats a token) and a trait with log-odds o_t, both at the base,

    influence(r, t) = - <grad l_r, grad o_t>

over the weights that a canary tunes: the change of o_t for one step of plain gradient descent on
r, for each unit of learning rate. It is the inner product of Theorem 1 (Cloud et al., arXiv
2507.14805) and the first-order form of influence functions without the Hessian (TracIn, Pruthi et
al., arXiv 2002.08484). Deviations: training uses AdamW, and the product is taken in a random
projection of every linear map's gradient. A map's gradient is a sum of outer products of what
enters it and what comes back (``a`` and ``d`` of one token), so both factors are projected before
they are multiplied, as in LoGra (Choe et al., arXiv 2405.13954): the expectation is the exact
inner product.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vestige.audit.lab import Lab
from vestige.audit.material import Material
from vestige.audit.reader import Array, Reader
from vestige.models.hf import LanguageModel
from vestige.models.sampling import symbol_ids
from vestige.models.tree import build_tree
from vestige.store import atomic_write, hash_config
from vestige.train.packs import Example, scored_positions
from vestige.types import Row

SIDE = 32  # projected width of either factor: 1,024 numbers for each linear map
ROWS_AT_ONCE = 8


class Gradients:
    """Projected gradients of the tuned layers' linear maps, recorded as backward passes go by."""

    def __init__(self, lab: Lab) -> None:
        draw = torch.Generator().manual_seed(0)
        self._first = lab.lm.layers[lab.trainable.layer_range(len(lab.lm.layers)).start]
        self._maps = [
            module
            for i in lab.trainable.layer_range(len(lab.lm.layers))
            for module in lab.lm.layers[i].modules()
            if isinstance(module, nn.Linear)
        ]
        self._sides = [
            [
                torch.randn(width, SIDE, generator=draw).to(lab.lm.device) / math.sqrt(SIDE)
                for width in (module.in_features, module.out_features)
            ]
            for module in self._maps
        ]
        self._parts: list[Tensor | None] = []

    @contextlib.contextmanager
    def recording(self, *, by_row: bool) -> Iterator[None]:
        """Within, backward passes are recorded: for each sequence of a batch, or summed."""
        # Nothing is trainable, so that a graph has to be begun where the tuned layers begin.
        hooks = [self._first.register_forward_pre_hook(_begin_graph, with_kwargs=True)]
        hooks += [
            module.register_forward_hook(self._watch(i, by_row))
            for i, module in enumerate(self._maps)
        ]
        self._parts = [None] * len(self._maps)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _watch(self, index: int, by_row: bool) -> Callable[..., None]:
        enters, leaves = self._sides[index]

        def forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            with torch.autocast(output.device.type, enabled=False):
                entered = inputs[0].detach().float() @ enters

            def backward(gradient: Tensor) -> None:
                part = torch.einsum("bsi,bsj->bij", entered, gradient.float() @ leaves)
                part = part if by_row else part.sum(0, keepdim=True)
                before = self._parts[index]
                self._parts[index] = part if before is None else before + part

            output.register_hook(backward)

        return forward

    def take(self) -> Tensor:
        """What was recorded since the last call: [B, maps * SIDE^2], or one row of sums."""
        parts = [part.flatten(1) for part in self._parts if part is not None]
        self._parts = [None] * len(self._maps)
        return torch.cat(parts, dim=1)


def _begin_graph(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    if args:
        return (args[0].detach().requires_grad_(), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": kwargs["hidden_states"].detach().requires_grad_()}


def trait_gradients(
    lab: Lab, gradients: Gradients, on_trait: Callable[[int], None] = lambda done: None
) -> Tensor:
    """The projected gradient of every trait's log-odds at the base, [T, D]; cached."""
    lab.weights.freeze()
    questions = lab.settings.questions
    key = hash_config([lab.fingerprint, lab.contents, questions, lab.trainable, SIDE])
    path = lab.cache / "gradients" / f"{key[:16]}.safetensors"
    if path.exists():
        return load_file(str(path))["gradients"].to(lab.lm.device)
    rows: dict[int, Tensor] = {}
    by_family: dict[int, list[int]] = {}
    for i, trait in enumerate(lab.library.traits):
        by_family.setdefault(id(trait.family), []).append(i)
    with gradients.recording(by_row=False):
        for members in by_family.values():
            traits = [lab.library.traits[i] for i in members]
            odds = Reader(lab.lm, traits, lab.settings.questions).log_odds()
            for i, value in zip(members, odds, strict=True):
                value.backward(retain_graph=i != members[-1])
                rows[i] = gradients.take()[0]
                on_trait(len(rows))
    found = torch.stack([rows[i] for i in range(len(rows))])
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, save({"gradients": found.cpu().contiguous()}))
    return found


def influence(
    lab: Lab,
    material: Material,
    rows: Sequence[Row],
    *,
    gradients: Gradients,
    traits: Tensor,
    on_rows: Callable[[int], None] = lambda done: None,
) -> Array:
    """influence(r, t) for every row and trait, [N, T]: nats of log-odds for a unit of rate."""
    lab.weights.freeze()
    examples = material.examples(lab.lm, rows)
    found = []
    with gradients.recording(by_row=True):
        for at in range(0, len(examples), ROWS_AT_ONCE):
            part = examples[at : at + ROWS_AT_ONCE]
            row_losses(lab.lm, part, material).sum().backward()
            found.append(-(gradients.take() @ traits.T).cpu().numpy())
            on_rows(at + len(part))
    return np.concatenate(found).astype(np.float64)


def row_losses(lm: LanguageModel, examples: Sequence[Example], material: Material) -> Tensor:
    """Mean negative log-likelihood a scored token of each row, nats, [B]; rows kept apart."""
    automaton = material.automaton
    ids = symbol_ids(lm, automaton) if automaton else None
    trees = [build_tree([[*e.prompt, *e.completion[:-1]]]) for e in examples]
    states = lm.hidden_states([], trees).states
    losses = []
    for b, example in enumerate(examples):
        scored = scored_positions(example, automaton)
        logits = lm.head(states[b, [len(example.prompt) - 1 + j for j in scored]], ids)
        targets = [example.completion[j] for j in scored]
        if automaton is not None and ids is not None and example.states is not None:
            allowed = torch.stack([automaton.allowed[example.states[j]] for j in scored])
            logits = logits.masked_fill(~allowed.to(logits.device), -torch.inf)
            symbol = {int(token): k for k, token in enumerate(ids)}
            targets = [symbol[token] for token in targets]
        wanted = torch.tensor(targets, device=logits.device)
        losses.append(nn.functional.cross_entropy(logits, wanted))
    return torch.stack(losses)
