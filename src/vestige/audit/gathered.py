"""All that an audit gathers before it decides. Plain data: no model, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vestige.audit.canary_statistics import Look
from vestige.audit.race_result import Race
from vestige.audit.settings import AuditSettings
from vestige.core.types import Row, ScoreTable
from vestige.probing.settings import TWIN
from vestige.traits.library import Library

if TYPE_CHECKING:
    from vestige.probing.soft_targets import SoftTargets
    from vestige.probing.word_shifts import WordShift

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Control:
    """A planted teacher's trait, and the race of the rows that it wrote.

    Attributes:
        kind: how it is tuned: ``TWIN``, or one of ``OTHER_KINDS``.
        gained: nats of log-odds by which it has more of its trait than the base; None: not asked.
    """

    trait: str
    race: Race
    kind: str = TWIN
    gained: float | None = None


@dataclass(frozen=True)
class Canaries:
    """The data's canary against those of known writers, look by look, and words that rose."""

    looks: Sequence[Look]
    words: Sequence[WordShift]


@dataclass(frozen=True)
class Evidence:
    """All that an audit gathered.

    Attributes:
        row_kind: ``numbers`` or ``text``.
        rows: of the data, read in all.
        used: the rows of the data that the audit reads under probes.
        dropped: how many rows were set aside, by reason.
        race: the data's.
        expected: what a student would take on of every trait, nats a whole probe, [T]; None where
            that is not known of the base.
        reference_shifts: by trait, the shifts of reference rows.
        seconds: by kind of stage.
        tokens: that canaries were trained on.
        own_reference: whether the reference rows are the user's.
        soft_targets: by row, the writer's probabilities, where they are known.
        logprobs: where rows carry such, their tokens by whether and why not they were used.
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
    controls: Sequence[Control]
    expected: Array | None
    reference_shifts: Mapping[int, Array]
    seconds: Mapping[str, float]
    tokens: int
    own_reference: bool
    soft_targets: Mapping[str, SoftTargets] = field(default_factory=dict)
    logprobs: Mapping[str, int] = field(default_factory=dict)
    canaries: Canaries | None = None
    scores: Sequence[ScoreTable] = ()
    marked: Mapping[str, list[tuple[str, float]]] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    @property
    def levels(self) -> tuple[float, ...]:
        """What each look of the canary may spend of the chance of a false flag."""
        return self.settings.levels(len(self.used))

    @property
    def needed(self) -> float:
        """Evidence from which a trait is clear, nats."""
        return self.settings.needed(len(self.library.ids))

    @property
    def twins(self) -> list[Control]:
        """Planted teachers that are twins of the probes."""
        return [control for control in self.controls if control.kind == TWIN]

    @property
    def others(self) -> list[Control]:
        """Planted teachers of other kinds."""
        return [control for control in self.controls if control.kind != TWIN]
