"""One data set of the benchmark of audits, as plain data: what was read of it, and the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vestige.audit.race_result import Race
from vestige.experiment.recipe import NO_TRAIT

Array = NDArray[np.float64]
CLEAN = "clean"  # how clean data sets begin their names
COMBINED = "combined"
WRONG, RANDOM = BASELINES = "wrong trait's score", "random"
UNREAD = np.empty(0)  # shifts of a trait that was not read


@dataclass(frozen=True)
class Case:
    """One data set with what its students took on.

    Attributes:
        trait: the writer's, by its id; ``none`` or ``clean-...`` for a clean data set.
        truth: for each library trait of the run's family the specific part, nats; empty: clean.
        scores: by method, a number for each library trait, [T].
        race: the rows'.
        flagged: by flagged trait, after how many rows it was.
        stranger: the trait that is flagged where the library lacks the writer's family, if one is.
        beyond: by how many nats the clearest trait at any look passed what flags; below 0: none;
            None: likelihood and pull agreed on no trait.
        tuned_at: rows after which they are clearly not the base's own, whichever trait's teacher
            wrote them; None where they are not in the end.
        sizes: by predictor, what it tells of every trait, [T]: ``expected``, in nats a whole probe.
        blind: baselines that know of no trait, one number each (``blind``).
    """

    name: str
    trait: str
    truth: dict[str, float]
    scores: dict[str, Array]
    race: Race
    flagged: dict[int, int]
    stranger: str | None
    beyond: float | None
    tuned_at: int | None
    sizes: dict[str, Array]
    blind: dict[str, float]

    @property
    def family(self) -> str:
        """The family of the writer's trait."""
        return family_of(self.trait)

    @property
    def is_clean(self) -> bool:
        """Whether no teacher with a trait wrote the rows."""
        return self.trait == NO_TRAIT or self.trait.startswith(CLEAN)


def family_of(trait: str) -> str:
    """The family in a trait's id."""
    return trait.rpartition("/")[0]
