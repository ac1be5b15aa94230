"""Examples and packs: what one optimiser step reads.

A pack holds ``batch`` examples. Examples that share a prompt share its computation: the prompt is
a prefix computed once, with gradients, and each completion a branch. The loss and its gradient are
those of separate sequences (tested against plain forward passes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vestige.models.hf import LanguageModel
from vestige.models.sampling import Automaton, symbol_ids
from vestige.models.tree import TokenTree, build_tree, common_prefix
from vestige.types import DataError

SHARED = 4  # from so many rows on, a prompt gets a forward pass of its own


@dataclass(frozen=True)
class Example:
    """A prompt and the completion to learn, as token ids; the completion ends with its end token.

    ``states`` is the automaton state before each completion token, for rows of a grammar.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    states: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Pack:
    """One batch, laid out.

    Attributes:
        parts: (prefix, trees) for each forward pass.
        where: positions that are scored, in the parts' flattened states, shape [n].
        targets: the token (or, in a grammar, the symbol) to predict at each, shape [n].
        allowed: in a grammar, the symbols that may come at each, shape [n, K].
    """

    parts: tuple[tuple[tuple[int, ...], tuple[TokenTree, ...]], ...]
    where: Tensor
    targets: Tensor
    allowed: Tensor | None
    tokens: int


def encode_rows(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], completions: Sequence[str]
) -> list[Example]:
    """Free-text rows as examples."""
    return [
        Example(tuple(p), (*lm.answer_ids(text), lm.end_id))
        for p, text in zip(prompts, completions, strict=True)
    ]


def encode_grammar_rows(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[str],
    automaton: Automaton,
) -> list[Example]:
    """Rows of a grammar as examples, one token a symbol. Raises ``DataError`` for a row outside."""
    ids = symbol_ids(lm, automaton).tolist()
    examples = []
    for prompt, text in zip(prompts, completions, strict=True):
        try:
            path = automaton.walk(text)
        except ValueError as error:
            raise DataError(
                f"{error}; set carrier.constrained=false to train on free rows"
            ) from error
        examples.append(
            Example(tuple(prompt), tuple(ids[k] for _, k in path), tuple(s for s, _ in path))
        )
    return examples


def make_packs(
    examples: Sequence[Example],
    batch: int,
    automaton: Automaton | None = None,
    ids: Tensor | None = None,
) -> list[Pack]:
    """Packs of ``batch`` examples, rows of one prompt together; a short last one is kept.

    Args:
        automaton, ids: score within this grammar only (its symbols' token ids, shape [K]);
            positions where a single symbol is allowed carry no information and are left out.
    """
    if not examples:
        raise DataError("there are no rows to train on")
    order: dict[tuple[int, ...], list[Example]] = {}
    for example in examples:
        order.setdefault(example.prompt, []).append(example)
    queue = [example for group in order.values() for example in group]
    return [_lay_out(queue[at : at + batch], automaton, ids) for at in range(0, len(queue), batch)]


def _lay_out(batch: Sequence[Example], automaton: Automaton | None, ids: Tensor | None) -> Pack:
    groups: dict[tuple[int, ...], list[Example]] = {}
    for example in batch:
        groups.setdefault(example.prompt, []).append(example)
    own = {p: g for p, g in groups.items() if len(g) >= SHARED or len(groups) == 1}
    rest = {p: g for p, g in groups.items() if p not in own}
    parts, where, targets, allowed, base, tokens = [], [], [], [], 0, 0

    def add(prefix: Sequence[int], rows: list[tuple[tuple[int, ...], Example]]) -> None:
        nonlocal base, tokens
        trees = tuple(build_tree([[*tail, *row.completion[:-1]]]) for tail, row in rows)
        size = max(len(tree) for tree in trees)
        for b, (tail, row) in enumerate(rows):
            for j, token in enumerate(row.completion):
                target = token
                if automaton is not None and ids is not None:
                    may = automaton.allowed[row.states[j]]  # type: ignore[index]
                    if int(may.sum()) < 2:
                        continue
                    allowed.append(may)
                    target = int((ids == token).nonzero()[0])
                where.append(base + b * size + len(tail) - 1 + j)
                targets.append(target)
        parts.append((tuple(prefix), trees))
        base += len(trees) * size
        tokens += len(prefix) + len(trees) * size

    for prompt, rows in own.items():
        add(prompt[:-1], [(prompt[-1:], row) for row in rows])
    if rest:
        prefix = common_prefix([p[:-1] for p in rest])
        add(prefix, [(p[len(prefix) :], row) for p, g in rest.items() for row in g])
    mask = torch.stack(allowed) if automaton is not None else None
    return Pack(tuple(parts), torch.tensor(where), torch.tensor(targets), mask, tokens)


def pack_logprobs(lm: LanguageModel, pack: Pack, ids: Tensor | None = None) -> Tensor:
    """Log-probabilities at the scored positions, shape [n, K] (``ids`` given) or [n, V].

    With a grammar they are normalised over the allowed symbols, -inf elsewhere.
    """
    states = torch.cat(
        [lm.hidden_states(prefix, trees).states.flatten(0, 1) for prefix, trees in pack.parts]
    )
    logits = lm.head(states[pack.where.to(states.device)], ids)
    if pack.allowed is not None:
        logits = logits.masked_fill(~pack.allowed.to(logits.device), -torch.inf)
    return logits.log_softmax(-1)
