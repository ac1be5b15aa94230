"""The rows of a file of any size, as an audit takes them: read once, a sample kept in memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vestige.audit.material import empty
from vestige.audit.settings import SAMPLE
from vestige.rows import RowSource, row_line, sample_rows
from vestige.seen import Seen
from vestige.storage import HUB, locate, name_of
from vestige.types import DroppedRow, Row

KEPT = 10_000  # rows set aside that are written down; all of them are counted
PERCENT = 100


@dataclass
class Data:
    """What an audit knows of a file.

    Attributes:
        name: the file's, folder's or pattern's, without the folders before it; a hub id whole.
        rows: every different row that has text, or ``SAMPLE`` of them, in the order of the draw.
        read: rows and lines that were read.
        dropped: rows set aside, the first ``KEPT`` of them.
        reasons: how many rows were set aside, by reason.
    """

    name: str
    rows: list[Row] = field(default_factory=list)
    read: int = 0
    dropped: list[DroppedRow] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(
        cls, path: Path | str, seed: int, progress: Callable[[int, int], object] = lambda *_: None
    ) -> Data:
        """Read a file, or whatever ``RowSource`` takes.

        Args:
            progress: called with the percent that is read, of 100; not where sizes are unknown.

        Raises:
            DataError: as ``RowSource``.
        """
        source = RowSource(path)
        text = str(path)
        hub = text.startswith(HUB)
        found = cls(text.removeprefix(HUB) if hub else name_of(locate(path)) or source.name)
        found.rows, *_ = sample_rows(found._usable(source, progress), SAMPLE, seed=seed)
        return found

    @property
    def identity(self) -> str:
        """The same for files that an audit cannot tell apart."""
        found = hashlib.sha256(f"{self.read} {sorted(self.reasons.items())}".encode())
        for row in self.rows:
            found.update(row_line(row))
        return found.hexdigest()

    def drop(self, dropped: DroppedRow) -> None:
        """Set a row aside."""
        self.reasons[dropped.reason] += 1
        if len(self.dropped) < KEPT:
            self.dropped.append(dropped)

    def _usable(self, source: RowSource, progress: Callable[[int, int], object]) -> Iterator[Row]:
        seen, told = Seen(), 0
        for item in source:
            self.read += 1
            if isinstance(item, DroppedRow):
                self.drop(item)
            elif reason := empty(item):
                self.drop(DroppedRow(reason, row=item))
            # Evidence counts a row once.
            elif seen.add(repr((item.messages, item.completion))):
                yield item
            else:
                self.drop(DroppedRow("duplicate", row=item))
            if self.read % 1000 == 0 and (share := source.share) and int(PERCENT * share) > told:
                told = int(PERCENT * share)
                progress(told, PERCENT)
