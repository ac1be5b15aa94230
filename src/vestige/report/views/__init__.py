"""What the template of each kind of run is given: a module for each template, found by its name.

A module holds ``RECORD``, the type of the kind's results, and ``view(index, results)``, which gives
what its template ``report/<name>.html.j2`` shows in addition to the results.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from vestige.core.types import StoreError


def view_of(kind: str) -> ModuleType:
    """The module for a kind of run. Raises ``StoreError`` if such runs have no report."""
    name = f"{__name__}.{kind}"
    if not kind.isidentifier() or find_spec(name) is None:
        raise StoreError(f"there is no report on a run of the kind {kind!r}")
    return import_module(name)
