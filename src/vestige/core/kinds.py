"""Kinds of run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel


@dataclass(frozen=True)
class Kind:
    """A kind of run: what its recipe.json and results.json hold, and how it is run again."""

    name: str
    settings: type[BaseModel]
    record: type[BaseModel]
    replay: Callable[..., tuple[Path, BaseModel]]
    template: str  # of report/, without the ending
