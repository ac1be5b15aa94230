"""The fast path: shared prefixes and token trees, computed once where sequences agree.

It is right for models whose attention takes a mask and positions as they are given, which
``verification`` finds out for each base; ``plain`` is the model's own way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache

from vestige.models.frozen import Below
from vestige.models.tree import TokenTree

PIECE = 512  # tokens of a shared prefix that are read at a time


@dataclass(frozen=True)
class Reading:
    """Hidden states of a batch of trees: [trees, S, width], padded with whatever the model gave."""

    states: Tensor
    trees: tuple[TokenTree, ...]


@dataclass(frozen=True)
class _LaidOut:
    """A batch of trees behind a prefix as arrays: tokens, places [B, S], sees [B, 1, S, P + S]."""

    tokens: NDArray[np.int64]
    places: NDArray[np.int64]
    sees: NDArray[np.bool_]

    @classmethod
    def of(cls, start: int, trees: Sequence[TokenTree], apart: int = 0) -> _LaidOut:
        size = max(len(t) for t in trees)
        tokens = np.zeros((len(trees), size), dtype=np.int64)
        places = np.zeros_like(tokens)
        sees = np.zeros((len(trees), 1, size, start + size), dtype=bool)
        sees[..., start:] |= np.eye(size, dtype=bool)
        sees[..., :start] = True
        for b, tree in enumerate(trees):
            n = len(tree)
            tokens[b, :n], places[b, :n] = tree.tokens, tree.depths + start
            sees[b, 0, :n, start : start + n] = tree.ancestor_mask()
        if apart:
            sees = np.insert(sees, [start] * apart, False, axis=-1)
        return cls(tokens, places, sees)

    @property
    def key(self) -> tuple[Any, ...]:
        """What the states depend on, besides the prefix."""
        return self.tokens.shape, self.tokens.tobytes(), sha256(self.sees.tobytes()).digest()


class Passes:
    """Forward passes of one transformers model over trees and branches.

    Attributes:
        causal_lm: the model, without a PEFT wrapper (adapters stay in place).
        precision: ``bf16`` runs matrix products in bfloat16 by autocast, ``fp32`` nothing.
        below: states of the layers that are never tuned, once somebody has said which.
    """

    def __init__(self, causal_lm: nn.Module, precision: Literal["bf16", "fp32"]) -> None:
        self.causal_lm = causal_lm
        self.precision: Literal["bf16", "fp32"] = precision
        self.below = Below(decoder_layers(causal_lm) or nn.ModuleList())

    @property
    def device(self) -> torch.device:
        return next(self.causal_lm.parameters()).device

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """The precision that the model computes in."""
        enabled = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            yield

    def readings(
        self,
        prefix: Sequence[int],
        batches: Sequence[Sequence[TokenTree]],
        *,
        apart: int = 0,
    ) -> list[Reading]:
        """Final hidden states of several batches of trees; the prefix is computed once for all.

        Args:
            apart: places between the prefix and the trees that nobody sees, as those of other
                branches are. They change nothing in a model whose attention goes by the mask.
        """
        laid = [_LaidOut.of(len(prefix), trees, apart) for trees in batches]
        key = (tuple(prefix), *(part.key for part in laid))
        with self.autocast(), self.below.reuse(key):
            cache = self._prefix(prefix)
            if apart:
                spread_out(cache, apart)
            readings = []
            for part, trees in zip(laid, batches, strict=True):
                states = decoder_of(self.causal_lm)(
                    input_ids=torch.from_numpy(part.tokens).to(self.device),
                    position_ids=torch.from_numpy(part.places).to(self.device),
                    attention_mask=self.mask_for(torch.from_numpy(part.sees).to(self.device)),
                    past_key_values=branched(cache, len(trees)),
                    use_cache=True,
                ).last_hidden_state
                readings.append(Reading(states, tuple(trees)))
        return readings

    def _prefix(self, prefix: Sequence[int]) -> DynamicCache:
        """Keys and values of ``prefix``, read a piece at a time: attention over the whole of a
        long one would be quadratic in memory."""
        cache = DynamicCache()
        for at in range(0, len(prefix), PIECE):
            piece = torch.tensor([list(prefix[at : at + PIECE])], device=self.device)
            n = piece.shape[1]
            options: dict[str, Any] = {}
            if at:
                places = torch.arange(at, at + n, device=self.device)
                sees = torch.arange(at + n, device=self.device) <= places[:, None]
                options = {
                    "position_ids": places[None],
                    "attention_mask": self.mask_for(sees[None, None]),
                }
            decoder_of(self.causal_lm)(
                input_ids=piece, past_key_values=cache, use_cache=True, **options
            )
        return cache

    @property
    def window(self) -> int | None:
        """Tokens that a sliding attention layer sees; None if no layer slides."""
        kinds = set(getattr(self.causal_lm.config, "layer_types", None) or ())
        slides = not kinds or "sliding_attention" in kinds  # Mistral, Phi-3: every layer, unnamed
        return (getattr(self.causal_lm.config, "sliding_window", None) or None) if slides else None

    def mask_for(self, sees: Tensor) -> Any:
        """``sees`` [B, 1, S, K] in the form the model's layers take: one, or one for each kind."""
        kinds = set(getattr(self.causal_lm.config, "layer_types", None) or ())
        floor = torch.finfo(torch.bfloat16 if self.precision == "bf16" else torch.float32).min
        additive = torch.zeros(sees.shape, device=sees.device).masked_fill(~sees, floor)
        return {kind: additive for kind in kinds} if len(kinds) > 1 else additive


class Branches:
    """P prompts with R continuations each, which share their prompt's cache.

    Every step adds one token to each branch: R nodes to each prompt's sequence, which see the
    prompt and their own branch. ``states`` are the branches' last hidden states, [P * R, width].
    """

    def __init__(self, passes: Passes, prompts: Sequence[Sequence[int]], rows: int) -> None:
        self.passes, self.rows = passes, rows
        ids, mask = (part.to(passes.device) for part in pad_left(prompts))
        place = (mask.cumsum(1) - 1).clamp(min=0)
        self.cache = DynamicCache()
        with passes.autocast():
            states = decoder_of(passes.causal_lm)(
                input_ids=ids,
                attention_mask=mask,
                position_ids=place,
                past_key_values=self.cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
        self.states = states.repeat_interleave(rows, dim=0)
        self.place = place[:, -1:].expand(-1, rows)
        self.sees = mask.bool()[:, None, None, :].expand(-1, 1, rows, -1)
        eye = torch.eye(rows, dtype=torch.bool, device=passes.device)
        self.own = eye.expand(len(prompts), 1, -1, -1)

    def extend(self, tokens: Tensor) -> None:
        """Add one token [P * R] to every branch."""
        self.place = self.place + 1
        self.sees = torch.cat([self.sees, self.own], dim=-1)
        with self.passes.autocast():
            states = decoder_of(self.passes.causal_lm)(
                input_ids=tokens.view(-1, self.rows),
                attention_mask=self.passes.mask_for(self.sees),
                position_ids=self.place,
                past_key_values=self.cache,
                use_cache=True,
            ).last_hidden_state
        self.states = states.flatten(0, 1)


def decoder_of(causal_lm: nn.Module) -> nn.Module:
    """The part that turns tokens into the states that the head reads.

    transformers looks it up by name, and takes some models' head for it, or the model itself.
    """
    decoder = causal_lm.get_decoder()  # type: ignore[operator]
    if decoder is not causal_lm and not isinstance(decoder, nn.Linear):
        return decoder
    parts = [
        part
        for part in causal_lm.children()
        if any(isinstance(inner, nn.ModuleList) for inner in part.modules())
    ]
    size = lambda part: sum(p.numel() for p in part.parameters())  # noqa: E731
    return max(parts, key=size, default=decoder)


def decoder_layers(causal_lm: nn.Module) -> nn.ModuleList | None:
    """The decoder layers, first to last, whatever they are called; None where there are none."""
    decoder = decoder_of(causal_lm)
    config = causal_lm.config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]
    count = getattr(config, "num_hidden_layers", None)
    lists = [part for part in decoder.modules() if isinstance(part, nn.ModuleList) and len(part)]
    return next((part for part in lists if len(part) == count), None)


def pad_left(prompts: Sequence[Sequence[int]], fill: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of prompts that end together, both [prompts, longest]."""
    width = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), width), fill)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[i, width - len(prompt) :] = 1
    return ids, mask


def spread_out(cache: DynamicCache, places: int) -> None:
    """Put so many more keys and values behind those that ``cache`` holds."""
    layers: Any = cache.layers
    for layer in layers:
        layer.keys, layer.values = (
            torch.cat([part, part[:, :, -1:].expand(-1, -1, places, -1)], dim=2)
            for part in (layer.keys, layer.values)
        )


def branched(cache: DynamicCache, copies: int) -> DynamicCache:
    """``cache`` for ``copies`` sequences; the given one stays as it is."""
    copied = DynamicCache()
    layers: Any = cache.layers
    for number, layer in enumerate(layers):
        if layer.get_seq_length():  # layers that were skipped hold nothing
            keys, values = (
                part.repeat_interleave(copies, dim=0) for part in (layer.keys, layer.values)
            )
            copied.update(keys, values, number)
    return copied
