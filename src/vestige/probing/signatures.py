"""What a student that took a trait on shows on the panel: the filters that shifts are read with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vestige.core.types import Trait
from vestige.probing.drift import Array


def signatures(traits: Sequence[Trait], base: Array) -> Array:
    """The panel's slope along each trait's own logit, at the base: [T, contexts x T].

    Where the logit of a family's candidate t grows by a nat and nothing else changes, its log-odds
    grow by a nat, and its rivals' fall, p their probabilities among the candidates::

        d log-odds_t = 1,      d log-odds_j = -p_t / (1 - p_j)

    Args:
        base: the untrained base's log-odds, [contexts x T], all traits in one context, then in the
            next. The mean over questions stands for each of them.
    """
    count = len(traits)
    family = np.array([id(trait.family) for trait in traits])
    rivals = (family[:, None] == family[None, :]) & ~np.eye(count, dtype=bool)
    parts = []
    for log_odds in base.reshape(-1, count):
        p = 1 / (1 + np.exp(-log_odds))
        parts.append(np.eye(count) - rivals * p[:, None] / (1 - p[None, :]))
    return np.hstack(parts)
