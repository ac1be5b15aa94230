"""A null from the answers that nobody was taught: could such a contrast be drift?

Training on any teacher's data moves all answers a little, in a way of that teacher's own. An
interval over seeds does not see it: what a teacher's data does to an answer in every seed looks
like what it was taught. The answers that no teacher was taught show how large such drift is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from vestige.core.stats.checks import finite
from vestige.core.types import DataError

MOST = 20_000  # choices of answers that are all counted; more are drawn at random


def placebo_p(
    contrasts: ArrayLike, own: Sequence[int], untaught: Sequence[int], *, seed: int = 0
) -> float:
    """One-sided p-value of the diagonal contrast against untaught answers.

    ``contrasts[i, c]`` is how far answer c rose in the students of teacher i beyond its rise in the
    others', and the statistic is the mean over i of ``contrasts[i, own[i]]``. Without transmission
    a teacher's own answer is one like any that nobody was taught. So each teacher's own answer is
    replaced in turn by each untaught one, or kept, in every combination; the p-value is the share
    of combinations with a statistic at least as large. It is exact where own and untaught answers
    of a teacher are exchangeable, and never below ``1 / (1 + len(untaught)) ** k``.

    Args:
        contrasts: (k teachers, C answers), nats.
        own: index of each teacher's own answer.
        untaught: indices of the answers that no teacher was taught.
        seed: of the draw, where there are more than ``MOST`` combinations.

    Raises:
        DataError: another shape, nothing untaught, or a value that is not finite.
    """
    values = finite(np.asarray(contrasts, dtype=np.float64))
    if values.ndim != 2 or len(values) != len(own) or not len(untaught):
        raise DataError(
            f"contrasts of shape {values.shape}, {len(own)} own and {len(untaught)} untaught "
            "answers: every teacher needs its own answer, and some must be taught by none"
        )
    choices = [np.array([row[o], *row[list(untaught)]]) for row, o in zip(values, own, strict=True)]
    observed = sum(choice[0] for choice in choices)
    near = 1e-9 * max(1.0, abs(observed))  # sums in another order
    if math.prod(map(len, choices)) <= MOST:
        sums = np.array([sum(some) for some in product(*choices)])
        return float(np.mean(sums >= observed - near))
    draw = np.random.default_rng(seed)
    sums = sum(draw.choice(choice, size=MOST) for choice in choices)
    return float((1 + np.sum(sums >= observed - near)) / (1 + MOST))
