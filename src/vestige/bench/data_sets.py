"""The data sets of one seed of a run, each read once under every method that is compared.

All that is computed is kept in a folder, so that a benchmark that was stopped goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np

from vestige.audit.evidence import pulls
from vestige.audit.expected import STEP, expect
from vestige.audit.first_look import enough_rows, rows_to_tuned_writer
from vestige.audit.influence import influence, trait_gradients
from vestige.audit.pull import REFERENCE
from vestige.audit.race_result import METHOD, Race
from vestige.audit.reference import Reference
from vestige.bench.blind import blind
from vestige.bench.case import RANDOM, WRONG, Array, Case
from vestige.bench.decided import beyond_a_flag, stranger
from vestige.bench.settings import SCORES, BenchSettings
from vestige.core.jsonl import read_text
from vestige.core.types import Row
from vestige.models.hf import LanguageModel
from vestige.probing.base_session import BaseSession
from vestige.probing.known_writers import Writer, base_writers
from vestige.probing.probes import Probes
from vestige.probing.row_format import RowFormat, repeated
from vestige.probing.soft_targets import SoftTargets, from_teacher
from vestige.store import atomic_write, hash_config

Report = Callable[[str], object]
LoadWriter = Callable[[], LanguageModel]
FILLER = 99  # noise of the base's rows among a writer's
SCREENED = 64  # rows that first-order methods read; as many as the audit's pull
NOTHING = -1e9  # score of a trait that a method has nothing for: behind all others


class Readings:
    """What is read under one base with one set of settings, kept below ``folder``."""

    def __init__(self, settings: BenchSettings, folder: Path, report: Report) -> None:
        self.settings, self.audit, self.methods = settings, settings.audit, settings.methods
        self.session = BaseSession(settings.audit)
        self.folder, self.report = folder, report
        self.probes = Probes(self.session, self._on_probe)
        wanted = "influence" in self.methods
        self.gradients = trait_gradients(self.session) if wanted else None
        folder.mkdir(parents=True, exist_ok=True)

    def _on_probe(self, done: int) -> None:
        self.report(f"probe {done}")

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gives as plain data, from the folder if it was made there before."""
        settings, session = self.audit.model_dump(mode="json"), self.session
        key = [name, settings, session.fingerprint, session.contents, METHOD, STEP]
        path = self.folder / f"{name}-{hash_config(key)[:12]}.json"
        if not path.exists():
            self.report(name)
            atomic_write(path, json.dumps(make()))
        return json.loads(read_text(path))


class DataSets:
    """The data sets of one seed of a run, with reference rows on the same prompts."""

    def __init__(
        self, readings: Readings, prefix: str, row_format: RowFormat, like: Sequence[Row]
    ) -> None:
        self.readings, self.session = readings, readings.session
        self.prefix, self.row_format, self.like = prefix, row_format, like
        #: What the base writes on the first prompts.
        self.reference = Reference(
            readings.probes, readings.audit, row_format, lambda: self._reference_rows
        )

    @cached_property
    def _reference_rows(self) -> list[Row]:
        writer = base_writers(self.session, 1)[0]
        return writer.write(self.row_format, repeated(self.like, REFERENCE))

    def written(self, writer: Writer) -> list[Row]:
        """What a known writer writes on the seed's prompts."""
        return writer.write(self.row_format, self.like)

    @cached_property
    def fillers(self) -> list[Row]:
        """What the base writes on the seed's prompts, in place of a data set's own rows."""
        return self.written(base_writers(self.session, 1, FILLER, "filler")[0])

    def case(
        self,
        name: str,
        trait: str,
        truth: dict[str, float],
        rows: Sequence[Row],
        load_writer: LoadWriter | None = None,
    ) -> Case:
        """A data set under every method; ``load_writer`` loads its writer, whose probabilities are
        to be known."""
        readings, ids = self.readings, self.session.library.ids
        name = f"{name}-told" if load_writer else name
        race, flagged = self._race(name, rows, load_writer)
        expected = readings.kept(
            f"{self.prefix}-expected-{name}", lambda: expect(readings.probes, race).tolist()
        )
        scores = self._scores(name, rows, race, np.array(expected))
        return Case(
            name=f"{self.prefix}-{name}",
            trait=trait,
            truth=truth,
            scores=scores,
            race=race,
            flagged=flagged,
            stranger=stranger(race, trait, ids, readings.audit),
            beyond=beyond_a_flag(race, ids, readings.audit),
            tuned_at=rows_to_tuned_writer(race, readings.audit),
            sizes={"expected": scores["expected"]},
            blind=readings.kept(
                f"{self.prefix}-blind-{name}",
                lambda: blind(self.session, self.row_format, rows, self.reference.rows),
            ),
        )

    def _race(
        self, name: str, rows: Sequence[Row], load_writer: LoadWriter | None
    ) -> tuple[Race, dict[int, int]]:
        """The race of a data set, and its flags by the command's rule."""
        probes = self.readings.probes

        def make() -> Any:
            _ = self.reference.products  # before the writer's probabilities are known
            probes.soft_targets = self._soft_targets(rows, load_writer) if load_writer else {}
            race = self.reference.race(rows)
            probes.soft_targets = {}
            return race.to_json() | {"flagged": self.reference.flagged(race)}

        record = self.readings.kept(f"{self.prefix}-verdict-{name}", make)
        race = Race.from_json(record)
        # Readings kept by earlier versions may hold flags of fewer rows than a batch.
        flagged = record["flagged"] if enough_rows(race, self.readings.audit) else {}
        return race, {int(t): int(n) for t, n in flagged.items()}

    def _soft_targets(self, rows: Sequence[Row], load_writer: LoadWriter) -> dict[str, SoftTargets]:
        """What the rows' writer gave the likeliest choices."""
        self.session.weights.freeze()
        batch = self.readings.audit.batch
        return from_teacher(self.session.lm, load_writer(), self.row_format, rows, batch)

    def _scores(
        self, name: str, rows: Sequence[Row], race: Race, expected: Array
    ) -> dict[str, Array]:
        """By method a number for each trait, [T]: the audit's, those to compare with, baselines."""
        n = len(self.session.library.ids)
        scores = {
            "audit": race.scores,
            "likelihood": race.likelihoods,
            "pull": race.pull,
            "expected": expected,
        }
        for method in self.readings.methods:
            contrast, scale = pulls(
                self._screened(name, method, lambda: rows),
                self._screened("reference", method, lambda: self.reference.rows),
            )
            scores[method] = np.nan_to_num(contrast / scale, nan=NOTHING)
        draw = np.random.default_rng(int(hash_config([self.prefix, name])[:8], 16))
        return scores | {WRONG: np.roll(race.scores, n // 2), RANDOM: draw.normal(size=n)}

    def _screened(self, name: str, method: str, rows: Callable[[], Sequence[Row]]) -> Array:
        """One method's scores of the first rows, [n, T]."""
        session, row_format, gradients = self.session, self.row_format, self.readings.gradients

        def make() -> Any:
            first = rows()[:SCREENED]
            if method == "influence" and gradients:
                return influence(session, row_format, first, gradients).tolist()
            return resolve_name(SCORES[method])(session, row_format, first).tolist()

        return np.array(self.readings.kept(f"{self.prefix}-{method}-{name}", make))


def diluted(rows: Sequence[Row], fillers: Sequence[Row], share: float) -> list[Row]:
    """``rows`` with all but ``share`` of them replaced by ``fillers``, evenly spread."""
    own = np.diff(np.floor(np.arange(len(rows) + 1) * share + 1e-9)) > 0
    return [row if own[i] else fillers[i % len(fillers)] for i, row in enumerate(rows)]
