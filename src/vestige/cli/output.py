"""What commands print: text on the terminal, or one JSON object."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console

from vestige.core.jsonl import json_text

out = Console(emoji=False, highlight=False)
err = Console(stderr=True, emoji=False, highlight=False)  # not every :x: is meant as one


def print_result(record: Any, as_json: bool, text: Callable[[], object]) -> None:
    """The switch of every ``--json``: print ``record`` as one JSON object, or call ``text``."""
    if as_json:
        print(json_text(record))
    else:
        text()


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of which parts come from somebody's file: nothing in them is markup."""
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)


def print_path(label: str, path: object) -> None:
    """A labelled path, in one line however long it is."""
    out.print(f"{label:<8}{path}", soft_wrap=True)


def comma_separated(text: str) -> tuple[str, ...]:
    """The names in ``a, b``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def from_to(before: float | None, after: float | None) -> str:
    """Two shares; nothing where a file of before does not hold them."""
    return "–" if before is None or after is None else f"{before:.0%} → {after:.0%}"
