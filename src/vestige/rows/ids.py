"""Which texts were met before, in bounded memory: for ids and duplicates in files of any size."""

from __future__ import annotations

import json
from array import array
from typing import Any

FILLED = 0.6  # a fuller table is doubled
_WORD = (1 << 64) - 1  # the largest number of 64 bits


class TextSet:
    """A set of texts by their 64-bit hashes: 13 to 27 bytes a text, and half as much again for a
    moment while it grows.

    Two of n different texts count as one with a chance of about n^2 / 2^65: 3 in a million for
    ten million texts.
    """

    def __init__(self) -> None:
        self._table = array("Q", (0,)) * (1 << 16)  # open addressing; 0 is a free slot
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, text: str) -> bool:
        """Remember a text; whether it is new."""
        key = _key(text)
        at = _place(self._table, key)
        if self._table[at]:
            return False
        self._table[at] = key
        self._count += 1
        if self._count > FILLED * len(self._table):
            self._grow()
        return True

    def __contains__(self, text: str) -> bool:
        return bool(self._table[_place(self._table, _key(text))])

    def _grow(self) -> None:
        table = array("Q", (0,)) * (2 * len(self._table))
        for key in self._table:
            if key:
                table[_place(table, key)] = key
        self._table = table


def _key(text: str) -> int:
    return (hash(text) & _WORD) or 1


def _place(table: array[int], key: int) -> int:
    """Where a key stands in the table, or the free slot where it would."""
    mask = len(table) - 1
    at = key & mask
    while table[at] and table[at] != key:
        at = (at + 1) & mask
    return at


class Ids:
    """Gives every row an id that no other row has."""

    def __init__(self) -> None:
        self._seen: TextSet | None = None  # None while all ids are numbers of ours
        self._before = self._last = 0

    def next_file(self) -> None:
        """Lines are numbered on from here."""
        self._before = self._last

    def name(self, given: Any, line: int) -> str:
        """The id of a row whose file gives it ``given``."""
        if given is None:
            self._last = self._before + line
            name = f"row-{self._last:06d}"
            if self._seen is None:
                return name
        else:
            name = given if isinstance(given, str) else json.dumps(given, default=str)
            if self._seen is None:
                self._seen = TextSet()
                for number in range(1, self._last + 1):
                    self._seen.add(f"row-{number:06d}")
        return name if self._seen.add(name) else self._numbered(name, self._seen)

    @staticmethod
    def _numbered(name: str, given: TextSet) -> str:
        """``name#n`` with an n behind all that were given in turn, found by bisection."""
        taken, free = 1, 2
        while f"{name}#{free}" in given:
            taken, free = free, 2 * free
        while free - taken > 1:
            middle = (taken + free) // 2
            taken, free = (middle, free) if f"{name}#{middle}" in given else (taken, middle)
        given.add(f"{name}#{free}")
        return f"{name}#{free}"
