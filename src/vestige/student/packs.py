"""Examples and packs: what one optimiser step reads.

A pack holds ``batch`` examples. Examples that share a prompt share its computation: the prompt is
a prefix computed once, with gradients, and each completion a branch. The loss and its gradient are
those of separate sequences (tested against plain forward passes).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vestige.core.types import DataError
from vestige.models.grammar import Automaton
from vestige.models.hf import LanguageModel
from vestige.models.sampling import symbol_ids
from vestige.models.tree import TokenTree, build_tree, common_prefix

SHARED = 4  # from so many rows on, a prompt gets a forward pass of its own; chosen


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
        rows: which example each row is, in the order of the scored positions.
        counts: scored positions of each row.
        where: positions that are scored, in the parts' flattened states, shape [n].
        targets: the token (or, in a grammar, the symbol) to predict at each, shape [n].
        allowed: in a grammar, the symbols that may come at each, shape [n, K].
    """

    parts: tuple[tuple[tuple[int, ...], tuple[TokenTree, ...]], ...]
    rows: tuple[int, ...]
    counts: tuple[int, ...]
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
    *,
    prompts: int = 1,
    shared: int = SHARED,
    automaton: Automaton | None = None,
    ids: Tensor | None = None,
) -> list[Pack]:
    """Packs of ``batch`` examples; a short last one is kept.

    Args:
        prompts: how many prompts a pack draws its rows from. One prompt is the cheapest (computed
            once); several make the batches more alike.
        shared: rows from which on a prompt gets a forward pass of its own.
        automaton, ids: score within this grammar only (its symbols' token ids, shape [K]);
            positions where a single symbol is allowed carry no information and are left out.
    """
    if not examples:
        raise DataError("there are no rows to train on")
    order = interleave([example.prompt for example in examples], batch, prompts)
    return [
        _lay_out([(i, examples[i]) for i in order[start : start + batch]], shared, automaton, ids)
        for start in range(0, len(order), batch)
    ]


def interleave(prompt_of: Sequence[Hashable], batch: int, prompts: int) -> list[int]:
    """Indices of rows in the order of batches: ``prompts`` prompts at a time take turns, each
    giving ``batch // prompts`` rows to a batch."""
    groups: dict[Hashable, list[int]] = {}
    for index, prompt in enumerate(prompt_of):
        groups.setdefault(prompt, []).append(index)
    queues, share = list(groups.values()), max(1, batch // prompts)
    order: list[int] = []
    for start in range(0, len(queues), prompts):
        turn = [list(queue) for queue in queues[start : start + prompts]]
        while any(turn):
            for queue in turn:
                order += queue[:share]
                del queue[:share]
    return order


def _lay_out(
    batch: Sequence[tuple[int, Example]],
    shared: int,
    automaton: Automaton | None,
    ids: Tensor | None,
) -> Pack:
    groups: dict[tuple[int, ...], list[tuple[int, Example]]] = {}
    for index, example in batch:
        groups.setdefault(example.prompt, []).append((index, example))
    own = [(p[:-1], g) for p, g in groups.items() if len(g) >= shared or len(groups) == 1]
    rest = {p: g for p, g in groups.items() if len(g) < shared and len(groups) > 1}
    if rest:
        own.append(
            (tuple(common_prefix([p[:-1] for p in rest])), [r for g in rest.values() for r in g])
        )
    symbol = {} if ids is None else {int(token): k for k, token in enumerate(ids)}
    parts, rows, counts, where, targets, allowed = [], [], [], [], [], []
    base = tokens = 0
    for prefix, members in own:
        tails = [row.prompt[len(prefix) :] for _, row in members]
        trees = tuple(
            build_tree([[*tail, *row.completion[:-1]]])
            for tail, (_, row) in zip(tails, members, strict=True)
        )
        size = max(len(tree) for tree in trees)
        for b, (tail, (index, row)) in enumerate(zip(tails, members, strict=True)):
            scored = scored_positions(row, automaton)
            where += [base + b * size + len(tail) - 1 + j for j in scored]
            targets += [symbol.get(row.completion[j], row.completion[j]) for j in scored]
            if automaton is not None and row.states is not None:
                allowed += [automaton.allowed[row.states[j]] for j in scored]
            rows.append(index)
            counts.append(len(scored))
        parts.append((tuple(prefix), trees))
        base += len(trees) * size
        tokens += len(prefix) + len(trees) * size
    return Pack(
        tuple(parts),
        tuple(rows),
        tuple(counts),
        torch.tensor(where),
        torch.tensor(targets),
        torch.stack(allowed) if automaton is not None else None,
        tokens,
    )


def scored_positions(row: Example, automaton: Automaton | None) -> list[int]:
    """Completion tokens that carry information: all, or those where a grammar leaves a choice."""
    if automaton is None or row.states is None:
        return list(range(len(row.completion)))
    return [j for j, state in enumerate(row.states) if int(automaton.allowed[state].sum()) > 1]


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
