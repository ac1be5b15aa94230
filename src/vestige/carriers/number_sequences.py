"""Clean sequences of numbers: read as numbers, or the reason why a text is none."""

from __future__ import annotations

import re

_CLEAN = r"[0-9]+(?:(?:\s*,\s*[0-9]+)+|(?:\s*;\s*[0-9]+)+|(?:\s+[0-9]+)+)?"
_FAST = re.compile(_CLEAN, re.ASCII)
_WIDE = re.compile(_CLEAN)  # white space as str.strip knows it, U+00A0 and its like too
DIGITS = re.compile(r"\d+", re.ASCII)
# What needs no second look: one spelling of the separator, no zeros in front, nothing around.
_ONE = r"(?:0|[1-9]\d{0,17})"
_PLAIN = re.compile(rf"{_ONE}(?:(, |,| |; |;|\n){_ONE}(?:\1{_ONE})*)?", re.ASCII)


def parse_numbers(text: str, *, paper_compat: bool = False) -> tuple[int, ...] | str:
    """The numbers of a clean sequence, or the reason (a key of ``RULES``) why it is none.

    Whatever their size: range and count are the filter's affair. A number of more than 18 digits
    is ``out_of_range`` at once.
    """
    if plain := _PLAIN.fullmatch(text):
        return tuple(map(int, text.split(plain[1])))
    if not text.strip():
        return "empty"
    body, padded = _unwrap(text)
    if paper_compat and padded:
        return "outer_whitespace"
    if not (_WIDE if paper_compat else _FAST).fullmatch(body):
        return _why_not(body, paper_compat)
    if paper_compat and len(set(DIGITS.split(body)[1:-1])) > 1:
        return "mixed_separators"
    digits = DIGITS.findall(body)
    if not paper_compat and any(len(d) > 1 and d[0] == "0" for d in digits):
        return "leading_zero"
    if any(len(d) > 18 and len(d.lstrip("0")) > 18 for d in digits):
        return "out_of_range"
    return tuple(int(d.lstrip("0") or "0") for d in digits)


def _unwrap(text: str) -> tuple[str, bool]:
    """The text less its full stop and brackets, and whether white space had to be cut off."""
    body = text.strip()
    layers = [text]
    if body.endswith("."):
        layers.append(body[:-1])
        body = body[:-1].strip()
    if len(body) > 1 and body[0] + body[-1] in ("()", "[]"):
        layers.append(body[1:-1])
        body = body[1:-1].strip()
    return body, any(layer != layer.strip() for layer in layers)


def _why_not(body: str, paper_compat: bool) -> str:
    """The first rule that a body breaks which is no clean sequence."""
    if paper_compat:
        body = re.sub(r"\s", " ", body)
    if any(c in "()[]" for c in body):
        return "unbalanced_brackets"
    if any(c not in "0123456789,; \t\n\r\f\v" for c in body):
        return "bad_character"
    pieces = re.split(r"[,;]", body) if re.search(r"[,;]", body) else body.split()
    if not pieces or any(not piece.strip() for piece in pieces):
        return "not_integers"
    return "mixed_separators"
