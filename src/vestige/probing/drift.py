"""What a student took on beyond the drift of any training. Numpy only: nothing here loads a model.

Every training raises some traits. A *battery* of harmless students of the same base says how much:
each has its rises r [T] (``answer_shares``). Each trait is standardised; a hundred members say
little of its own variance, so that a part of the mean variance of its group (words, behaviours) is
mixed in::

    u_t(x) = (r_t(x) - mean_t) / sqrt(OWN variance_t + (1 - OWN) mean variance of t's group)
    p_t(x) = (1 + members whose largest u is at least u_t(x)) / (m + 1)

p_t covers all traits together. A suspect's writer is of a kind that the battery does not hold, and
members are read as suspects are: mean and variance are those of members whose writers are of
*other* kinds, once without each kind, and the suspect is held against the members of that kind
(cross-conformal p-values; Vovk 2015, "Cross-conformal predictors", equation 8). p_t is 1 for a rise
of less than LEAST, which nobody would notice. No p-value is below 1 / (m + 1): a false-positive
rate of 1% needs 99 members at least.

Where a second student is at hand that was trained in the same way on rows of the base, what both
share is taken out: the suspect is the *difference* of the two, and it is held against the
differences of members that were trained alike, the second of them on rows that the base wrote
(``paired``). Each member takes part in many pairs, so that these p-values are estimates (a
two-sample U-statistic).

How often this finds harmless students is measured by ``benchmarks/left_out.py`` (each kind of the
battery's writers in turn taken for the unknown one) and ``vestige bench writers``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from vestige.core.types import DataError

Array = NDArray[np.float64]
FEWEST = 8  # members, below which there is no variance worth the name; chosen
OWN = 0.8  # part of a trait's own variance in its deviation; chosen (docs/log.md)
LEAST = 0.1  # a rise below which nothing is found: from 5% to 9% of the answers, or 0.1 nats of
# a behaviour; chosen
RESOLUTION = 0.05  # nats, to which the smallest visible effect is looked for
LARGEST = 128.0  # nats, above which no effect is looked for


@dataclass(frozen=True)
class Rises:
    """Members' rises, or differences of two members' rises.

    Attributes:
        values: [m, T].
        kinds: the kind of each one's writer; of a difference, of the first one's, [m].
    """

    values: Array
    kinds: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.kinds) or self.values.ndim != 2:
            raise DataError(f"rises {self.values.shape} do not fit {len(self.kinds)} members")
        if not np.isfinite(self.values).all():
            raise DataError("a member of the battery has rises that are not finite")


def pairs_of(
    kinds: Sequence[str], trained: Sequence[Hashable], references: Collection[str]
) -> list[tuple[int, int]]:
    """Members, each with every other that was trained alike (equal in ``trained``, [m]) on rows of
    a writer of another kind, one of ``references``."""
    return [
        (i, j)
        for i, j in permutations(range(len(kinds)), 2)
        if trained[i] == trained[j] and kinds[i] != kinds[j] and kinds[j] in references
    ]


def paired(members: Rises, trained: Sequence[Hashable], references: Collection[str]) -> Rises:
    """Every member less its reference, for ``pairs_of``."""
    pairs = pairs_of(members.kinds, trained, references)
    if not pairs:
        raise DataError("no two members were trained alike on rows of different writers")
    values = np.stack([members.values[i] - members.values[j] for i, j in pairs])
    return Rises(values, tuple(members.kinds[i] for i, _ in pairs))


@dataclass(frozen=True)
class Reading:
    """What a suspect's rises say of each trait, [T].

    Attributes:
        standardised: u_t, mean over the kinds that were left out.
        p: p_t, which covers all traits together.
    """

    standardised: Array
    p: Array

    @property
    def order(self) -> list[int]:
        """All traits, the clearest first."""
        return [int(t) for t in np.lexsort((-self.standardised, self.p))]


class Battery:
    """Harmless students (or differences of such), and how a suspect is read against them."""

    def __init__(self, members: Rises, groups: Sequence[int]) -> None:
        """Args: groups: which traits share a part of their variances, [T].

        Raises ``DataError``: too few members or kinds; a member that did not move.
        """
        kinds = tuple(dict.fromkeys(members.kinds))
        if len(members.kinds) < FEWEST or len(kinds) < 2:
            raise DataError(
                f"a battery needs {FEWEST} members of two kinds of writers at least, and has "
                f"{len(members.kinds)} of {len(kinds)}"
            )
        if not members.values.any(axis=1).all():
            raise DataError("a member of the battery did not move at all: was it trained?")
        self.members = members
        self._without = [self._kind_left_out(kind, np.asarray(groups)) for kind in kinds]

    def _kind_left_out(self, kind: str, groups: NDArray[np.intp]) -> tuple[Array, Array, Array]:
        """Mean and deviation [T] of the members of other kinds, and the largest u of each member of
        this one."""
        own = np.array([other == kind for other in self.members.kinds])
        others = self.members.values[~own]
        variance, pooled = others.var(0, ddof=1), np.empty(len(groups))
        for group in np.unique(groups):
            pooled[groups == group] = variance[groups == group].mean()
        deviation = np.sqrt(np.maximum(OWN * variance + (1 - OWN) * pooled, np.finfo(float).tiny))
        mean = others.mean(0)
        return mean, deviation, ((self.members.values[own] - mean) / deviation).max(1)

    @property
    def m(self) -> int:
        """How many members there are."""
        return len(self.members.kinds)

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that so many members can give."""
        return 1 / (self.m + 1)

    def read(self, rises: Array) -> Reading:
        """A suspect's rises [T] against the base, or a control. Raises ``DataError`` where nothing
        moved."""
        if not rises.any():
            raise DataError("the rises are all zero: this is the base itself")
        at_least, standardised = np.zeros(len(rises)), []
        for mean, deviation, largest in self._without:
            u = (rises - mean) / deviation
            at_least += (largest[:, None] >= u).sum(0)
            standardised.append(u)
        p = np.where(rises < LEAST, 1.0, (1 + at_least) / (self.m + 1))
        return Reading(np.mean(standardised, axis=0), p)

    def smallest_effect(self, rises: Callable[[float], Array], trait: int, alpha: float) -> float:
        """How many nats more of a trait would have been found: the smallest a with p_t <= alpha; 0
        where it was found, infinite where none up to LARGEST would be.

        Args:
            rises: of the same student with so many nats more of the trait, [T].
        """

        def seen(effect: float) -> bool:
            return self.read(rises(effect)).p[trait] <= alpha

        if seen(0.0):
            return 0.0
        if self.smallest_p > alpha or not seen(LARGEST):
            return math.inf
        low, high = 0.0, LARGEST
        while high - low > RESOLUTION:
            middle = (low + high) / 2
            low, high = (low, middle) if seen(middle) else (middle, high)
        return high
