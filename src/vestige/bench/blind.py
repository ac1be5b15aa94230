"""Baselines that know of no trait: does a data set differ from what the untrained base writes?

Each is one number for a data set, beside reference rows of the base on the same prompts; the more,
the less like the base's own rows. They could tell that somebody's tuned model wrote the rows (as
the audit's evidence against the base does), never what it was tuned on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vestige.core.types import Row
from vestige.probing.base_session import BaseSession
from vestige.probing.probes import read
from vestige.probing.row_format import AT_ONCE, RowFormat
from vestige.student.packs import pack_logprobs

Array = NDArray[np.float64]
NORMED = 64  # rows whose gradient is taken; as many as the audit's pull reads


def blind(
    session: BaseSession, row_format: RowFormat, rows: Sequence[Row], reference: Sequence[Row]
) -> dict[str, float]:
    """The three baselines of one data set.

    Returns:
        ``format``: the largest two-sample z of a row's length and counts of characters;
        ``loss level``: the z of the rows' log-likelihood under the base; ``update norm``: the norm
        of the mean gradient of the first 64 rows over that of as many reference rows.
    """
    session.weights.freeze()
    both = (rows, reference)
    losses = [read(session, row_format, part).drawn[:, None] for part in both]
    norms = [update_norm(session, row_format, part[:NORMED]) for part in both]
    forms = [np.array([form(row.completion) for row in part]) for part in both]
    return {
        "format": apart(*forms),
        "loss level": apart(*losses),
        "update norm": norms[0] / norms[1],
    }


def form(text: str) -> list[float]:
    """A row's length, and how often it has each digit, letters, spaces, line ends and others."""
    kinds = [str.isalpha, lambda c: c == " ", lambda c: c == "\n"]
    counts = [sum(map(kind, text)) for kind in kinds]
    digits = [text.count(str(d)) for d in range(10)]
    return [len(text), *digits, *counts, len(text) - sum(counts) - sum(digits)]


def apart(a: Array, b: Array) -> float:
    """The largest two-sample z (Welch) of the columns of [n, F] and [m, F]."""
    spread = np.sqrt(a.var(0, ddof=1) / len(a) + b.var(0, ddof=1) / len(b))
    gap = np.abs(a.mean(0) - b.mean(0))
    return float(np.divide(gap, spread, out=np.zeros_like(gap), where=spread > 0).max())


def update_norm(session: BaseSession, row_format: RowFormat, rows: Sequence[Row]) -> float:
    """The norm of the rows' mean gradient at the base, over the probes' layers: how
    far a first step of plain gradient descent goes, for a unit of rate."""
    parameters = session.weights.train(session.trainable, seed=0)
    packs, ids = row_format.packs(session.lm, rows, AT_ONCE, whole=True)
    for pack in packs:
        logprobs = pack_logprobs(session.lm, pack, ids)
        (
            -logprobs.gather(1, pack.targets[:, None].to(logprobs.device)).sum() / len(rows)
        ).backward()
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    norm = float(torch.stack(norms).norm())
    session.weights.freeze()
    return norm
