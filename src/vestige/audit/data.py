"""The rows of a file of any size, as an audit takes them: read once, a sample kept in memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from vestige.audit.settings import SAMPLE
from vestige.core.types import DroppedRow, Row
from vestige.probing.row_format import empty
from vestige.rows.files import RowSource, row_line, sample_rows
from vestige.rows.formats import USUAL, Columns
from vestige.rows.ids import TextSet
from vestige.rows.places import HUB, locate, name_of
from vestige.rows.records import Records
from vestige.rows.trained_parts import other_parts, untrained, whole_turns

KEPT = 10_000  # rows set aside that are written down; all are counted; chosen: a few MB
PERCENT = 100  # progress is shown in so many parts
REASONING = "reasoning_beside_the_answer"
TRAINED_ANYWAY = (REASONING, "duplicate", "longer_than_the_context")
#: What an audit reads of a row, in words for a reader.
AUDITED = (
    "completions, and earlier assistant turns as rows of their own (not those of weight 0), each "
    "given what stands before it; rows with reasoning next to an answer are set aside, and prompts "
    "are not read"
)


@dataclass
class Data:
    """What an audit knows of a file.

    Attributes:
        name: the file's, folder's or pattern's, without the folders before it; a hub id whole.
        rows: every different row that has text, or ``SAMPLE`` of them, in the order of the draw.
        read: rows and lines that were read.
        dropped: rows set aside, the first ``KEPT`` of them.
        reasons: how many rows were set aside, by reason.
        turns: earlier assistant turns that are read as rows of their own.
        records: what the file's records looked like.
    """

    name: str
    rows: list[Row] = field(default_factory=list)
    read: int = 0
    dropped: list[DroppedRow] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    turns: int = 0
    records: Records = field(default_factory=Records)

    @classmethod
    def of(
        cls,
        path: Path | str,
        seed: int,
        progress: Callable[[int, int], object] = lambda *_: None,
        columns: Columns = USUAL,
    ) -> Data:
        """Read a file, or whatever ``RowSource`` takes.

        Args:
            columns: which columns are the prompt and the completion; default: by their names.
            progress: called with the percent that is read, of 100; not where sizes are unknown.

        Raises:
            DataError: as ``RowSource``.
        """
        source = RowSource(path, columns=columns)
        text = str(path)
        hub = text.startswith(HUB)
        data = cls(text.removeprefix(HUB) if hub else name_of(locate(path)) or source.name)
        data.records = source.records
        data.rows, *_ = sample_rows(data._usable(source, progress), SAMPLE, seed=seed)
        return data

    def described(self) -> list[str]:
        """What was found and what is read of it, in lines for a reader."""
        more = f"; {self.turns:,} earlier turns are rows of their own" if self.turns else ""
        return [*self.records.described(), f"read: {AUDITED}{more}"]

    @property
    def trained(self) -> int:
        """Rows that a training reads: also equal ones, long ones and those with reasoning, which an
        audit does not."""
        lost = sum(n for reason, n in self.reasons.items() if reason not in TRAINED_ANYWAY)
        return max(1, self.read - lost)

    @property
    def remarks(self) -> list[str]:
        """What a reader must know of rows that are more than a prompt and its completion."""
        remarks = []
        if self.turns:
            remarks.append(
                f"{self.turns:,} earlier assistant turns are trained on as well, and are read as "
                "rows of their own"
            )
        if count := self.reasons[REASONING]:
            remarks.append(
                f"{count:,} rows have reasoning next to their answer, which templates write in "
                "different ways: they are not read, and nothing is said of them"
            )
        return remarks

    @property
    def identity(self) -> str:
        """The same for files that an audit cannot tell apart."""
        digest = hashlib.sha256(f"{self.read} {sorted(self.reasons.items())}".encode())
        for row in self.rows:
            digest.update(row_line(row))
        return digest.hexdigest()

    def drop(self, dropped: DroppedRow) -> None:
        """Set a row aside."""
        self.reasons[dropped.reason] += 1
        if len(self.dropped) < KEPT:
            self.dropped.append(dropped)

    def _usable(self, source: RowSource, progress: Callable[[int, int], object]) -> Iterator[Row]:
        seen, reported = TextSet(), 0
        for item in source:
            self.read += 1
            if isinstance(item, DroppedRow):
                self.drop(item)
            elif any(kind == "reasoning" for kind, _ in other_parts(item)):
                self.drop(DroppedRow(REASONING, row=item))
            else:
                yield from self._different(item, seen)
            if (
                self.read % 1000 == 0
                and (share := source.share)
                and int(PERCENT * share) > reported
            ):
                reported = int(PERCENT * share)
                progress(reported, PERCENT)

    def _different(self, item: Row, seen: TextSet) -> Iterator[Row]:
        """A row and its earlier turns that are trained on, those that were not there before."""
        for row in (*earlier_turns(item), item):
            if reason := empty(row):
                self.drop(DroppedRow(reason, row=row))
            # Evidence counts a row once.
            elif not seen.add(repr((row.messages, row.completion))):
                if row is item:  # rows that go on alike begin alike
                    self.drop(DroppedRow("duplicate", row=row))
            else:
                self.turns += row is not item
                yield row


def earlier_turns(row: Row) -> list[Row]:
    """A row for each assistant turn before the last that is trained on."""
    turns, earlier = whole_turns(row), []
    for k, message in enumerate(row.messages):
        if message.role == "assistant" and not (turns and untrained(turns[k])):
            meta = {"messages": turns[: k + 1]} if turns else {}
            name, before = f"{row.id}-turn-{k + 1}", row.messages[:k]
            earlier.append(
                replace(row, id=name, messages=before, completion=message.content, meta=meta)
            )
    return earlier
