"""What a run found, on the terminal: a module for each kind of run, found by the kind's name.

A module has one function, ``print_summary(results)``. The verdict is printed after it.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any


def print_summary(results: Any) -> None:
    """Print the tables of a run; nothing for a kind that has none."""
    module = f"{__name__}.{results.kind}"
    if find_spec(module):
        import_module(module).print_summary(results)
