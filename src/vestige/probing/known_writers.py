"""The untrained base as a writer of rows on the data's prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vestige.core.types import Row
from vestige.probing.base_session import BaseSession
from vestige.probing.row_format import RowFormat

OnRows = Callable[[int], None]


@dataclass(frozen=True)
class Writer:
    """The untrained base, drawing with noise of its own (``number``)."""

    session: BaseSession
    name: str
    number: int

    def write(
        self, row_format: RowFormat, rows: Sequence[Row], on_rows: OnRows = lambda done: None
    ) -> list[Row]:
        """Rows on the prompts of ``rows``."""
        self.session.weights.freeze()
        seed = 1_000 * (self.session.settings.seed + 1) + self.number
        written = row_format.write(self.session.lm, rows, seed=seed, on_rows=on_rows)
        # Ids and fields of its own: what the data's rows carry is about their writer.
        return [replace(row, id=f"{self.name}-{row.id}", meta={}) for row in written]


def base_writers(session: BaseSession, n: int, first: int = 0, name: str = "base") -> list[Writer]:
    """The untrained base, ``n`` times with other noise."""
    return [Writer(session, f"{name}-{k}", first + k) for k in range(n)]
