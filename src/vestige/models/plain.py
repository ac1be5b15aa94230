"""The model's own forward pass: what every fast path is compared with, and what stands in for it.

Nothing of a model is written again here. Its decoder's states are taken where its own forward pass
computes them, and its own forward pass turns states into logits: whatever scales, caps or
normalises logits is the model's own code.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from vestige.core.types import ModelError
from vestige.models.passes import decoder_of
from vestige.models.tree import TokenTree

TOKENS_AT_ONCE = 2048  # of sequences in one padded forward pass


class _Given(BaseModelOutputWithPast):
    """A decoder's output that holds its states, and None for whatever else is asked of it."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@contextlib.contextmanager
def replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within, ``module`` computes ``forward``."""
    own = vars(module).get("forward")  # a hook's own, if there is one
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


@contextlib.contextmanager
def attention(causal_lm: nn.Module, name: str) -> Iterator[None]:
    """Within, a model attends by the implementation ``name``."""
    now = causal_lm.config._attn_implementation  # type: ignore[union-attr]
    causal_lm.set_attn_implementation(name)  # type: ignore[operator]
    try:
        yield
    finally:
        causal_lm.set_attn_implementation(now)  # type: ignore[operator]


def own_logits(causal_lm: nn.Module, states: Tensor, token_ids: Tensor | None = None) -> Tensor:
    """The logits that the model makes of its decoder's last states: [N, width] -> [N, V or K].

    The model's forward pass runs with ``states`` in place of its decoder's. For ``token_ids``,
    shape [K], its output layer computes these tokens alone, in fp32.
    """
    decoder = decoder_of(causal_lm)
    layer = causal_lm.get_output_embeddings()  # type: ignore[operator]
    given = _Given(last_hidden_state=states[None])
    tokens = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(decoder, lambda *args, **kwargs: given))
        if token_ids is not None and isinstance(layer, nn.Linear):
            bias = None if layer.bias is None else layer.bias[token_ids].float()
            weight = layer.weight[token_ids].float()

            def narrow(x: Tensor) -> Tensor:
                with torch.autocast(x.device.type, enabled=False):
                    return nn.functional.linear(x.float(), weight, bias)

            stack.enter_context(replaced(layer, narrow))
        logits = causal_lm(input_ids=tokens, **_without_cache(causal_lm)).logits[0].float()
    if token_ids is not None and logits.shape[-1] != len(token_ids):
        logits = logits[:, token_ids]
    return logits


def plain_states(causal_lm: nn.Module, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """The decoder's last states in the model's own forward pass over ``ids`` [B, S]."""
    states: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        states.append(
            output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]
        )

    options = _without_cache(causal_lm)
    if mask is not None:
        options["attention_mask"] = mask
    if "logits_to_keep" in inspect.signature(causal_lm.forward).parameters:
        options["logits_to_keep"] = 1  # they are not looked at
    hook = decoder_of(causal_lm).register_forward_hook(keep)
    try:
        causal_lm(input_ids=ids, **options)
    finally:
        hook.remove()
    if not states or states[-1].shape[:2] != ids.shape:
        raise ModelError(f"{type(causal_lm).__name__} does not show its decoder's states")
    return states[-1]


def plain_logits(causal_lm: nn.Module, ids: Sequence[int]) -> Tensor:
    """Logits of one sequence from the model's own forward pass and nothing else: [S, V].

    No padding, no mask, no cache, no hooks: every other path has to agree with this one.
    """
    device = next(causal_lm.parameters()).device
    tokens = torch.tensor([list(ids)], device=device)
    return causal_lm(input_ids=tokens, **_without_cache(causal_lm)).logits[0].float()


def sequence_states(
    causal_lm: nn.Module, sequences: Sequence[Sequence[int]], *, padded: bool
) -> list[Tensor]:
    """The decoder's states over each sequence, [length, width]; several at a time if ``padded``."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    states_by_index: dict[int, Tensor] = {}
    device = next(causal_lm.parameters()).device
    while order:
        longest = len(sequences[order[-1]])
        count = max(1, TOKENS_AT_ONCE // longest) if padded else 1
        part, order = order[-count:], order[:-count]
        ids = torch.zeros(len(part), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(part):
            ids[row, : len(sequences[i])] = torch.tensor(list(sequences[i]))
            mask[row, : len(sequences[i])] = 1
        states = plain_states(causal_lm, ids.to(device), mask.to(device) if padded else None)
        states_by_index |= {i: states[row, : len(sequences[i])] for row, i in enumerate(part)}
    return [states_by_index[i] for i in range(len(sequences))]


def tree_states(
    causal_lm: nn.Module, prefix: Sequence[int], trees: Sequence[TokenTree], *, padded: bool
) -> Tensor:
    """States of every tree's nodes, [B, S, width], from one sequence for each leaf."""
    sequences: list[list[int]] = []
    places: list[list[tuple[int, int]]] = []  # of each tree's nodes: sequence, position
    for tree in trees:
        place: dict[int, tuple[int, int]] = {}
        for leaf in np.setdiff1d(np.arange(len(tree)), tree.parents):
            chain = np.flatnonzero(tree.ancestor_mask()[leaf])
            chain = chain[np.argsort(tree.depths[chain])]
            for depth, node in enumerate(chain.tolist()):
                place[node] = (len(sequences), len(prefix) + depth)
            sequences.append([*prefix, *tree.tokens[chain].tolist()])
        places.append([place[node] for node in range(len(tree))])
    states = sequence_states(causal_lm, sequences, padded=padded)
    size = max(map(len, trees))
    rows = [torch.stack([states[sequence][at] for sequence, at in nodes]) for nodes in places]
    return torch.stack([nn.functional.pad(row, (0, 0, 0, size - len(row))) for row in rows])


def _without_cache(causal_lm: nn.Module) -> dict[str, Any]:
    parameters = inspect.signature(causal_lm.forward).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return {"use_cache": False} if open_ended or "use_cache" in parameters else {}
