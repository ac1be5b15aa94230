"""Carriers: the innocuous data that a teacher writes. One module each; ``numbers`` so far.

A carrier module has prompts (seeded), a filter (rows -> kept, dropped with reasons), a grammar for
constrained sampling, and the shuffles that serve as controls.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from vestige.types import unknown_name

CARRIERS = ("numbers",)


def carrier(name: str) -> ModuleType:
    """The module of a carrier. Raises ``ConfigError`` naming the nearest ones."""
    if name not in CARRIERS:
        raise unknown_name("carrier", name, CARRIERS)
    return importlib.import_module(f"{__name__}.{name}")
