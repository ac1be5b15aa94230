"""How well an audit predicts what students really took on: ``vestige bench audit``.

Truth comes from finished runs (``vestige run``): the rows that teachers wrote, and the specific
part that each student took on, seed by seed. Every data set of a run is audited as if its writer
were unknown, for at most ``rows`` rows; reference rows are made once a seed, as all its data sets
share their prompts. ``told``: the rows come with what their writer gave the likeliest choices of
every token, as APIs tell it; from the teachers that the run kept. Clean data sets are further draws
of the untrained base, rows of the run's no-trait teacher where there are any, and files that are
known to be clean. The audit's planted teachers and probes are tuned with other seeds than the run's
teachers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vestige.audit import evidence
from vestige.audit.canary import canary
from vestige.audit.canary_test import Look, look
from vestige.audit.data import Data
from vestige.audit.decision import fits_better
from vestige.audit.expected import STEP, expect
from vestige.audit.influence import influence, trait_gradients
from vestige.audit.prompts import prompted
from vestige.audit.pull import REFERENCE
from vestige.audit.race import BESIDE, METHOD, Race, run_race
from vestige.audit.settings import AuditSettings
from vestige.bench.blind import blind
from vestige.bench.figures import CLEAN, RANDOM, WRONG, Case, looks, stranger, summarise, tuned_at
from vestige.core.jsonl import read_text
from vestige.core.types import ConfigError, DataError, Row
from vestige.experiment.analysis import Shifts
from vestige.experiment.recipe import NO_TRAIT, Experiment, TeacherSettings, parse_recipe
from vestige.experiment.run_view import read_kept
from vestige.models.hf import LanguageModel
from vestige.models.weights import Weights
from vestige.probing.activations import activations
from vestige.probing.base_session import BaseSession, load
from vestige.probing.known_writers import Writer, base_writers, planted_writers
from vestige.probing.probes import Probes
from vestige.probing.row_format import RowFormat, choose_rows, repeated, unusable
from vestige.probing.soft_targets import SoftTargets, from_teacher
from vestige.probing.trait_panel import spread
from vestige.store import atomic_write, hash_config
from vestige.store.files import read_json

Array = NDArray[np.float64]
Report = Callable[[str], None]
Teller = Callable[[], LanguageModel]
FIRST_CLEAN = 100  # noise of the first clean data set
FILLER = 99  # noise of the base's rows among a writer's
SCREENED = 64  # rows that first-order methods read
METHODS = ("influence", "activations", "prompts", "canary")  # beside the audit's; docs/audit.md


class Bench:
    """Cases from runs. All that was computed is kept below ``folder``, so that a bench that was
    stopped goes on."""

    def __init__(
        self, settings: AuditSettings, folder: Path, *, methods: Sequence[str], report: Report
    ) -> None:
        self.settings, self.session = settings, BaseSession(settings)
        self.folder, self.report, self.methods = folder, report, methods
        self.probes = Probes(self.session, lambda done: report(f"probe {done}"))
        self.gradients = trait_gradients(self.session) if "influence" in methods else None
        folder.mkdir(parents=True, exist_ok=True)

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gives as plain data, from the folder if it was made there before."""
        settings = self.settings.model_dump(mode="json")
        what = [name, settings, self.session.fingerprint, self.session.contents, METHOD, STEP]
        digest = hash_config(what)
        path = self.folder / f"{name}-{digest[:12]}.json"
        if not path.exists():
            self.report(name)
            atomic_write(path, json.dumps(make()))
        return json.loads(read_text(path))

    def seed(
        self, run: Path, recipe: Experiment, seed: int, clean: int, share: float, told: bool
    ) -> Iterator[Case]:
        """Every data set of one seed of a run, ``share`` of it its writer's, and ``clean`` ones
        that the base writes; ``told``: with their writers' probabilities."""
        student = next((s for s in recipe.students if s.method == "rows" and not s.base), None)
        if student is None:
            raise DataError(f"{run} has no students of the same base on sampled rows")
        where, settings = run / f"seed-{seed}", self.settings
        names = [*recipe.sources, *([NO_TRAIT] if recipe.rows_with_none else [])]
        data = {
            name: choose_rows(
                read_kept(where / "rows" / name), settings.rows, settings.batch, settings.seed
            )
            for name in names
        }
        first = next(iter(data.values()))
        row_format = RowFormat.of(self.session.lm, first, settings.max_new_tokens)
        truths = self.truths(run, recipe, student, seed)
        own = {name: f"{recipe.family}/{name}" for name in recipe.traits}
        self.same_making(f"{run.name}-{seed}", data)
        sets = _Sets(self, f"{run.name}-{seed}", row_format, first)
        for name, rows in data.items():
            label = name if share == 1 else f"{name}-{share:g}"
            some = rows if share == 1 else diluted(rows, sets.fillers, share)
            stage = where / "teacher" / name
            teller = partial(self.teacher, stage, recipe.teacher) if told else None
            yield sets.case(label, own.get(name, name), truths.get(name, {}), some, teller)
        for writer in base_writers(self.session, clean, FIRST_CLEAN, CLEAN):
            teller = (lambda: self.session.lm) if told else None
            yield sets.case(writer.name, writer.name, {}, sets.written(writer), teller)

    def teacher(self, stage: Path, how: TeacherSettings) -> LanguageModel:
        """A run's teacher, beside the base. Raises ``DataError`` if the run does not hold it."""
        weights, settings = stage / "weights.safetensors", self.settings
        if how.kind != "tuned" or not weights.exists():
            raise DataError(f"{weights} is not there: --told needs tuned teachers that are kept")
        lm = load(settings, settings.base)
        what = how.optimisation.trainable
        Weights(lm, [what]).load(weights, what)
        return lm

    def same_making(self, name: str, data: Mapping[str, Sequence[Row]]) -> None:
        """Raises ``DataError`` if the folder's readings are of other rows of a run of that name."""
        rows = {label: [row.completion for row in some] for label, some in data.items()}
        path, digest = self.folder / f"{name}-making.json", hash_config(rows)
        if not path.exists():
            atomic_write(path, json.dumps({"rows": digest}))
        elif read_json(path, "name another --out")["rows"] != digest:
            raise DataError(
                f"{self.folder} holds readings of another making of {name}; name another --out"
            )

    def known_clean(self, path: Path | str) -> Case:
        """A file of rows that no teacher with a trait wrote."""
        settings, lm = self.settings, self.session.lm
        data = Data.of(path, settings.seed)
        usable = [r for r in data.rows if not unusable(lm, r, settings.max_new_tokens)]
        rows = choose_rows(usable, settings.rows, settings.batch, settings.seed)
        row_format = RowFormat.of(lm, rows, settings.max_new_tokens)
        name = f"{CLEAN}-{data.identity[:12]}"
        return _Sets(self, "file", row_format, rows).case(name, name, {}, rows)

    def truths(
        self, run: Path, recipe: Experiment, student: Any, seed: int
    ) -> dict[str, dict[str, float]]:
        """For each data set of a seed, the specific part of every candidate of the family,
        on the held-out questions that the audit does not ask (all where it asks all)."""
        shifts = Shifts(recipe, student, run)
        first = shifts.panel(seed, recipe.sources[0], student.steps)
        every = range(len(first.questions))
        asked = set(spread(every, self.settings.questions))
        left = [i for i in every if i not in asked] or list(every)
        panels = {
            data: shifts.panel(seed, data, student.steps)
            .shift(shifts.base(seed, data))[left]
            .mean(0)
            for data in recipe.sources
        }
        ids = set(self.session.library.ids)
        found: dict[str, dict[str, float]] = {}
        for data, own in panels.items():
            others = np.mean([p for name, p in panels.items() if name != data], axis=0)
            found[data] = {
                f"{recipe.family}/{candidate}": float(value)
                for candidate, value in zip(first.candidates, own - others, strict=True)
                if f"{recipe.family}/{candidate}" in ids
            }
        return found


class _Sets:
    """The data sets of one seed of a run, with reference rows on the same prompts."""

    def __init__(self, bench: Bench, prefix: str, row_format: RowFormat, like: Sequence[Row]) -> None:
        self.bench, self.prefix, self.row_format, self.like = bench, prefix, row_format, like
        self.reference = base_writers(bench.session, 1)[0]
        self.usual: dict[int, Array] = {}  # reference rows' shifts, by trait

    @cached_property
    def clean_rows(self) -> list[Row]:
        """Reference rows: what the base writes on the first prompts."""
        return self.reference.write(self.row_format, repeated(self.like, REFERENCE))

    @cached_property
    def products(self) -> Array:
        """The reference rows' products with all probes, [M, T]."""
        return self.bench.probes.reference(self.row_format, self.clean_rows)

    def written(self, writer: Writer) -> list[Row]:
        """What a known writer writes on the seed's prompts."""
        return writer.write(self.row_format, self.like)

    @cached_property
    def fillers(self) -> list[Row]:
        """What the base writes on the seed's prompts, in place of a data set's own rows."""
        return self.written(base_writers(self.bench.session, 1, FILLER, "filler")[0])

    def pulled(self, name: str, kind: str, rows: Callable[[], Sequence[Row]]) -> Array:
        """One method's scores of the first rows, [n, T]."""
        session, row_format = self.bench.session, self.row_format

        def make() -> Any:
            some = rows()[:SCREENED]
            if kind == "influence" and self.bench.gradients:
                return influence(session, row_format, some, self.bench.gradients).tolist()
            method = {"activations": activations, "prompts": prompted}[kind]
            return method(session, row_format, some).tolist()

        return np.array(self.bench.kept(f"{self.prefix}-{kind}-{name}", make))

    def stands(self, trait: int, shifts: Array) -> bool:
        """Whether rows fit a trait's probe better than the seed's reference rows do."""
        if trait not in self.usual:
            rows = self.clean_rows[:BESIDE]
            self.usual |= self.bench.probes.shifts(self.row_format, rows, [trait])
        return fits_better(shifts, self.usual[trait], self.bench.settings.alpha_each)

    def soft_targets(self, rows: Sequence[Row], teller: Teller) -> dict[str, SoftTargets]:
        """What the rows' writer gave the likeliest choices."""
        session = self.bench.session
        session.weights.freeze()
        return from_teacher(session.lm, teller(), self.row_format, rows, self.bench.settings.batch)

    def case(
        self, name: str, trait: str, truth: dict[str, float], rows: Sequence[Row],
        teller: Teller | None = None,
    ) -> Case:  # fmt: skip
        """A data set under every method; ``teller``: loads its writer, whose probabilities are to
        be known."""
        bench, once = self.bench, lambda: self.clean_rows
        name = f"{name}-told" if teller else name

        def make() -> Any:
            products = self.products
            bench.probes.soft_targets = self.soft_targets(rows, teller) if teller else {}
            found = run_race(
                bench.probes, bench.settings, self.row_format, rows, products, stands=self.stands
            )
            bench.probes.soft_targets = {}
            flagged = {t: n for t, n in found.clear.items() if self.stands(t, found.shifts[t])}
            return found.to_json() | {"flagged": flagged}

        record = bench.kept(f"{self.prefix}-verdict-{name}", make)
        trial = Race.from_json(record)
        session = bench.session
        n = len(session.library.ids)
        taken = bench.kept(
            f"{self.prefix}-expected-{name}", lambda: expect(bench.probes, trial).tolist()
        )
        draw = np.random.default_rng(int(hash_config([self.prefix, name])[:8], 16))
        scores = {
            "audit": trial.scores,
            "likelihood": trial.likelihoods,
            "pull": trial.pull,
            "expected": np.array(taken),
        }
        seen = self.canary(name, rows) if "canary" in bench.methods else None
        if seen:
            scores["canary"] = seen.z
        for kind in (method for method in bench.methods if method != "canary"):
            contrast, scale = evidence.pulls(
                self.pulled(name, kind, lambda: rows), self.pulled("reference", kind, once)
            )
            scores[kind] = np.nan_to_num(contrast / scale, nan=-1e9)
        wrong = {WRONG: np.roll(trial.scores, n // 2)}
        return Case(
            name=f"{self.prefix}-{name}",
            trait=trait,
            truth=truth,
            scores=scores | wrong | {RANDOM: draw.normal(size=n)},
            trial=trial,
            flagged={int(t): int(rows) for t, rows in record["flagged"].items()},
            stranger=stranger(trial, trait, session.library.ids, bench.settings),
            beyond=max((b for _, b in looks(trial, session.library.ids, bench.settings)), default=None),
            tuned_at=tuned_at(trial, bench.settings),
            sizes={"expected": scores["expected"]} | ({"canary": seen.contrast} if seen else {}),
            blind=bench.kept(
                f"{self.prefix}-blind-{name}",
                lambda: blind(session, self.row_format, rows, self.clean_rows),
            ),
        )

    def canary(self, name: str, rows: Sequence[Row]) -> Look:
        """The data's canary beside those of the base's and planted teachers' rows."""
        bench, session = self.bench, self.bench.session

        def shifts(label: str, some: Callable[[], Sequence[Row]]) -> Array:
            def make() -> Any:
                found = canary(
                    session, bench.settings, self.row_format, some(), seed=session.settings.seed + 1
                )
                return found.shifts[-1].tolist()

            return np.array(bench.kept(f"{self.prefix}-canary-{label}", make))

        writers = [*base_writers(session, session.settings.base_written), *planted_writers(session)]
        references = {w.name: shifts(w.name, lambda w=w: self.written(w)) for w in writers}
        planted = {w.name: w.planted for w in writers if w.planted}
        own = shifts(f"data-{name}", lambda: rows)
        return look(len(rows), own, references, planted, session.library.ids)


def diluted(rows: Sequence[Row], fillers: Sequence[Row], share: float) -> list[Row]:
    """``rows`` with all but ``share`` of them replaced by ``fillers``, evenly spread."""
    own = np.diff(np.floor(np.arange(len(rows) + 1) * share + 1e-9)) > 0
    return [row if own[i] else fillers[i % len(fillers)] for i, row in enumerate(rows)]


def bench_audit(
    runs: Sequence[Path],
    settings: AuditSettings,
    folder: Path,
    *,
    seeds: Sequence[int] | None = None,
    clean: int = 4,
    known_clean: Sequence[Path | str] = (),
    methods: Sequence[str] = (),
    share: float = 1.0,
    told: bool = False,
    report: Report = lambda name: None,
) -> dict[str, Any]:
    """Audit every data set of ``runs`` and hold the outcome against what students took on.

    Args:
        seeds: those of the runs to take; None takes all.
        clean: further draws of the untrained base for each seed, as clean data sets.
        known_clean: files of rows that are known to be clean, such as texts that people wrote.
        methods: of ``METHODS``, to compare with.
        share: of each data set's rows that are its writer's; the base writes the others. Truth
            stays what students of the writer's rows alone took on.
        told: the rows come with what their writer gave each token's likeliest choices.

    Raises:
        DataError: a run has no students on sampled rows; StoreError: it is not finished.
        ConfigError: no such method; ``told`` of rows that several wrote.
    """
    if told and share < 1:
        raise ConfigError("--told is for data sets of one writer: leave --share out")
    if unknown := set(methods) - set(METHODS):
        raise ConfigError(f"no method {', '.join(unknown)}; there are {', '.join(METHODS)}")
    bench = Bench(settings, folder, methods=methods, report=report)
    cases: list[Case] = []
    for run in runs:
        recipe = parse_recipe(
            read_json(run / "recipe.json", "name a run folder"), str(run / "recipe.json")
        )
        if not isinstance(recipe, Experiment):
            raise DataError(f"{run} is no run on language models")
        for seed in recipe.seeds:
            if seeds is None or seed in seeds:
                cases += bench.seed(run, recipe, seed, clean, share, told)
    cases += [bench.known_clean(path) for path in known_clean]
    found = summarise(cases, bench.session.library.ids, bench.session.library.held_out)
    atomic_write(folder / "bench.json", json.dumps(found, indent=1))
    return found
