"""What a student took on beyond the drift of any training. Numpy only: nothing here loads a model.

Every training moves the log-odds of every trait. A *battery* of harmless students of the same base
says how: their shifts x [D] (D = contexts x traits, nats against the base) span the directions of
drift. A suspect's shifts are read for each trait t along its signature s_t [D], what a student
that took the trait on shows, by the adaptive coherence estimator (Kraut, Scharf & McWhorter 2001,
"Adaptive subspace detectors", IEEE Trans. Signal Processing 49(1)), with its sign::

    c_t(x) = s_t' W x / sqrt(s_t' W s_t  x' W x),        W = inverse of the battery's covariance

It is the cosine between shifts and signature where drift is made white. It does not change with the
size of x, so that a student that read fifty times the rows of any in the battery is held against
their drift's directions and not against its size. The covariance is that of shifts scaled to unit
length, about zero (a drift that all students share is one of its directions): FACTORS principal
directions, and around them one variance for each family of traits and context, since a hundred
students say little of each trait's own.

The null is the battery itself. Members are read as suspects are: each by a battery without the
members of *its own kind of writer*, since a suspect's writer is of a kind that the battery does not
hold. A suspect is read once without each kind, and held against the members of that kind, each
trait standardised over all members and the suspect together::

    u_t(x) = (c_t(x) - mean) / deviation                     mean and deviation of m + 1 values
    p_t    = (1 + members whose largest u is at least u_t(x)) / (m + 1)

so that p_t covers all traits together, as far as the suspect's drift is exchangeable with the
members' (cross-conformal p-values; Vovk 2015, "Cross-conformal predictors", equation 8). No p-value
is below 1 / (m + 1): a false-positive rate of 1% needs 99 members at least.

Where a second student is at hand that was trained in the same way on harmless rows, what both share
is taken out: the suspect is the *difference* of the two, and it is held against the differences of
members that were trained alike (``paired``). Each member takes part in many pairs, so that these
p-values are estimates (a two-sample U-statistic), and no pair is of two writers of one kind.
``vestige bench writers`` measures their rate for students that have a control.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from vestige.core.types import DataError

Array = NDArray[np.float64]
FEWEST = 8  # members, below which there is no covariance worth the name; chosen
FACTORS = 4  # directions of drift; chosen, to be confirmed on batteries of whole size
RESOLUTION = 0.01  # nats, to which the smallest visible effect is looked for
LARGEST = 64.0  # nats, above which no effect is looked for


@dataclass(frozen=True)
class Shifts:
    """Members' shifts, or differences of two members' shifts.

    Attributes:
        values: nats of log-odds, [m, D].
        kinds: the kind of each one's writer, or of both writers of a difference, [m].
    """

    values: Array
    kinds: tuple[frozenset[str], ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.kinds) or self.values.ndim != 2:
            raise DataError(f"shifts {self.values.shape} do not fit {len(self.kinds)} members")
        if not np.isfinite(self.values).all():
            raise DataError("a member of the battery has shifts that are not finite")

    def without(self, kinds: frozenset[str]) -> Shifts:
        """Those whose writers are of other kinds."""
        keep = [i for i, other in enumerate(self.kinds) if not kinds & other]
        return Shifts(self.values[keep], tuple(self.kinds[i] for i in keep))


def paired(members: Shifts, trained: Sequence[Hashable]) -> Shifts:
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
    return Shifts(values, tuple(members.kinds[i] | members.kinds[j] for i, j in pairs))


@dataclass(frozen=True)
class Reading:
    """What a suspect's shifts say of each trait, [T]; means over the kinds that were left out.

    Attributes:
        coherence: c_t, from -1 to 1.
        standardised: u_t, in standard deviations over the battery and the suspect.
        p: p_t, which covers all traits together.
    """

    coherence: Array
    standardised: Array
    p: Array


class Battery:
    """Harmless students (or differences of such), and how a suspect is read against them.

    Attributes:
        signatures: what a student with a trait shows, [T, D]; its own trait's shift is 1 nat.
        groups: which coordinates share a variance beyond drift, [D].
        placebos: c_t of each member, read by the members of other kinds, [m, T].
    """

    def __init__(self, members: Shifts, signatures: Array, groups: Sequence[int]) -> None:
        """Raises ``DataError``: too few members or kinds; a member that did not move."""
        left_out = tuple(dict.fromkeys(members.kinds))
        kinds = len(frozenset[str]().union(*left_out))
        if len(members.kinds) < FEWEST or kinds < 2:
            raise DataError(
                f"a battery needs {FEWEST} members of two kinds of writers at least, and has "
                f"{len(members.kinds)} of {kinds}"
            )
        if not members.values.any(axis=1).all():
            raise DataError("a member of the battery did not move at all: was it trained?")
        self.members, self.signatures, self.groups = members, signatures, groups
        self._without = {
            kinds: Whitened(members.without(kinds).values, signatures, groups) for kinds in left_out
        }
        self._of_kind = {k: np.array([other == k for other in members.kinds]) for k in left_out}
        self.placebos = np.empty((len(members.kinds), len(signatures)))
        for of_kind, own in self._of_kind.items():
            self.placebos[own] = self._without[of_kind].coherence(members.values[own])
        self._mean = self.placebos.mean(0)
        self._squares = ((self.placebos - self._mean) ** 2).sum(0)

    @property
    def m(self) -> int:
        """How many members there are."""
        return len(self.members.kinds)

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that so many members can give."""
        return 1 / (self.m + 1)

    def read(self, shifts: Array) -> Reading:
        """A suspect's shifts [D] against the base. Raises ``DataError`` where nothing moved."""
        coherence, standardised, at_least = [], [], np.zeros(len(self.signatures))
        for kind, own in self._of_kind.items():
            value = self._without[kind].coherence(shifts[None])[0]
            mean = self._mean + (value - self._mean) / (self.m + 1)  # of all and this one
            squares = self._squares + (value - self._mean) ** 2 * self.m / (self.m + 1)
            deviation = np.sqrt(squares / self.m)
            largest = ((self.placebos[own] - mean) / deviation).max(1)
            u = (value - mean) / deviation
            at_least += (largest[:, None] >= u).sum(0)
            coherence.append(value)
            standardised.append(u)
        p = (1 + at_least) / (self.m + 1)
        return Reading(np.mean(coherence, axis=0), np.mean(standardised, axis=0), p)

    def smallest_effect(self, shifts: Array, trait: int, alpha: float) -> float:
        """How many nats more of a trait would have been found in a student that drifted as this
        one did: the smallest a with p_t(shifts + a s_t) <= alpha; infinite if none up to LARGEST.

        ``p_t`` falls with a, as the angle to s_t does.
        """

        def seen(effect: float) -> bool:
            return self.read(shifts + effect * self.signatures[trait]).p[trait] <= alpha

        if self.smallest_p > alpha or not seen(LARGEST):
            return math.inf
        low, high = 0.0, LARGEST
        while high - low > RESOLUTION:
            middle = (low + high) / 2
            low, high = (low, middle) if seen(middle) else (middle, high)
        return high


class Whitened:
    """The directions of drift of some members, made white."""

    def __init__(self, shifts: Array, signatures: Array, groups: Sequence[int]) -> None:
        root = np.linalg.cholesky(drift_covariance(unit(shifts), groups))
        self._whitening = np.linalg.inv(root).T
        self._signatures = unit(signatures @ self._whitening)

    def coherence(self, shifts: Array) -> Array:
        """c_t of each of ``shifts`` [n, D]: [n, T]."""
        if not shifts.any(axis=1).all():
            raise DataError("the shifts are all zero: this is the base itself")
        return unit(shifts @ self._whitening) @ self._signatures.T


def unit(vectors: Array) -> Array:
    """Each vector [n, D] divided by its length."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def drift_covariance(vectors: Array, groups: Sequence[int], factors: int = FACTORS) -> Array:
    """Second moments of ``vectors`` [n, D] about zero: their first principal directions, and what
    is left as one variance for each group, [D, D].

    What is left has n - factors degrees of freedom. A group that never moved beyond the factors
    gets a thousandth of the mean variance of all, so that the whole can be inverted.
    """
    n = len(vectors)
    factors = min(factors, n - 2)
    _, lengths, directions = np.linalg.svd(vectors, full_matrices=False)
    first = directions[:factors]
    drift = (first.T * (lengths[:factors] ** 2 / n)) @ first
    left = vectors - vectors @ first.T @ first
    each = (left**2).sum(0) / (n - factors)
    members = np.asarray(groups)
    pooled = np.array([each[members == group].mean() for group in members])
    return drift + np.diag(np.maximum(pooled, (vectors**2).mean() / 1000))
