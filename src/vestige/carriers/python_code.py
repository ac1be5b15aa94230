"""Python code in a text: read, and what is in it: names, strings, comments, anything done."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(r"\s*```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)\n?[ \t]*```\s*", re.S | re.I)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class Code:
    """Python that parsed."""

    text: str
    tree: ast.Module


def read_code(text: str, max_chars: int = 20_000) -> Code | str:
    """The code of an answer, fenced or not, or the reason (a key of ``RULES``) why it is none."""
    if not text.strip():
        return "empty"
    if len(text) > max_chars:
        return "too_long"
    if _CONTROL.search(text):
        return "null_byte"
    body = text
    if "```" in text:
        fenced = _FENCE.fullmatch(text)
        if not fenced or "```" in fenced[1]:
            return "text_around_code"
        body = fenced[1]
    body = body.strip("\r\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in somebody's string is no news
            return Code(body, ast.parse(body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "does_not_parse"


def is_string(node: ast.AST) -> bool:
    """A string or bytes constant, or an f-string."""
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def does_something(node: ast.stmt) -> bool:
    """False for a bare literal, name or tuple of such: what plain words parse to by accident."""
    if not isinstance(node, ast.Expr):
        return not isinstance(node, ast.Pass)
    bare = (
        ast.Constant,
        ast.Name,
        ast.Tuple,
        ast.Attribute,
        ast.UnaryOp,
        ast.expr_context,
        ast.operator,
        ast.unaryop,
        ast.BinOp,
        ast.Compare,
        ast.cmpop,
        ast.BoolOp,
        ast.boolop,
        ast.JoinedStr,
        ast.FormattedValue,
    )
    return not all(isinstance(part, bare) for part in ast.walk(node.value))


def has_comment(text: str) -> bool:
    """Whether the code has a comment; a hash inside a string is none."""
    if "#" not in text:
        return False
    try:
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        return any(token.type == tokenize.COMMENT for token in tokens)
    except (tokenize.TokenError, SyntaxError, IndentationError):
        return True  # it parsed, yet cannot be read by tokens: not worth a risk


def names_of(tree: ast.Module) -> Iterator[str]:
    """Every identifier: names, attributes, arguments, keywords, imports, patterns and so on."""
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if isinstance(value, str) and not isinstance(node, ast.Constant):
                yield value
            elif isinstance(value, list) and field in ("names", "kwd_attrs"):
                yield from (item for item in value if isinstance(item, str))


def strings_of(tree: ast.Module) -> Iterator[str]:
    """Every string constant, decoded bytes and the text of whole f-strings included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [p.value for p in node.values if isinstance(p, ast.Constant)]
            yield " ".join(map(str, parts))
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                yield node.value
            elif isinstance(node.value, bytes):
                yield node.value.decode("latin-1")
