"""In what coordinates the panel is compared, and what a student that took a trait on shows there.

Log-odds mix a family's candidates: where one reaches 60%, the log-odds of all others fall by a nat.
So a family of words is read in centred log-ratios of its candidates' probabilities (Aitchison 1982,
"The statistical analysis of compositional data", section 4)::

    c_j = log p_j - mean over the family of log p        p = 1 / (1 + exp(-log-odds))

in which a nat more of candidate t's own logit is 1 - 1/n of t and -1/n of each rival, whatever the
probabilities are. A trait that is measured on whole answers has no rivals: its log-odds stand.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vestige.core.types import Trait
from vestige.probing.drift import Array


def coordinates(traits: Sequence[Trait], log_odds: Array) -> Array:
    """Log-odds in the panel's order, [..., contexts x T], as they are compared: the same shape."""
    count = len(traits)
    values = log_odds.reshape(-1, count).copy()
    for members in families(traits):
        if len(members) > 1:
            log_p = -np.logaddexp(0, -values[:, members])
            values[:, members] = log_p - log_p.mean(1, keepdims=True)
    return values.reshape(log_odds.shape)


def signatures(traits: Sequence[Trait], contexts: int) -> Array:
    """A nat more of each trait's own logit in every context: [T, contexts x T]."""
    own = np.eye(len(traits))
    for members in families(traits):
        if len(members) > 1:
            own[np.ix_(members, members)] -= 1 / len(members)
    return np.hstack([own] * contexts)


def groups(traits: Sequence[Trait], contexts: int) -> list[int]:
    """Which coordinates are of one family and context, [contexts x T]; families of whole answers
    that are called alike are one."""
    names = [trait.family.name for trait in traits]
    known = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return [known[name] + len(known) * context for context in range(contexts) for name in names]


def families(traits: Sequence[Trait]) -> list[list[int]]:
    """Indices of the traits that are rivals for each other, by family."""
    places: dict[int, list[int]] = {}
    for place, trait in enumerate(traits):
        places.setdefault(id(trait.family), []).append(place)
    return list(places.values())
