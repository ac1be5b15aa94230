"""Intervals, tests, multiplicity and planning.

The unit of replication is a training run (a seed): students that share a seed's data are one
observation, however many questions each answers. Questions are clustered within a run, samples
within a question. Nothing here pools them as if they were independent, and nothing falls back on a
constant: input that is empty, unmatched, NaN or infinite raises ``DataError``.

Throughout, ``t(level, df)`` is the two-sided Student quantile: a Student variable with ``df``
degrees of freedom lies within ``+- t(level, df)`` with probability ``level``. Values keep the units
they came with; ``units`` is copied to the estimate. ``level`` is the probability that the interval
covers the truth; a ``level`` outside 0 to 1 raises ``ConfigError`` everywhere.
"""

from vestige.core.stats.intervals import (
    cluster_mean,
    proportion_interval,
    ratio_interval,
    t_interval,
)
from vestige.core.stats.placebo import placebo_p
from vestige.core.stats.planning import (
    questions_needed,
    seeds_needed,
    smallest_contrast,
    spread_within,
)
from vestige.core.stats.significance import holm, rank_of, t_test_p
from vestige.core.stats.trait_contrast import Specificity, specificity

__all__ = [
    "Specificity",
    "cluster_mean",
    "holm",
    "placebo_p",
    "proportion_interval",
    "questions_needed",
    "rank_of",
    "ratio_interval",
    "seeds_needed",
    "smallest_contrast",
    "specificity",
    "spread_within",
    "t_interval",
    "t_test_p",
]
