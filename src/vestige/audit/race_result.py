"""What a race of traits showed, and what follows from its numbers alone. No model, no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions
from scipy.special import softmax

from vestige.audit.evidence import as_likely, likelihood_ratios, marginal

Array = NDArray[np.float64]
#: Traits that are compared in the end; chosen: a round of 8 is cheap, and relatives write alike.
COMPARED = 8
#: Nats a token from which rows are unlike what the base or a teacher of it writes; chosen between
#: twins' rows and those of other bases (docs/results.md).
MISFIT = 0.2
#: Probability below which a trait's teacher is not taken for the rows' writer; chosen.
UNLIKELY = 0.01
#: Version of the method: raised when what audits have kept would mean something else.
METHOD = 9


@dataclass(frozen=True)
class Race:
    """What a race showed.

    Attributes:
        pull: of every trait, shares of a probe, [T].
        shifts: by trait that was read, s(r, t) of the first rows, as many as it was read on.
        evidence: by trait that was read, log e at the last look at it.
        clear_at: rows after which a trait was clear enough, by trait; as many as the pull read at
            least.
        misfit: nats a token by which the rows are less likely under the likeliest writer than its
            own rows are; 0 if it wrote them, below 0 if they are too likely (a low temperature).
        rows: read under probes.
        pulled: read for the pull.
    """

    pull: Array
    shifts: dict[int, Array]
    evidence: dict[int, float]
    clear_at: dict[int, int]
    misfit: float
    rows: int
    pulled: int

    @classmethod
    def not_run(cls, traits: int) -> Race:
        """Of an audit without a first look."""
        return cls(np.zeros(traits), {}, {}, {}, 0.0, 0, 0)

    @property
    def run(self) -> bool:
        """Whether any row was read under probes."""
        return self.rows > 0

    @property
    def known_lineage(self) -> bool:
        """Whether the rows are such as the base, or a teacher tuned from it, writes."""
        return abs(self.misfit) <= MISFIT

    @property
    def clear(self) -> dict[int, int]:
        """``clear_at`` where the lineage is known, else nothing."""
        return self.clear_at if self.known_lineage else {}

    @property
    def last(self) -> list[int]:
        """The likeliest of the traits that were read to the end, the likeliest first."""
        traits = [t for t, shifts in self.shifts.items() if len(shifts) == self.rows]
        if not traits:
            return []
        best = likelihood_ratios(np.stack([self.shifts[t] for t in traits])).max(1)
        return [traits[i] for i in np.argsort(-best)[:COMPARED]]

    @property
    def likeliest(self) -> list[int]:
        """Those of ``last`` that explain the rows about as well as the best does."""
        last = self.last
        if not last:
            return []
        near = as_likely(np.stack([self.shifts[t] for t in last]))
        return [t for t, is_near in zip(last, near, strict=True) if is_near]

    @property
    def against_base(self) -> float:
        """The likeliest trait's log e against the base alone, nats: did any teacher write them?"""
        return float(marginal(np.stack([self.shifts[t] for t in self.last])).max())

    @property
    def writers(self) -> dict[int, float]:
        """By trait, how likely such a teacher wrote the rows, if the base and the traits that were
        read to the end are alike before; those below ``UNLIKELY`` are left out, as the base is."""
        last = self.last
        given = marginal(np.stack([self.shifts[t] for t in last]))
        chances = softmax([0.0, *given])[1:]
        return {t: float(p) for t, p in zip(last, chances, strict=True) if p >= UNLIKELY}

    @property
    def scores(self) -> Array:
        """A number for each trait, [T], that ranks all of them: minus the logarithms of its places
        by pull and by likelihood, where traits that were not read to the end are last."""
        return -np.log(places(self.pull)) - np.log(places(self.likelihoods))

    @property
    def likelihoods(self) -> Array:
        """Each trait's log-likelihood ratio against the base under the likeliest share, nats, [T];
        minus infinity for those that were not read to the end."""
        ratios = np.full(len(self.pull), -np.inf)
        for t, shifts in self.shifts.items():
            if len(shifts) == self.rows:
                ratios[t] = likelihood_ratios(shifts[None]).max()
        return ratios

    def after(self, rows: int) -> Race:
        """The race as it stood when so many rows were read, its lineage taken from all of them."""
        shifts = {t: values[:rows] for t, values in self.shifts.items()}
        return replace(self, shifts=shifts, rows=rows)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        shifts = {t: values.tolist() for t, values in self.shifts.items()}
        return vars(self) | {"pull": self.pull.tolist(), "shifts": shifts}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Race:
        """From what ``to_json`` gave, through JSON or not."""
        shifts = {int(t): np.array(values) for t, values in record["shifts"].items()}
        evidence = {int(t): float(value) for t, value in record["evidence"].items()}
        clear_at = {int(t): int(n) for t, n in record["clear_at"].items()}
        rest = record["misfit"], record["rows"], record["pulled"]
        return cls(np.array(record["pull"]), shifts, evidence, clear_at, *rest)


def places(values: Array) -> Array:
    """The place of each value from the largest, 1 and up; ties get the worst."""
    return distributions.rankdata(-values, method="max")
