"""From a file's records to rows, with what was found on the way: columns, formats, first fault."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vestige.core.types import DroppedRow, Row
from vestige.rows.formats import read_plain_chat, read_record
from vestige.rows.ids import Ids
from vestige.rows.layouts import CHAT, EXPECTED, MALFORMED, USUAL, Columns, Unusable

Items = Iterator[Row | DroppedRow]
NAMED = 40  # columns that are remembered


@dataclass
class Records:
    """Makes rows of records, and remembers what they looked like.

    Attributes:
        columns: which the user names.
        requests: the turns of a batch's requests, by ``custom_id``.
        dropped: how many records gave no row.
        names: the columns that were found.
        first: the first record or line that gave no row.
    """

    columns: Columns = USUAL
    requests: Mapping[str, Any] | None = None
    dropped: int = 0
    names: dict[str, None] = field(default_factory=dict)
    first: DroppedRow | None = None
    ids: Ids = field(default_factory=Ids)
    _chats: int = 0
    _others: Counter[tuple[str, tuple[str, ...]]] = field(default_factory=Counter)

    @property
    def formats(self) -> Counter[tuple[str, tuple[str, ...]]]:
        """How many rows were read as each layout, with the columns that went into it."""
        return self._others + Counter({(CHAT[0], CHAT): self._chats})

    def row(self, record: Any, raw: Callable[[], str], number: int) -> Row | DroppedRow:
        """A row, or the record as it stood with the reason why it gives none."""
        if type(record) is dict and not self.columns:
            chat = read_plain_chat(record)
            if chat is not None:  # most rows, and the fast way
                if not self._chats:
                    self.see(record)
                self._chats += 1
                meta = meta_of(record, CHAT) if len(record) > 1 else {}
                return Row(self.ids.name(record.get("id"), number), chat[0], chat[1], meta)
        if isinstance(record, list) and record and isinstance(record[0], dict):
            record = {"messages": record}  # a line that is a conversation
        if not isinstance(record, dict):
            return self.bad(raw(), number, f"a {type(record).__name__}, not an object; {EXPECTED}")
        try:
            layout, used, messages, completion, more = read_record(
                record, self.columns, self.requests
            )
        except Unusable as error:
            self.see(record)
            return self.bad(raw(), number, str(error), error.reason)
        kind = (layout, used)
        if kind not in self._others:
            self.see(record)
        self._others[kind] += 1
        given = record.get("custom_id" if used == ("custom_id",) else "id")
        meta = meta_of(record, used)
        return Row(
            self.ids.name(given, number), messages, completion, {**meta, **more} if more else meta
        )

    def bad(self, raw: str, number: int, detail: str, reason: str = MALFORMED) -> DroppedRow:
        """What gave no row."""
        dropped_row = DroppedRow(reason, raw=raw, line=number, detail=detail)
        self.dropped += 1
        self.first = self.first or dropped_row
        return dropped_row

    def see(self, names: Collection[str]) -> None:
        """Remember columns."""
        for name in names:
            if len(self.names) < NAMED:
                self.names[str(name)] = None

    # ---- what was found -------------------------------------------------------------------------

    def found(self) -> dict[str, Any]:
        """The columns, the formats and the first fault, as plain data."""
        first = self.first and {
            "line": self.first.line,
            "reason": self.first.reason,
            "detail": self.first.detail,
        }
        formats = [
            {"format": layout, "columns": list(used), "rows": count}
            for (layout, used), count in self.formats.most_common()
        ]
        return {
            "columns": list(self.names),
            "formats": formats,
            "unread": self.dropped,
            "first_unread": first,
        }

    def described(self) -> list[str]:
        """The same in lines for a reader."""
        lines = [f"columns {', '.join(self.names) or 'none'}"]
        for (layout, used), count in self.formats.most_common(4):
            columns = "" if used == (layout,) else f" ({' + '.join(used)})"
            lines.append(f"read as {layout}{columns}: {count:,} rows")
        if len(self.formats) > 4:
            lines.append(f"and {len(self.formats) - 4} formats more")
        if self.first is not None:
            where = f", line {self.first.line}" if self.first.line else ""
            lines.append(f"not read: {self.dropped:,}; the first{where}: {self.first.detail}")
        return lines


def meta_of(record: Mapping[str, Any], used: Sequence[str]) -> dict[str, Any]:
    """What a record holds besides its id and its turns."""
    meta: dict[str, Any] = {}
    if len(record) > len(used):
        meta = {k: v for k, v in record.items() if k not in used and k not in ("id", "meta")}
        inner = record.get("meta")
        if isinstance(inner, Mapping) and not inner.keys() & meta.keys():
            meta |= inner
        elif inner is not None:
            meta["meta"] = inner
    return meta


def as_json(record: Any) -> str:
    """A record of a table, for a reader."""
    return json.dumps(record, ensure_ascii=False, default=str)
