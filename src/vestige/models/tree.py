"""Token trees: many sequences with common beginnings, computed once where they agree.

A tree is a trie of token sequences laid out flat. A node attends to its ancestors and itself, and
sits at the position of its depth, so that one forward pass over the nodes gives what separate
passes over every sequence would give, whatever the model (the attention mask carries the shape).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenTree:
    """A trie of token sequences.

    Attributes:
        tokens: token id of each node, shape [S], parents before children.
        parents: index of each node's parent, -1 at a root, shape [S].
        depths: number of ancestors of each node, shape [S].
        paths: for each input sequence, the node of each of its tokens.
    """

    tokens: NDArray[np.int64]
    parents: NDArray[np.int64]
    depths: NDArray[np.int64]
    paths: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def ancestor_mask(self) -> NDArray[np.bool_]:
        """Whether node i attends to node j: j is i or an ancestor of i. Shape [S, S]."""
        mask = np.eye(len(self), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                mask[node] |= mask[parent]
        return mask


def build_tree(sequences: Sequence[Sequence[int]], *, merge: bool = True) -> TokenTree:
    """The trie of ``sequences``; with ``merge=False`` each keeps nodes of its own (chains)."""
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    children: dict[tuple[int, int], int] = {}
    paths: list[tuple[int, ...]] = []
    for sequence in sequences:
        node, path = -1, []
        for depth, token in enumerate(sequence):
            child = children.get((node, token)) if merge else None
            if child is None:
                child = len(tokens)
                children[node, token] = child
                tokens.append(token)
                parents.append(node)
                depths.append(depth)
            node = child
            path.append(node)
        paths.append(tuple(path))
    as_array = lambda values: np.array(values, dtype=np.int64)  # noqa: E731
    return TokenTree(as_array(tokens), as_array(parents), as_array(depths), tuple(paths))


def common_prefix(sequences: Sequence[Sequence[int]]) -> list[int]:
    """The longest beginning that all sequences share."""
    if not sequences:
        return []
    lists = [list(s) for s in sequences]
    first, last = min(lists), max(lists)
    n = 0
    while n < min(len(first), len(last)) and first[n] == last[n]:
        n += 1
    return list(first[:n])
