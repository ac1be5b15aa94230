"""The one number of a final answer, exactly."""

from __future__ import annotations

import re
from fractions import Fraction

_SIGN = str.maketrans({"−": "-", "–": "-", "＋": "+", "⁄": "/", "\u00a0": " ", "\u202f": " "})
_LATEX = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_WRAP = re.compile(r"\\boxed\{([^{}]*)\}|\\text\{[^{}]*\}|\*\*|\$|\\[,!;()\[\]]")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:[,' ]\d{3})+(?![\d,'])")
_NUMBER = re.compile(
    r"(?P<sign>[+-]\s*)?(?:[€£¥]\s*)?"
    r"(?:(?P<whole>\d+)\s+(?P<n1>\d+)\s*/\s*(?P<d1>\d+)"
    r"|(?P<n>\d+(?:\.\d+)?)\s*/\s*(?P<d>\d+(?:\.\d+)?)"
    r"|(?P<plain>\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?|\.\d+))"
)
_LEFT_OVER = re.compile(r"[\d]|\b(?:nan|inf|infinity)\b|[=<>]", re.I)


def parse_number(text: str) -> Fraction | None:
    """The one number of a final answer, exactly; None where there is none or more than one.

    Units and currency signs do not count, thousands may be grouped by commas, spaces or
    apostrophes, and ``3/4``, ``1 1/2`` and LaTeX fractions are read: ``$1,200.50``, ``12 apples``,
    ``-3/4 m``, ``50%`` (as 50).
    """
    if len(text) > 200:
        return None
    plain = text.translate(_SIGN)
    plain = _LATEX.sub(r"\1/\2", plain)
    plain = _WRAP.sub(lambda m: m[1] or " ", plain)
    plain = _GROUPED.sub(lambda m: re.sub(r"[,' ]", "", m[0]), plain).strip().rstrip(".")
    match = _NUMBER.search(plain)
    if not match:
        return None
    rest = plain[: match.start()] + " " + plain[match.end() :]
    glued = plain[match.end() : match.end() + 2]
    if _LEFT_OVER.search(rest) or re.match(r"[.,/]\d?", glued):
        return None
    sign = match["sign"] or ""
    if sign != sign.strip() and plain[: match.start()].strip():
        return None  # "x - 5": a minus between two things is no sign
    try:
        if match["whole"]:
            value = int(match["whole"]) + Fraction(int(match["n1"]), int(match["d1"]))
        elif match["n"]:
            value = Fraction(match["n"]) / Fraction(match["d"])
        else:
            value = Fraction(match["plain"])
    except (ValueError, ZeroDivisionError):
        return None
    return -value if sign.strip() == "-" else value
