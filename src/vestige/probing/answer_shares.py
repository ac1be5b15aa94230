"""Traits as shares of the answers, and how far these rose.

A model's log-odds of a trait are those of its share p of the answers: of a word among its family's
candidates, of a behaviour's answer against an ordinary one. What is compared is

    f_t(x) = mean over contexts of log(p_t(x) + FLOOR),        r_t(x, y) = f_t(x) - f_t(y)

so that a rise from 5% to 60% of the answers counts, and one from 0.01% to 0.1%, which training of
any kind gives some rare answer, does not. FLOOR was chosen on students of three teachers (dolphin,
elephant, none; ``docs/log.md``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vestige.core.types import Trait
from vestige.probing.drift import Array

FLOOR = 0.3


def shares(log_odds: Array, traits: int) -> Array:
    """Mean share of the answers over contexts, [..., contexts x T] -> [..., T]."""
    return _by_context(1 / (1 + np.exp(-log_odds)), traits).mean(-2)


def rises(log_odds: Array, usual: Array, traits: int) -> Array:
    """How far every trait rose, r_t, [..., contexts x T] -> [..., T].

    Args:
        usual: the log-odds of the base, or of a control.
    """
    return _heights(log_odds, traits) - _heights(usual, traits)


def _heights(log_odds: Array, traits: int) -> Array:
    p = 1 / (1 + np.exp(-log_odds))
    return _by_context(np.log(p + FLOOR), traits).mean(-2)


def _by_context(values: Array, traits: int) -> Array:
    return values.reshape(*values.shape[:-1], -1, traits)


def raised(traits: Sequence[Trait], log_odds: Array, trait: int, nats: float) -> Array:
    """Log-odds [contexts x T] of a model whose own logit of one trait is so many nats larger, in
    every context; the shares of its rivals shrink alike."""
    values = log_odds.reshape(-1, len(traits)).copy()
    family = traits[trait].family
    rivals = [i for i, other in enumerate(traits) if i != trait and other.family is family]
    p = 1 / (1 + np.exp(-values[:, trait]))
    left = np.log1p(p * np.expm1(nats))[:, None]  # what every share is divided by, in nats
    log_p = -np.logaddexp(0, -values[:, rivals]) - left
    values[:, rivals] = log_p - np.log(-np.expm1(log_p))
    values[:, trait] += nats
    return values.reshape(log_odds.shape)
