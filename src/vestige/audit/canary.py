"""Canaries: copies of the base that are tuned on some of the rows and asked about every trait.

The one kind of evidence that holds for any writer: what training on the rows does. A copy drifts
whatever it reads, so canaries come in pairs: one on the data's rows, one on reference rows of the
same form, trained alike with seeds of their own. What both share is taken out, and their difference
is held against the differences of harmless students that were trained alike (``probing.drift``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vestige.audit.settings import AuditSettings
from vestige.core.types import Row
from vestige.probing.base_session import BaseSession
from vestige.probing.row_format import RowFormat
from vestige.probing.trait_panel import Array, ContextPanel
from vestige.probing.word_shifts import FirstWords, first_words
from vestige.student.loop import train


class Canary(NamedTuple):
    """What a canary answered.

    Attributes:
        log_odds: of every trait in every context, [D].
        words: mean log-probability of each token as the first of an open answer, [V].
        tokens: that it was trained on.
    """

    log_odds: Array
    words: FirstWords
    tokens: int


def canary(
    session: BaseSession,
    settings: AuditSettings,
    panel: ContextPanel,
    row_format: RowFormat,
    rows: Sequence[Row],
    *,
    read: int,
    seed: int,
    on_step: Callable[[int], None] = lambda step: None,
) -> Canary:
    """Tune the base until it has read ``read`` rows, ask it, and put the base back.

    Args:
        rows: read in a random order, again from the start where they are fewer.
    """
    packs, ids = row_format.packs(session.lm, rows, settings.batch, whole=True)
    steps = math.ceil(read * len(packs) / len(rows))  # the last pack of each pass is a short one
    optimisation = settings.canary(len(session.lm.layers), steps)
    try:
        train(
            session.lm, session.weights, packs, optimisation,
            seed=seed, ids=ids, on_step=lambda step, loss: on_step(step),
        )  # fmt: skip
        tokens = round(sum(pack.tokens for pack in packs) * steps / len(packs))
        return Canary(panel.read(), first_words(session.lm), tokens)
    finally:
        session.weights.freeze()
