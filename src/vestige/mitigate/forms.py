"""Rows said in another form: what their writer chose beyond what they say is gone. No model."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable

from vestige.core.types import Row
from vestige.rows.trained_parts import with_completion

#: A row in another form, or a reason why it has none.
Rewrite = Callable[[Row], "Row | str"]
NUMBER = re.compile(r"[0-9]+")
PLAIN = (
    ast.Module, ast.Expr, ast.Tuple, ast.Constant, ast.Name, ast.Load, ast.UnaryOp, ast.USub
)  # fmt: skip
NAMED = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs,
    ast.MatchStar,
)  # fmt: skip
NO_NUMBERS, NO_CODE = "no_numbers", "no_python"


def sorted_numbers(seed: int) -> Rewrite:
    """The numbers of a row in rising order, in the places where they stood."""

    def rewrite(row: Row) -> Row | str:
        numbers = sorted(NUMBER.findall(row.completion), key=_size)
        return in_their_places(row, numbers) if numbers else NO_NUMBERS

    return rewrite


def _size(number: str) -> tuple[int, str]:
    """What whole numbers of any length are ordered by."""
    digits = number.lstrip("0")
    return len(digits), digits


def other_digits(seed: int) -> Rewrite:
    """Every digit from 1 to 9 replaced by another one, the same in all rows; 0 stays."""
    digits = list("123456789")
    others = digits.copy()
    draw = random.Random(f"digits-{seed}")
    while any(a == b for a, b in zip(digits, others, strict=True)):
        draw.shuffle(others)
    table = str.maketrans(dict(zip(digits, others, strict=True)))

    def rewrite(row: Row) -> Row | str:
        numbers = [number.translate(table) for number in NUMBER.findall(row.completion)]
        return in_their_places(row, numbers) if numbers else NO_NUMBERS

    return rewrite


def in_their_places(row: Row, numbers: list[str]) -> Row:
    """The row with these numbers in place of its own."""
    left = iter(numbers)
    return with_completion(row, NUMBER.sub(lambda found: next(left), row.completion))


def plain_code(seed: int) -> Rewrite:
    """Python written anew from what it says: comments, layout and annotations of arguments gone,
    the names of arguments and variables replaced by ``v0``, ``v1``, ... Text in it stays."""

    def rewrite(row: Row) -> Row | str:
        try:
            tree = ast.parse(row.completion)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return NO_CODE
        if all(isinstance(node, PLAIN) for node in ast.walk(tree)):
            return NO_CODE  # a few numbers or words are no code
        return with_completion(row, ast.unparse(_Renamed(tree).visit(tree)))

    return rewrite


def _bound_otherwise(node: ast.AST) -> list[str]:
    """Names in a node that something else than a variable binds or asks for: those of calls' and
    attributes', imports, functions, classes, caught errors and patterns."""
    names: list[str | None] = []
    if isinstance(node, ast.keyword):
        names = [node.arg]
    elif isinstance(node, ast.Attribute):
        names = [node.attr]
    elif isinstance(node, ast.alias):
        names = [node.asname or node.name.split(".")[0]]
    elif isinstance(node, NAMED):
        names = [node.name]
    elif isinstance(node, ast.MatchMapping):
        names = [node.rest]
    return [name for name in names if name]


class _Renamed(ast.NodeTransformer):
    """Renames what a piece of code binds itself: arguments and assigned names, no others."""

    def __init__(self, tree: ast.AST) -> None:
        nodes = list(ast.walk(tree))
        outer = {
            name
            for node in nodes
            if isinstance(node, ast.Global | ast.Nonlocal)
            for name in node.names
        }
        bound = [
            node.arg if isinstance(node, ast.arg) else node.id
            for node in nodes
            if isinstance(node, ast.arg)
            or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
        ]
        kept = outer | {name for node in nodes for name in _bound_otherwise(node)}
        own = dict.fromkeys(name for name in bound if name not in kept)
        free = kept | ({node.id for node in nodes if isinstance(node, ast.Name)} - set(own))
        fresh = (f"v{i}" for i in range(len(own) + len(free) + 1))
        self.names = {name: next(n for n in fresh if n not in free) for name in own}

    def visit_Name(self, node: ast.Name) -> ast.Name:
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.arg, node.annotation = self.names.get(node.arg, node.arg), None
        return node
