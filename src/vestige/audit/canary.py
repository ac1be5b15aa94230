"""Canaries: copies of the base, tuned on a few hundred rows and asked about every trait.

The strongest evidence there is before training, being training: what the rows do to the base's
log-odds of each trait, in nats against the untrained base. A canary drifts whatever it reads, so
its shifts say something only against those of other canaries (``canary_statistics``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vestige.audit.settings import AuditSettings
from vestige.core.types import Row
from vestige.probing.base_session import BaseSession
from vestige.probing.row_format import RowFormat
from vestige.probing.trait_panel import Array
from vestige.probing.word_shifts import FirstWords, first_words
from vestige.student.loop import train


class Canary(NamedTuple):
    """What a canary showed.

    Attributes:
        shifts: of each trait at each look, [looks, T], nats of log-odds against the base.
        words: mean log-probability of each token as the first of an open answer, at the end, [V].
        tokens: that it was trained on.
    """

    shifts: Array
    words: FirstWords
    tokens: int


def canary(
    session: BaseSession,
    settings: AuditSettings,
    row_format: RowFormat,
    rows: Sequence[Row],
    *,
    seed: int,
    on_step: Callable[[int], None] = lambda step: None,
) -> Canary:
    """Tune the base on ``rows``, once each in a random order, and ask it; the base is put back."""
    steps = settings.steps(len(rows))
    optimisation = settings.canary(len(session.lm.layers), len(rows))
    packs, ids = row_format.packs(session.lm, rows, optimisation.batch, whole=True)
    shifts, base = [], session.base

    def look(step: int, loss: float) -> None:
        if step in steps:
            shifts.append(session.panel.read() - base)
        on_step(step)

    try:
        train(session.lm, session.weights, packs, optimisation, seed=seed, ids=ids, on_step=look)
        tokens = sum(pack.tokens for pack in packs)
        return Canary(np.stack(shifts), first_words(session.lm), tokens)
    finally:
        session.weights.freeze()
