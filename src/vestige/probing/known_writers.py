"""Writers that are known: the untrained base, and the teachers that an audit plants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vestige.core.types import Row, Trait
from vestige.probing.base_session import BaseSession
from vestige.probing.row_format import RowFormat
from vestige.probing.settings import OTHER_KINDS, TWIN
from vestige.traits.library import trait_id

OnRows = Callable[[int], None]


@dataclass(frozen=True)
class Writer:
    """One writer of rows on the data's prompts; ``trait``: None is the untrained base; ``kind``:
    how a planted teacher is tuned (``ProbingSettings.planting``).

    Every writer draws with noise of its own (``number``), as the data's writer did, so that the
    references' spread holds the noise of drawing rows as well.
    """

    session: BaseSession
    name: str
    number: int
    trait: Trait | None = None
    kind: str = TWIN

    @property
    def planted(self) -> str | None:
        """The id of the trait that was planted, if one was."""
        return trait_id(self.trait) if self.trait else None

    def write(
        self, row_format: RowFormat, rows: Sequence[Row], on_rows: OnRows = lambda done: None
    ) -> list[Row]:
        """Rows on the prompts of ``rows``."""
        if self.kind == TWIN:
            return self._write(row_format, rows, on_rows)
        with self.session.all_layers():
            return self._write(row_format, rows, on_rows)

    def _write(self, row_format: RowFormat, rows: Sequence[Row], on_rows: OnRows) -> list[Row]:
        if self.trait is None:
            self.session.weights.freeze()
        else:
            self.session.become(self.trait, self.kind)
        seed = 1_000 * (self.session.settings.seed + 1) + self.number
        written = row_format.write(self.session.lm, rows, seed=seed, on_rows=on_rows)
        # Ids and fields of its own: what the data's rows carry is about their writer.
        return [replace(row, id=f"{self.name}-{row.id}", meta={}) for row in written]

    def gained(self) -> float | None:
        """Nats of log-odds by which a planted teacher has more of its trait than the base."""
        if self.trait is None:
            return None
        with self.session.all_layers():
            return self.session.gained(self.trait, self.kind)


def base_writers(session: BaseSession, n: int, first: int = 0, name: str = "base") -> list[Writer]:
    """The untrained base, ``n`` times with other noise."""
    return [Writer(session, f"{name}-{k}", first + k) for k in range(n)]


def planted_writers(session: BaseSession) -> list[Writer]:
    """The planted teachers that are twins of the probes."""
    first = session.settings.base_written
    return [Writer(session, f"planted-{k}", first + k, t) for k, t in enumerate(session.planted())]


def other_writers(session: BaseSession, traits: Sequence[str]) -> list[Writer]:
    """Planted teachers of the other kinds, of traits by their ids: of the first trait one of each
    kind, then of the next."""
    by_id = {trait_id(trait): trait for trait in session.library.traits}
    first = session.settings.base_written + session.settings.planted
    pairs = [(by_id[name], kind) for name in traits for kind in OTHER_KINDS]
    return [Writer(session, f"other-{k}", first + k, *pair) for k, pair in enumerate(pairs)]
