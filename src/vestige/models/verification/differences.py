"""Differences of logits, in units of the model's own spread, and how large they may be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

#: Allowed differences of log-probabilities, in units of the spread: the largest in fp32, the mean
#: in bf16. Chosen above what rounding makes and below what a wrong mask or position makes.
VALUES = {"fp32": 1e-3, "bf16": 0.05}
#: Allowed norm of the gradients' difference, as a share of their norm; chosen in the same way.
GRADIENTS = {"fp32": 1e-3, "bf16": 0.1}


def ordinary_tokens(causal_lm: nn.Module, tokenizer: Any) -> list[int]:
    """Up to a thousand tokens that stand for text: no padding, no ends, no images."""
    rows = causal_lm.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    size = min(rows, len(tokenizer)) if tokenizer is not None else rows
    config = causal_lm.config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]
    special = {getattr(config, f"{kind}_token_id", None) for kind in ("pad", "bos", "eos")}
    special |= set(getattr(tokenizer, "all_special_ids", ()))
    stride = max(1, size // 1000)
    return [i for i in range(min(3, size - 1), size, stride) if i not in special]


def spread_of(logits: Tensor) -> float:
    """The mean standard deviation of log-probabilities over the vocabulary, in nats."""
    return max(float(logits.double().std(-1).mean()), 1e-9)


def largest_difference(logits: Tensor, wanted: Tensor) -> tuple[float, float]:
    """(largest, mean) difference of log-probabilities, in units of ``wanted``'s spread."""
    gap = (logits.double().log_softmax(-1) - wanted.double().log_softmax(-1)).abs()
    spread = spread_of(wanted)
    return float(gap.max()) / spread, float(gap.mean()) / spread


def reason(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


@contextlib.contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Within, nobody's hooks see the passes, and random numbers are as they were afterwards."""
    kept = [(m, m._forward_hooks, m._forward_pre_hooks) for m in model.modules()]
    for module, hooks, before in kept:
        if hooks or before:
            module._forward_hooks, module._forward_pre_hooks = type(hooks)(), type(before)()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for module, hooks, before in kept:
            if hooks or before:
                module._forward_hooks, module._forward_pre_hooks = hooks, before
