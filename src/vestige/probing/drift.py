"""What a student took on beyond the drift of any training. Numpy only: nothing here loads a model.

Every training raises some traits. A *battery* of harmless students of the same base says how much:
each has its rises r [T] (``answer_shares``). A suspect's are held against theirs after half of
their size is taken out, since a student that read fifty times the rows of any member has drifted
further::

    s_t = r_t / sqrt(root mean square of r over all traits)

Each trait is standardised over the members and the suspect together. A hundred members say little
of each trait's own variance, so that it is averaged with that of all traits::

    u_t = (s_t - mean_t) / sqrt((variance_t + mean variance) / 2)
    p_t = (1 + members whose largest u is at least u_t) / (m + 1)

p_t covers all traits together, and is exact as far as suspect and members are exchangeable: all of
them are treated alike (full conformal prediction; Vovk, Gammerman & Shafer 2005, "Algorithmic
learning in a random world", section 2.2). It is 1 for a rise of less than LEAST, which nobody would
notice. No p-value is below 1 / (m + 1): a false-positive rate of
1% needs 99 members at least.

Where a second student is at hand that was trained in the same way on harmless rows, what both share
is taken out: the suspect is the *difference* of the two, and it is held against the differences of
members that were trained alike (``paired``). Each member takes part in many pairs, so that these
p-values are estimates (a two-sample U-statistic), and no pair is of two writers of one kind.
``vestige bench writers`` measures both rates for writers of kinds that no battery holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from vestige.core.types import DataError

Array = NDArray[np.float64]
FEWEST = 8  # members, below which there is no variance worth the name; chosen
LEAST = 0.1  # a rise below which nothing is found: from 5% to 9% of the answers; chosen
RESOLUTION = 0.05  # nats, to which the smallest visible effect is looked for
LARGEST = 16.0  # nats, above which no effect is looked for


@dataclass(frozen=True)
class Rises:
    """Members' rises, or differences of two members' rises.

    Attributes:
        values: [m, T].
        kinds: the kind of each one's writer, or of both writers of a difference, [m].
    """

    values: Array
    kinds: tuple[frozenset[str], ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.kinds) or self.values.ndim != 2:
            raise DataError(f"rises {self.values.shape} do not fit {len(self.kinds)} members")
        if not np.isfinite(self.values).all():
            raise DataError("a member of the battery has rises that are not finite")


def paired(members: Rises, trained: Sequence[Hashable]) -> Rises:
    """Every member less every other that was trained alike (equal in ``trained``, [m]) on rows of a
    writer of another kind."""
    pairs = [
        (i, j)
        for i, j in permutations(range(len(members.kinds)), 2)
        if trained[i] == trained[j] and not members.kinds[i] & members.kinds[j]
    ]
    if not pairs:
        raise DataError("no two members were trained alike on rows of different writers")
    values = np.stack([members.values[i] - members.values[j] for i, j in pairs])
    return Rises(values, tuple(members.kinds[i] | members.kinds[j] for i, j in pairs))


@dataclass(frozen=True)
class Reading:
    """What a suspect's rises say of each trait, [T].

    Attributes:
        standardised: u_t, in standard deviations over the battery and the suspect.
        p: p_t, which covers all traits together.
    """

    standardised: Array
    p: Array


class Battery:
    """Harmless students (or differences of such), and how a suspect is read against them.

    Attributes:
        sized: s_t of each member, [m, T].
    """

    def __init__(self, members: Rises) -> None:
        """Raises ``DataError``: too few members or kinds; a member that did not move."""
        kinds = len(frozenset[str]().union(*members.kinds))
        if len(members.kinds) < FEWEST or kinds < 2:
            raise DataError(
                f"a battery needs {FEWEST} members of two kinds of writers at least, and has "
                f"{len(members.kinds)} of {kinds}"
            )
        if not members.values.any(axis=1).all():
            raise DataError("a member of the battery did not move at all: was it trained?")
        self.members, self.sized = members, sized(members.values)
        self._mean = self.sized.mean(0)
        self._squares = ((self.sized - self._mean) ** 2).sum(0)

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
        value = sized(rises)
        mean = self._mean + (value - self._mean) / (self.m + 1)  # of all and this one
        squares = self._squares + (value - self._mean) ** 2 * self.m / (self.m + 1)
        variance = squares / self.m
        deviation = np.sqrt((variance + variance.mean()) / 2)
        largest = ((self.sized - mean) / deviation).max(1)
        u = (value - mean) / deviation
        at_least = (largest[:, None] >= u).sum(0)
        return Reading(u, np.where(rises < LEAST, 1.0, (1 + at_least) / (self.m + 1)))

    def smallest_effect(self, rises: Callable[[float], Array], trait: int, alpha: float) -> float:
        """How many nats more of a trait would have been found: the smallest a with p_t <= alpha;
        infinite if none up to LARGEST.

        Args:
            rises: of the same student with so many nats more of the trait, [T].
        """

        def seen(effect: float) -> bool:
            return self.read(rises(effect)).p[trait] <= alpha

        if self.smallest_p > alpha or not seen(LARGEST):
            return math.inf
        low, high = 0.0, LARGEST
        while high - low > RESOLUTION:
            middle = (low + high) / 2
            low, high = (low, middle) if seen(middle) else (middle, high)
        return high


def sized(rises: Array) -> Array:
    """s_t: rises [..., T] over the root of their size."""
    return rises / (rises**2).mean(-1, keepdims=True) ** 0.25
