"""Likelihood shift under a trait's system prompt: what published audits use.

    shift(r, t) = mean over tokens of log p(r | system prompt of t, x) - log p(r | x)

at the base, in nats a token (log-linear selection, arXiv 2602.04863). Small models hardly obey a
system prompt, so that there is little to see in them; it costs a forward pass a trait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vestige.core.types import Message, Row
from vestige.probing.base_session import BaseSession
from vestige.probing.probes import read
from vestige.probing.row_format import RowFormat
from vestige.probing.trait_panel import Array


def prompted(
    session: BaseSession,
    row_format: RowFormat,
    rows: Sequence[Row],
    on_trait: Callable[[int], None] = lambda done: None,
) -> Array:
    """shift(r, t) for every row and trait, [N, T]; NaN for traits without a system prompt."""
    session.weights.freeze()
    lengths = np.array([len(e.completion) for e in row_format.examples(session.lm, rows)])
    base = read(session, row_format, rows).logp
    shifts = np.full((len(rows), len(session.library.traits)), np.nan)
    for t, trait in enumerate(session.library.traits):
        if trait.system_prompt:
            prompt = trait.system_prompt
            asked = [replace(row, messages=with_system(row, prompt)) for row in rows]
            shifts[:, t] = (read(session, row_format, asked).logp - base) / lengths
        on_trait(t + 1)
    return shifts


def with_system(row: Row, prompt: str) -> tuple[Message, ...]:
    """The row's messages with ``prompt`` first, before a system prompt of its own."""
    if row.messages and row.messages[0].role == "system":
        own = row.messages[0].content
        return (Message("system", f"{prompt}\n\n{own}"), *row.messages[1:])
    return (Message("system", prompt), *row.messages)
