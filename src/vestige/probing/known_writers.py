"""Writers that are known: the untrained base, and the teachers that an audit plants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vestige.core.types import Row, Trait
from vestige.probing.base_session import Lab
from vestige.probing.row_format import Material
from vestige.probing.settings import OTHER_KINDS, TWIN
from vestige.traits.library import trait_id

OnRows = Callable[[int], None]


@dataclass(frozen=True)
class Writer:
    """One writer of rows on the data's prompts; ``trait``: None is the untrained base; ``kind``:
    how a planted teacher is tuned (``ProbingSettings.planting``).

    Every writer draws with noise of its own (``number``), as the data's writer did, so that the
    references' spread holds the noise of drawing rows as well.
    """

    lab: Lab
    name: str
    number: int
    trait: Trait | None = None
    kind: str = TWIN

    @property
    def planted(self) -> str | None:
        """The id of the trait that was planted, if one was."""
        return trait_id(self.trait) if self.trait else None

    def write(
        self, material: Material, rows: Sequence[Row], on_rows: OnRows = lambda done: None
    ) -> list[Row]:
        """Rows on the prompts of ``rows``."""
        if self.kind == TWIN:
            return self._write(material, rows, on_rows)
        with self.lab.all_layers():
            return self._write(material, rows, on_rows)

    def _write(self, material: Material, rows: Sequence[Row], on_rows: OnRows) -> list[Row]:
        if self.trait is None:
            self.lab.weights.freeze()
        else:
            self.lab.become(self.trait, self.kind)
        seed = 1_000 * (self.lab.settings.seed + 1) + self.number
        written = material.write(self.lab.lm, rows, seed=seed, on_rows=on_rows)
        # Ids and fields of its own: what the data's rows carry is about their writer.
        return [replace(row, id=f"{self.name}-{row.id}", meta={}) for row in written]

    def gained(self) -> float | None:
        """Nats of log-odds by which a planted teacher has more of its trait than the base."""
        if self.trait is None:
            return None
        with self.lab.all_layers():
            return self.lab.gained(self.trait, self.kind)


def base_writers(lab: Lab, n: int, first: int = 0, name: str = "base") -> list[Writer]:
    """The untrained base, ``n`` times with other noise."""
    return [Writer(lab, f"{name}-{k}", first + k) for k in range(n)]


def planted_writers(lab: Lab) -> list[Writer]:
    """The planted teachers that are twins of the probes."""
    first = lab.settings.base_written
    return [Writer(lab, f"planted-{k}", first + k, t) for k, t in enumerate(lab.planted())]


def other_writers(lab: Lab, traits: Sequence[str]) -> list[Writer]:
    """Planted teachers of the other kinds, of traits by their ids: of the first trait one of each
    kind, then of the next."""
    by_id = {trait_id(trait): trait for trait in lab.library.traits}
    first = lab.settings.base_written + lab.settings.planted
    pairs = [(by_id[name], kind) for name in traits for kind in OTHER_KINDS]
    return [Writer(lab, f"other-{k}", first + k, *pair) for k, pair in enumerate(pairs)]
