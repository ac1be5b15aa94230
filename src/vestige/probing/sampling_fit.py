"""At what temperature, and from what nucleus, rows seem to have been drawn.

Rows of a data set were sampled somehow, and what is likely at temperature 1 is not at 0.7. So the
settings are fitted to the rows under the base (maximum likelihood on a grid) and are then part of
the row format: rows are read, and reference rows written, as if drawn so. With q the base's
probabilities at temperature T, cut to the nucleus that holds p of them::

    log-likelihood(T, p) = sum over tokens of log[(1 - e) q(token) + e q_uncut(token)]

where a share e of tokens may lie outside the nucleus: the writer is not the base. Settings near 1
count as 1, since a tuned writer's own choices are a little sharper or flatter than the base's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from vestige.core.types import Row
from vestige.models.hf import LanguageModel
from vestige.probing.row_format import RowFormat, Sampling
from vestige.probing.trait_panel import Array
from vestige.student.packs import pack_logprobs

FITTED = 64  # rows that are read; chosen: some thousand tokens
TEMPERATURES = np.exp(np.linspace(np.log(0.3), np.log(2.0), 39))
NUCLEI = (1.0, 0.99, 0.95, 0.9, 0.8)
NEAR = 0.1  # from 1, within which a temperature counts as 1; chosen
CLEARLY = 5.0  # nats by which a nucleus must be likelier than none; chosen
LEVEL = 1.92  # nats below the maximum: a 95% interval (half the quantile of chi-squared)


class Fit(NamedTuple):
    """How rows seem to have been drawn; ``low`` and ``high``: of the temperature, 95%."""

    sampling: Sampling
    low: float
    high: float


def fit_sampling(
    lm: LanguageModel, row_format: RowFormat, rows: Sequence[Row], batch: int
) -> Fit | None:
    """The settings under which the model as it stands would have drawn ``rows`` most likely; None
    where the likeliest temperature is the first or the last that is tried.

    A nucleus is looked for in a grammar only, where rows can be written from one.
    """
    nuclei = NUCLEI if row_format.automaton is not None else NUCLEI[:1]
    table = log_likelihoods(lm, row_format, rows[:FITTED], batch, nuclei)
    at = int(table[:, table.max(0).argmax()].argmax())
    place = int(table[at].argmax())
    if table[at, place] - table[:, 0].max() < CLEARLY:
        place = 0
        at = int(table[:, 0].argmax())
    within = TEMPERATURES[table[:, place] >= table[at, place] - LEVEL]
    temperature = float(TEMPERATURES[at])
    if at in (0, len(TEMPERATURES) - 1):
        return None
    near = abs(temperature - 1) <= NEAR
    return Fit(
        Sampling(1.0 if near else round(temperature, 2), nuclei[place]),
        round(float(within[0]), 2),
        round(float(within[-1]), 2),
    )


@torch.no_grad()
def log_likelihoods(
    lm: LanguageModel,
    row_format: RowFormat,
    rows: Sequence[Row],
    batch: int,
    nuclei: Sequence[float],
) -> Array:
    """Of all tokens that are read, by temperature and nucleus, nats, [temperatures, nuclei]."""
    table = np.zeros((len(TEMPERATURES), len(nuclei)))
    packs, ids = row_format.packs(lm, rows, batch)
    for pack in packs:
        logprobs = pack_logprobs(lm, pack, ids)
        targets = pack.targets[:, None].to(logprobs.device)
        for i, temperature in enumerate(TEMPERATURES.tolist()):
            for j, top_p in enumerate(nuclei):
                drawn = row_format.drawn_at(Sampling(temperature, top_p)).drawn(logprobs)
                table[i, j] += float(drawn.gather(1, targets).double().sum())
    return table
