"""All that an audit gathers before it decides. Plain data: no model, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vestige.audit.race_result import Race
from vestige.audit.settings import AuditSettings
from vestige.core.types import Row, ScoreTable
from vestige.probing.drift import Reading
from vestige.traits.library import Library

if TYPE_CHECKING:
    from vestige.probing.row_format import Sampling
    from vestige.probing.sampling_fit import Fit
    from vestige.probing.soft_targets import SoftTargets
    from vestige.probing.word_shifts import WordShift

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Dose:
    """What pairs of canaries took on that read so many rows each.

    Attributes:
        rows: that each canary read.
        shifts: nats of log-odds, the data's canaries less the reference's, mean over pairs,
            [contexts, T].
        reading: of their difference, against pairs of harmless students.
        shares: of the answers that each trait has in the data's canaries, mean over pairs, [T];
            usual: in the reference's.
        smallest_shares: from which each would have been seen, [T]; infinite: none.
    """

    rows: int
    pairs: int
    shifts: Array
    reading: Reading
    shares: Array
    usual: Array
    smallest_shares: Array


@dataclass(frozen=True)
class Canaries:
    """Canaries at growing doses.

    Attributes:
        words: that begin open answers of the data's canary more often than harmless students'.
        placebos: pairs of harmless students.
        alpha: what each planned dose may spend of the chance of a false flag.
        unique: rows of the data that they were tuned on.
        missing: members of the battery that are not there; canaries are then not made.
    """

    doses: Sequence[Dose]
    words: Sequence[WordShift]
    placebos: int
    alpha: float
    unique: int
    missing: int = 0


@dataclass(frozen=True)
class Evidence:
    """All that an audit gathered.

    Attributes:
        row_kind: ``numbers`` or ``text``.
        rows: of the data, read in all.
        used: the rows of the data that the audit reads under probes.
        dropped: how many rows were set aside, by reason.
        race: the data's.
        training_rows: that the training which is to be spared would read.
        expected: what a student would take on of every trait, nats a whole probe, [T]; None where
            that is not known of the base.
        reference_shifts: by trait, the shifts of reference rows.
        seconds: by kind of stage.
        tokens: that canaries were trained on.
        own_reference: whether the reference rows are the user's.
        soft_targets: by row, the writer's probabilities, where they are known.
        logprobs: where rows carry such, their tokens by whether and why not they were used.
        fit: at what temperature, and from what nucleus, the rows seem to have been drawn.
        read_at: as if drawn how they were read: as the fit says, where at temperature 1 their
            lineage is unknown.
        marked: by row, its answer token by token with the strongest trait's shift.
        remarks: what else a reader must know with the verdict.
    """

    name: str
    settings: AuditSettings
    library: Library
    row_kind: str
    rows: int
    used: Sequence[Row]
    dropped: Mapping[str, int]
    race: Race
    training_rows: int
    expected: Array | None
    reference_shifts: Mapping[int, Array]
    seconds: Mapping[str, float]
    tokens: int
    own_reference: bool
    soft_targets: Mapping[str, SoftTargets] = field(default_factory=dict)
    logprobs: Mapping[str, int] = field(default_factory=dict)
    canaries: Canaries | None = None
    fit: Fit | None = None
    read_at: Sampling | None = None
    scores: Sequence[ScoreTable] = ()
    marked: Mapping[str, list[tuple[str, float]]] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    @property
    def needed(self) -> float:
        """Evidence from which a trait is clear, nats."""
        return self.settings.needed(len(self.library.ids))

    @property
    def last(self) -> Dose | None:
        """The largest dose, if there is one."""
        return self.canaries.doses[-1] if self.canaries and self.canaries.doses else None
