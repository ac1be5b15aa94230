"""Which texts were met before, in bounded memory: for ids and duplicates in files of any size."""

from __future__ import annotations

from array import array

FILLED = 0.6  # a fuller table is doubled
_WORD = (1 << 64) - 1


class Seen:
    """A set of texts by their 64-bit hashes: 13 to 27 bytes a text, and half as much again for a
    moment while it grows.

    Two of n different texts count as one with a chance of about n^2 / 2^65: 3 in a million for
    ten million texts.
    """

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 << 16))  # open addressing; 0 is a free slot
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, text: str) -> bool:
        """Remember a text; whether it is new."""
        table, key = self._table, (hash(text) & _WORD) or 1
        mask = len(table) - 1
        at = key & mask
        while table[at]:
            if table[at] == key:
                return False
            at = (at + 1) & mask
        table[at] = key
        self._count += 1
        if self._count > FILLED * len(table):
            self._grow()
        return True

    def __contains__(self, text: str) -> bool:
        table, key = self._table, (hash(text) & _WORD) or 1
        mask = len(table) - 1
        at = key & mask
        while table[at]:
            if table[at] == key:
                return True
            at = (at + 1) & mask
        return False

    def _grow(self) -> None:
        old, table = self._table, array("Q", bytes(16 * len(self._table)))
        mask = len(table) - 1
        for key in old:
            if key:
                at = key & mask
                while table[at]:
                    at = (at + 1) & mask
                table[at] = key
        self._table = table
