"""The copy of the base under which tokens are scored."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from vestige.audit.settings import AuditSettings
from vestige.core.types import ConfigError, Row, Trait
from vestige.mitigate.settings import MitigateSettings
from vestige.probing.base_session import BaseSession
from vestige.probing.directions import Directions
from vestige.probing.probes import probe
from vestige.probing.row_format import RowFormat
from vestige.student.loop import train
from vestige.traits.library import Library

Report = Callable[[str, int, int], None]


class Scorer:
    """A trait's probe, or a canary that is trained on the rows."""

    def __init__(
        self,
        session: BaseSession,
        settings: MitigateSettings,
        row_format: RowFormat,
        rows: Sequence[Row],
        report: Report,
    ) -> None:
        """Raises ``ConfigError`` for a trait that is not in the library."""
        self.session, self.settings, self.report = session, settings, report
        self.row_format, self.rows = row_format, rows
        self.trait = find_trait(session.library, settings.trait) if settings.trait else None

    def tune(self) -> None:
        """Turn the base into the copy."""
        session = self.session
        if self.trait is not None:
            made = Directions.stack([probe(session, self.trait)])
            session.weights.shift(made.total([1.0]))
            return
        audit = session.settings
        assert isinstance(audit, AuditSettings)
        read = audit.doses(len(self.rows))[-1]
        optimisation = audit.canary(len(session.lm.layers), read)
        packs, ids = self.row_format.packs(session.lm, self.rows, optimisation.batch, whole=True)
        train(
            session.lm, session.weights, packs, optimisation, seed=self.settings.seed, ids=ids,
            on_step=lambda step, loss: self.report("canary", step, optimisation.steps),
        )  # fmt: skip


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
