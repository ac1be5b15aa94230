"""Grammars of single characters, as automata that any backend can sample inside."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from vestige.core.types import ConfigError
from vestige.models.chat import Chat

END = ""  # the grammar's name for the end of the answer


@dataclass(frozen=True)
class Automaton:
    """A grammar over K tokens with T states; state 0 begins.

    Attributes:
        symbols: the K symbols: single characters, and ``END``.
        allowed: whether a symbol may come in a state, shape [T, K].
        step: the state that follows, shape [T, K]; -1 where not allowed or at the end.
    """

    symbols: tuple[str, ...]
    allowed: Tensor
    step: Tensor

    def walk(self, text: str) -> list[tuple[int, int]]:
        """(state, symbol index) of each character and the end. ``ValueError`` if outside."""
        state, path = 0, []
        for symbol in [*text, END]:
            k = self.symbols.index(symbol)
            if not self.allowed[state, k]:
                raise ValueError(f"{text!r} is not in the grammar (at {symbol!r})")
            path.append((state, k))
            state = int(self.step[state, k])
        return path

    def ebnf(self) -> str:
        """The same grammar as rules, one for each state, for engines that take such text."""
        rules = ["root ::= s0"]
        for state, row in enumerate(self.step.tolist()):
            ways = [
                f"{json.dumps(symbol)} s{row[k]}" if symbol != END else '""'
                for k, symbol in enumerate(self.symbols)
                if self.allowed[state, k]
            ]
            rules.append(f"s{state} ::= {' | '.join(ways)}")
        return "\n".join(rules)


def compile_grammar(
    next_chars: Callable[[str], set[str]], state_of: Callable[[str], Hashable]
) -> Automaton:
    """The automaton of a grammar given by prefixes.

    Args:
        next_chars: allowed next characters after a prefix, ``END`` among them where it may stop.
        state_of: a key that is equal for prefixes with the same continuations.
    """
    prefixes, index, edges = [""], {state_of(""): 0}, []
    for prefix in prefixes:  # grows while it is read
        edges.append({})
        for symbol in sorted(next_chars(prefix)):
            if symbol == END:
                edges[-1][symbol] = -1
                continue
            key = state_of(prefix + symbol)
            if key not in index:
                index[key] = len(prefixes)
                prefixes.append(prefix + symbol)
            edges[-1][symbol] = index[key]
    symbols = (*sorted({s for row in edges for s in row if s != END}), END)
    allowed = torch.zeros(len(edges), len(symbols), dtype=torch.bool)
    step = torch.full((len(edges), len(symbols)), -1)
    for state, row in enumerate(edges):
        for symbol, target in row.items():
            allowed[state, symbols.index(symbol)] = True
            step[state, symbols.index(symbol)] = target
    return Automaton(symbols, allowed, step)


def symbol_tokens(chat: Chat, automaton: Automaton) -> list[int]:
    """The tokenizer's token for each of the K symbols.

    Raises:
        ConfigError: the tokenizer has no token of its own for a character, or would write a number
            with other tokens than its digits (then constrained text is unnatural to the model).
    """
    ids = []
    for symbol in automaton.symbols:
        token_ids = chat.token_ids(symbol) if symbol != END else [chat.end_id]
        if len(token_ids) != 1:
            raise ConfigError(
                f"this tokenizer writes {symbol!r} as {len(token_ids)} tokens; constrained "
                "sampling needs one token for each character: use carrier.constrained=false"
            )
        ids += token_ids
    if len(chat.token_ids("123")) != 3:
        raise ConfigError(
            "this tokenizer joins digits into one token; use carrier.constrained=false"
        )
    return ids
