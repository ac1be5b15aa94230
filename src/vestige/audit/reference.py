"""Reference rows: a known writer's, on the data's prompts, with which other rows are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from vestige.audit.first_look import fits_better, flagged_by_likelihood
from vestige.audit.pull import REFERENCE
from vestige.audit.race import OnRound, run_race
from vestige.audit.race_result import Array, Race
from vestige.audit.settings import AuditSettings
from vestige.core.types import Row
from vestige.probing.probes import OnDone, Probes
from vestige.probing.row_format import RowFormat

#: Reference rows that the likeliest traits are read on; chosen: as many as the pull reads.
LIKELIEST_READ_ON = 64


class Reference:
    """Reference rows for one base, one library and one row format.

    The command, the benchmark and ``benchmarks/clean_sets.py`` read rows through it, so that a race
    ends, and a trait is flagged, by the same rule everywhere.
    """

    def __init__(
        self,
        probes: Probes,
        settings: AuditSettings,
        row_format: RowFormat,
        rows: Callable[[], Sequence[Row]],
        on_rows: OnDone = lambda done: None,
    ) -> None:
        """``rows`` gives the reference rows; it is called when they are needed first."""
        self.probes, self.settings, self.row_format = probes, settings, row_format
        self._write, self._on_rows = rows, on_rows
        self._shifts: dict[int, Array] = {}

    @cached_property
    def rows(self) -> Sequence[Row]:
        """The reference rows."""
        return self._write()

    @cached_property
    def products(self) -> Array:
        """Their products with all probes, [M, T]."""
        return self.probes.reference(self.row_format, self.rows[:REFERENCE], self._on_rows)

    def shifts(self, traits: Sequence[int]) -> dict[int, Array]:
        """Their shifts under some traits' probes, by trait."""
        if missing := [t for t in traits if t not in self._shifts]:
            self._shifts |= self.probes.shifts(
                self.row_format, self.rows[:LIKELIEST_READ_ON], missing
            )
        return {t: self._shifts[t] for t in traits}

    def stands(self, trait: int, shifts: Array) -> bool:
        """Whether rows with these shifts fit a trait's probe better than the reference rows do."""
        return fits_better(shifts, self.shifts([trait])[trait], self.settings.alpha)

    def race(
        self,
        rows: Sequence[Row],
        on_round: OnRound = lambda done, total: None,
    ) -> Race:
        """The race of some rows compared with these; arguments as of ``run_race``."""
        return run_race(
            self.probes,
            self.settings,
            self.row_format,
            rows,
            self.products,
            on_round,
            self.stands,
        )

    def flagged(self, race: Race) -> dict[int, int]:
        """By flagged trait the rows that it took, compared with these rows."""
        return flagged_by_likelihood(race, self.shifts(list(race.clear)), self.settings)
