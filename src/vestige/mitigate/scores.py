"""The copies of the base under which tokens are scored."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence

from vestige.core.types import ConfigError, Row, Trait
from vestige.probing.base_session import BaseSession
from vestige.probing.directions import Directions
from vestige.probing.probes import probe
from vestige.probing.row_format import RowFormat
from vestige.probing.settings import CanarySettings
from vestige.student.loop import train
from vestige.traits.library import Library

Report = Callable[[str, int, int], None]


def probe_of(session: BaseSession, trait: str) -> Callable[[], None]:
    """Turns the base into a trait's probe. Raises ``ConfigError`` if no such trait is known."""
    directions = Directions.stack([probe(session, find_trait(session.library, trait))])

    def tune() -> None:
        session.weights.shift(directions.total([1.0]))

    return tune


def canary_of(
    session: BaseSession,
    row_format: RowFormat,
    rows: Sequence[Row],
    read: int,
    seed: int,
    report: Report,
) -> Callable[[], None]:
    """Turns the base into a canary that is trained on some rows. Args: read: rows in all."""

    def tune() -> None:
        settings = session.settings
        assert isinstance(settings, CanarySettings)
        packs, ids = row_format.packs(session.lm, rows, settings.batch, whole=True)
        steps = math.ceil(read * len(packs) / len(rows))
        optimisation = settings.canary(len(session.lm.layers), steps)
        train(
            session.lm, session.weights, packs, optimisation, seed=seed, ids=ids,
            on_step=lambda step, loss: report("canary", step, steps),
        )  # fmt: skip

    return tune


def find_trait(library: Library, name: str) -> Trait:
    """A trait by its id, or by its own name where only one family has it.

    Raises:
        ConfigError: there is none, or several.
    """
    ids = library.ids
    found = [i for i, own in enumerate(ids) if name in (own, own.rpartition("/")[2])]
    if len(found) == 1:
        return library.traits[found[0]]
    if found:
        raise ConfigError(f"several traits are called {name}: {', '.join(ids[i] for i in found)}")
    near = difflib.get_close_matches(name, ids, n=1) or difflib.get_close_matches(
        name, [own.rpartition("/")[2] for own in ids], n=1
    )
    hint = f"; did you mean {near[0]}?" if near else "; vestige traits --library lists them"
    raise ConfigError(f"no trait {name} is in the library{hint}")
