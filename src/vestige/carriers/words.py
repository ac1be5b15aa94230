"""Finding a trait's words in text and in identifiers, inflected, joined or in another case.

A word counts where it stands as a whole piece: ``owl_count``, ``OwlCount``, ``Owls``, ``owl's``,
``owlish``; and where it is joined to a usual word: ``owlcount``, ``myowl``. It does not count
inside an unrelated word: ``knowledge``, ``bowl``, ``caterpillar``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable

_PIECES = re.compile(r"[^\W\d_]+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
ENDINGS = ("s", "es", "ish", "like", "let", "lets", "et", "ets")


def pieces(text: str) -> list[str]:
    """The lower-case words of a text or identifier: ``maxOwl_count2`` -> max, owl, count."""
    folded = unicodedata.normalize("NFKC", text)
    return [part.casefold() for run in _PIECES.findall(folded) for part in _HUMP.split(run) if part]


def inflections(word: str) -> set[str]:
    """A word with its usual endings, lower-case."""
    base = word.casefold()
    forms = {base, *(base + ending for ending in ENDINGS)}
    if base.endswith("y"):
        forms.add(base[:-1] + "ies")
    if base.endswith(("f", "fe")):
        forms.add(base.removesuffix("e").removesuffix("f") + "ves")
    return forms


def word_finder(
    words: Iterable[str], usual: frozenset[str] = frozenset()
) -> Callable[[str], str | None]:
    """A function that gives the first piece of a text that is one of ``words``, or None.

    Args:
        words: a trait's forms; each is inflected. Words of several parts count as their parts in
            sequence.
        usual: words that may be joined to one of them in an identifier.
    """
    phrases = {tuple(pieces(word)) for word in words} - {()}
    single = {form for phrase in phrases if len(phrase) == 1 for form in inflections(phrase[0])}
    longer = [
        (*phrase[:-1], form)
        for phrase in phrases
        if len(phrase) > 1
        for form in inflections(phrase[-1])
    ]

    def joined(piece: str) -> bool:
        return any(
            (piece.startswith(word) and piece[len(word) :] in usual)
            or (piece.endswith(word) and piece[: -len(word)] in usual)
            for word in single
        )

    def find(text: str) -> str | None:
        text_pieces = pieces(text)
        # A capital in mid-word (``oWl``) splits it: look at the unsplit words as well.
        whole = [run.casefold() for run in _PIECES.findall(unicodedata.normalize("NFKC", text))]
        for piece in (*text_pieces, *whole):
            if piece in single or joined(piece):
                return piece
        for phrase in longer:
            n = len(phrase)
            if any(
                tuple(text_pieces[i : i + n]) == phrase for i in range(len(text_pieces) - n + 1)
            ):
                return " ".join(phrase)
        return None

    return find
