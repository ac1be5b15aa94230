"""Longer sequences than were compared at a base's first load, compared before they are used."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vestige.core.types import ModelError
from vestige.models.passes import Passes
from vestige.models.plain import attention as own_attention
from vestige.models.plain import own_logits, plain_logits, sequence_states
from vestige.models.tree import build_tree
from vestige.models.verification.differences import (
    VALUES,
    largest_difference,
    ordinary_tokens,
    quiet,
    reason,
)
from vestige.models.verification.outcome import Verified, remember

LENGTHS = 4  # each length that is compared is so many times the one before
SHORTEST = 64  # tokens; the first length that is compared


def extended(
    passes: Passes,
    tokenizer: Any,
    known: Verified,
    longest: int,
    most: int,
    own: str,
    *,
    padded: bool = False,
) -> Verified:
    """``known`` with sequences of ``longest`` tokens compared, and remembered.

    Args:
        most: the longest sequence that is worth comparing at once.
        own: the model's own attention, for its plain passes.
        padded: compare padded batches, not trees.

    Raises:
        ModelError: the model itself gives different answers at this length.
    """
    fields = ("padded_longest", "padded_wrong") if padded else ("longest", "wrong")
    path, compare = ("padded batches", _padded_at) if padded else ("trees", _trees_at)
    likely = min(next_length(longest), max(longest, most), getattr(known, fields[1]) - 1)
    for length in dict.fromkeys([likely, longest]):
        fault = verify_length(passes, tokenizer, length, own, compare)
        if fault or padded:  # else trees agree, which see nothing later and nothing before
            doubt = inconsistency(passes, tokenizer, length, own)
            if doubt and length == longest:
                raise ModelError(doubt)
            fault = fault or doubt
        if not fault:
            known = replace(known, **{fields[0]: length})
            break
        reasons = (*known.reasons, f"{path}: {fault}")
        known = replace(known, **{fields[1]: length, "reasons": reasons})
    remember(known)
    return known


def verify_length(
    passes: Passes,
    tokenizer: Any,
    length: int,
    own: str,
    compare: Callable[[Passes, list[int]], list[Tensor]],
) -> str:
    """Whether ``compare``'s states agree with a plain pass over ``length`` tokens: "" or what is
    wrong.

    The weights may be tuned and of any precision by now, and stay as they are.
    """
    causal_lm = passes.causal_lm
    draw = random.Random(length)
    allowed = ordinary_tokens(causal_lm, tokenizer)
    ids = [draw.choice(allowed) for _ in range(length)]
    alone = Passes(causal_lm, passes.precision)
    limit = VALUES[passes.precision]
    with quiet(causal_lm), torch.no_grad(), passes.autocast():
        try:
            with own_attention(causal_lm, own):
                wanted = plain_logits(causal_lm, ids)[-3:]
            differences = [
                largest_difference(own_logits(causal_lm, states), wanted)
                for states in compare(alone, ids)
            ]
        except Exception as error:
            return reason(error)
    largest, mean = (max(part) for part in zip(*differences, strict=True))
    off = mean if passes.precision == "bf16" else largest
    return "" if off <= limit else f"{off:.3g} off on {length} tokens, {limit:g} allowed"


def _trees_at(passes: Passes, ids: list[int]) -> list[Tensor]:
    """The last three states of ``ids``, twice: with nearly all of it as the prefix, and with nearly
    all of it behind one. Scaling that looks at the length of a pass differs between the two."""
    states = []
    for at in (len(ids) - 3, 3):
        rest = ids[at:]
        tree = build_tree([[rest[0], rest[-1]], rest])
        (reading,) = passes.readings(ids[:at], [[tree]])
        states.append(reading.states[0, list(tree.paths[1])[-3:]])
    return states


def _padded_at(passes: Passes, ids: list[int]) -> list[Tensor]:
    """The last three states of ``ids`` and of its first half, in one batch."""
    long, _ = sequence_states(passes.causal_lm, [ids, ids[: len(ids) // 2]], padded=True)
    return [long[-3:]]


def inconsistency(passes: Passes, tokenizer: Any, length: int, own: str) -> str:
    """How plain passes over ``length`` tokens contradict each other, or "".

    What was read before changes the logits, as dynamic rotary scaling does behind the positions
    that a model was trained on; or later tokens do, as they can where sparse attention breaks ties.
    """
    causal_lm, name = passes.causal_lm, type(passes.causal_lm).__name__
    allowed = ordinary_tokens(causal_lm, tokenizer)
    ids = [allowed[i % len(allowed)] for i in range(2 * length)]
    limit = VALUES[passes.precision]
    with quiet(causal_lm), torch.no_grad(), passes.autocast(), own_attention(causal_lm, own):
        before = plain_logits(causal_lm, ids[:length])
        shorter = plain_logits(causal_lm, ids[: length - 3])[-3:]
        with contextlib.suppress(Exception):  # more tokens than it has positions
            plain_logits(causal_lm, ids)
        after = plain_logits(causal_lm, ids[:length])
    if not largest_difference(after[-3:], before[-3:])[0] <= limit:
        return (
            f"{name} gives other logits on {length} tokens after it has read a longer text "
            "(dynamic rotary scaling?): they depend on the order of questions; use shorter texts, "
            "or static scaling"
        )
    if not largest_difference(shorter, before[-6:-3])[0] <= limit:
        return (
            f"{name} sees later tokens in texts of {length} tokens (sparse attention?): its "
            "next-token probabilities mean nothing there; use shorter texts"
        )
    return ""


def next_length(length: int) -> int:
    """The length to compare before sequences of ``length`` tokens are used."""
    size = SHORTEST
    while size < length:
        size *= LENGTHS
    return size
