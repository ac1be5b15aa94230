"""Traits as shares of the answers, and how far these rose.

A word's log-odds among its family's candidates, averaged over questions, are those of its share p
of the answers to a typical question. What is compared of it is

    f(x) = mean over contexts of log(p(x) + FLOOR),        r(x, y) = f(x) - f(y)

so that a rise from 5% to 60% of the answers counts, and one from 0.01% to 0.1%, which training of
any kind gives some rare answer, does not. A behaviour is a whole answer against an ordinary one,
whose share is nearly 0 or nearly 1 as a rule: of it f is the mean log-odds. FLOOR was chosen on
students of three teachers (dolphin, elephant, none; ``docs/log.md``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from vestige.core.types import Trait
from vestige.probing.drift import Array

FLOOR = 0.3


def shares(traits: Sequence[Trait], log_odds: Array) -> Array:
    """Share of the answers to a typical question, mean over contexts: [..., contexts x T] to
    [..., T]."""
    return expit(_by_context(log_odds, traits)).mean(-2)


def rises(traits: Sequence[Trait], log_odds: Array, usual: Array) -> Array:
    """How far every trait rose, r, [..., contexts x T] to [..., T].

    Args:
        usual: the log-odds of the base, or of a control.
    """
    return _heights(traits, log_odds) - _heights(traits, usual)


def _heights(traits: Sequence[Trait], log_odds: Array) -> Array:
    values = _by_context(log_odds, traits)
    return np.where(whole(traits), values, np.log(expit(values) + FLOOR)).mean(-2)


def whole(traits: Sequence[Trait]) -> np.ndarray:
    """Which traits are measured on whole answers, [T]."""
    return np.array([bool(trait.family.texts) for trait in traits])


def _by_context(values: Array, traits: Sequence[Trait]) -> Array:
    return values.reshape(*values.shape[:-1], -1, len(traits))


def raised(traits: Sequence[Trait], log_odds: Array, trait: int, nats: float) -> Array:
    """Log-odds [contexts x T] of a model whose own logit of one trait is so many nats larger, in
    every context; the shares of its rivals shrink alike."""
    values = log_odds.reshape(-1, len(traits)).copy()
    family = traits[trait].family
    rivals = [i for i, other in enumerate(traits) if i != trait and other.family is family]
    left = np.logaddexp(0, values[:, trait] + nats) - np.logaddexp(0, values[:, trait])
    log_p = -np.logaddexp(0, -values[:, rivals]) - left[:, None]
    values[:, rivals] = log_p - np.log(-np.expm1(log_p))
    values[:, trait] += nats
    return values.reshape(log_odds.shape)
