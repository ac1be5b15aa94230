"""How well an audit predicts what students really took on: ``vestige bench audit``.

Truth comes from finished runs (``vestige run``): the rows that teachers wrote, and the specific
part that each student took on, seed by seed. Every data set of a run is audited as if its writer
were unknown, for at most ``rows`` rows; reference rows are made once a seed, as all its data sets
share their prompts. Clean data sets are further draws of the untrained base, and rows of the run's
no-trait teacher where there are any. The audit's planted teachers and probes are tuned with other
seeds than the run's teachers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from vestige.audit import evidence
from vestige.audit.activations import activations
from vestige.audit.assay import SCREENED, Assay, assay
from vestige.audit.canary import canary
from vestige.audit.influence import influence, trait_gradients
from vestige.audit.lab import Lab
from vestige.audit.material import Material, choose_rows
from vestige.audit.probes import Probes
from vestige.audit.prompts import prompted
from vestige.audit.reader import spread
from vestige.audit.settings import AuditSettings
from vestige.audit.verdict import Look, look
from vestige.audit.writers import Writer, base_writers, planted_writers
from vestige.experiment.analysis import Shifts
from vestige.experiment.reading import read_kept
from vestige.experiment.recipe import NO_TRAIT, Experiment, parse_recipe
from vestige.store import atomic_write, hash_config
from vestige.store.files import read_json
from vestige.types import ConfigError, DataError, Row

Array = NDArray[np.float64]
Report = Callable[[str], None]
CLEAN, FIRST_CLEAN = "clean", 100  # name and noise of clean data sets
METHODS = ("influence", "activations", "prompts", "canary")  # beside the probes; see docs/audit.md


@dataclass(frozen=True)
class Case:
    """One data set with what its students took on.

    Attributes:
        trait: the writer's, by its id; ``none`` or ``clean-...`` for a clean data set.
        truth: for each library trait of the run's family the specific part, nats; empty: clean.
        scores: by method, a number for each library trait, [T].
        trial: the probes' assay.
        taken_on: what a canary took on beside those of known writers' rows, nats, [T]; None: no
            canary was tuned.
    """

    name: str
    trait: str
    truth: dict[str, float]
    scores: dict[str, Array]
    trial: Assay
    taken_on: Array | None = None


class Bench:
    """Cases from runs. All that was computed is kept below ``folder``, so that a bench that was
    stopped goes on."""

    def __init__(
        self, settings: AuditSettings, folder: Path, *, methods: Sequence[str], report: Report
    ) -> None:
        self.lab = Lab(settings)
        self.folder, self.report, self.methods = folder, report, methods
        self.probes = Probes(self.lab, lambda done: report(f"probe {done}"))
        self.gradients = trait_gradients(self.lab) if "influence" in methods else None
        folder.mkdir(parents=True, exist_ok=True)

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gives as plain data, from the folder if it was made there before."""
        settings = self.lab.settings.model_dump(mode="json")
        digest = hash_config([name, settings, self.lab.fingerprint, self.lab.contents])
        path = self.folder / f"{name}-{digest[:12]}.json"
        if not path.exists():
            self.report(name)
            atomic_write(path, json.dumps(make()))
        return json.loads(path.read_text())

    def seed(self, run: Path, recipe: Experiment, seed: int, clean: int) -> Iterator[Case]:
        """Every data set of one seed of a run, and ``clean`` ones that the base writes."""
        student = next((s for s in recipe.students if s.method == "rows" and not s.base), None)
        if student is None:
            raise DataError(f"{run} has no students of the same base on sampled rows")
        where, settings = run / f"seed-{seed}", self.lab.settings
        names = [*recipe.sources, *([NO_TRAIT] if recipe.rows_with_none else [])]
        data = {
            name: choose_rows(
                read_kept(where / "rows" / name), settings.rows, settings.batch, settings.seed
            )
            for name in names
        }
        first = next(iter(data.values()))
        material = Material.of(self.lab.lm, first, settings.max_new_tokens)
        truths = self.truths(run, recipe, student, seed)
        own = {name: f"{recipe.family}/{name}" for name in recipe.traits}
        sets = _Sets(self, f"{run.name}-{seed}", material, first)
        for name, rows in data.items():
            yield sets.case(name, own.get(name, name), truths.get(name, {}), rows)
        for writer in base_writers(self.lab, clean, FIRST_CLEAN, CLEAN):
            yield sets.case(writer.name, writer.name, {}, sets.written(writer))

    def truths(
        self, run: Path, recipe: Experiment, student: Any, seed: int
    ) -> dict[str, dict[str, float]]:
        """For each data set of a seed, the specific part of every candidate of the family,
        on the held-out questions that the audit does not ask (all where it asks all)."""
        shifts = Shifts(recipe, student, run)
        first = shifts.panel(seed, recipe.sources[0], student.steps)
        every = range(len(first.questions))
        asked = set(spread(every, self.lab.settings.questions))
        left = [i for i in every if i not in asked] or list(every)
        panels = {
            data: shifts.panel(seed, data, student.steps)
            .shift(shifts.base(seed, data))[left]
            .mean(0)
            for data in recipe.sources
        }
        ids = set(self.lab.library.ids)
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

    def __init__(self, bench: Bench, prefix: str, material: Material, like: Sequence[Row]) -> None:
        self.bench, self.prefix, self.material, self.like = bench, prefix, material, like
        self.reference = base_writers(bench.lab, 1)[0]

    def written(self, writer: Writer) -> list[Row]:
        """What a known writer writes on the seed's prompts."""
        return writer.write(self.material, self.like)

    def pulled(self, name: str, kind: str, rows: Callable[[], Sequence[Row]]) -> Array:
        """One method's scores of the first rows, [n, T]."""
        lab, material = self.bench.lab, self.material

        def make() -> Any:
            some = rows()[:SCREENED]
            if kind == "probes":
                return self.bench.probes.pull(material, some).tolist()
            if kind == "influence" and self.bench.gradients:
                return influence(lab, material, some, self.bench.gradients).tolist()
            method = {"activations": activations, "prompts": prompted}[kind]
            return method(lab, material, some).tolist()

        return np.array(self.bench.kept(f"{self.prefix}-{kind}-{name}", make))

    def case(self, name: str, trait: str, truth: dict[str, float], rows: Sequence[Row]) -> Case:
        """A data set under every method."""
        bench, once = self.bench, lambda: self.written(self.reference)
        pull = self.pulled(name, "probes", lambda: rows)
        usual = self.pulled("reference", "probes", once)

        def make() -> Any:
            return assay(bench.probes, self.material, rows, (pull, usual)).to_json()

        trial = Assay.from_json(bench.kept(f"{self.prefix}-assay-{name}", make))
        n = len(bench.lab.library.ids)
        draw = np.random.default_rng(int(hash_config([self.prefix, name])[:8], 16))
        scores = {"probes": trial.scores, "probes, screen only": trial.z}
        seen = self.canary(name, rows) if "canary" in bench.methods else None
        if seen:
            scores["canary"] = seen.z
        for kind in (method for method in bench.methods if method != "canary"):
            contrast, scale = evidence.pulls(
                self.pulled(name, kind, lambda: rows), self.pulled("reference", kind, once)
            )
            scores[kind] = np.nan_to_num(contrast / scale, nan=-1e9)
        return Case(
            f"{self.prefix}-{name}", trait, truth,
            scores | {
                "wrong trait's score": np.roll(trial.z, n // 2), "random": draw.normal(size=n),
            }, trial, seen and seen.contrast,
        )  # fmt: skip

    def canary(self, name: str, rows: Sequence[Row]) -> Look:
        """The data's canary beside those of the base's and planted teachers' rows."""
        bench, lab = self.bench, self.bench.lab

        def shifts(label: str, some: Callable[[], Sequence[Row]]) -> Array:
            def make() -> Any:
                found = canary(lab, self.material, some(), seed=lab.settings.seed + 1)
                return found.shifts[-1].tolist()

            return np.array(bench.kept(f"{self.prefix}-canary-{label}", make))

        writers = [*base_writers(lab, lab.settings.base_written), *planted_writers(lab)]
        references = {w.name: shifts(w.name, lambda w=w: self.written(w)) for w in writers}
        planted = {w.name: w.planted for w in writers if w.planted}
        own = shifts(f"data-{name}", lambda: rows)
        return look(len(rows), own, references, planted, lab.library.ids)


def bench_audit(
    runs: Sequence[Path],
    settings: AuditSettings,
    folder: Path,
    *,
    seeds: Sequence[int] | None = None,
    clean: int = 4,
    methods: Sequence[str] = (),
    report: Report = lambda name: None,
) -> dict[str, Any]:
    """Audit every data set of ``runs`` and hold the outcome against what students took on.

    Args:
        seeds: those of the runs to take; None takes all.
        clean: further draws of the untrained base for each seed, as clean data sets.
        methods: of ``METHODS``, to compare with.

    Raises:
        DataError: a run has no students on sampled rows; StoreError: it is not finished.
        ConfigError: no such method.
    """
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
                cases += bench.seed(run, recipe, seed, clean)
    found = summarise(cases, bench.lab.library.ids, bench.lab.library.held_out)
    atomic_write(folder / "bench.json", json.dumps(found, indent=1))
    return found


def summarise(
    cases: Sequence[Case],
    ids: Sequence[str],
    held_out: frozenset[str],
) -> dict[str, Any]:
    """Figures by method, over all traits and over those held out; false alarms on clean sets."""
    own = [case for case in cases if case.truth and case.trait in ids]
    clean = [case for case in cases if case.trait == NO_TRAIT or case.trait.startswith(CLEAN)]
    if not own:
        raise DataError("no data set of these runs has a trait that is in the library")
    parts = {
        "all": own,
        "held out": [c for c in own if c.trait in held_out],
        "not held out": [c for c in own if c.trait not in held_out],
    }
    parts = {part: members for part, members in parts.items() if members}
    index = {case.name: ids.index(case.trait) for case in own}
    rows = [rows_to_flag(c, ids) for c in own]
    return {
        "methods": {
            method: {part: figures(members, index, ids, method) for part, members in parts.items()}
            for method in own[0].scores
        },
        "flagged": {
            part: {
                "data sets": len(members),
                "own trait flagged": sum(index[c.name] in c.trial.clear for c in members),
                "own family flagged": sum(rows_to_flag(c, ids) is not None for c in members),
                "own trait as likely as the best": sum(
                    index[c.name] in likeliest(c) for c in members
                ),
            }
            for part, members in parts.items()
        },
        "clean": {"data sets": len(clean), "false alarms": sum(bool(c.trial.clear) for c in clean)},
        "rows to a flag": rows,
        "median rows to a flag": median_rows(rows),
        "size": sizes(own, index),
        "misfit": {case.name: round(case.trial.misfit, 3) for case in cases},
        "cases": {
            case.name: {
                "own": case.trait,
                "place": rank(case.scores["probes"], index[case.name]),
                "evidence": case.trial.evidence.get(index[case.name]),
                "share": share_of(case, index[case.name]),
                "measured": case.truth[case.trait],
                "top": [ids[i] for i in np.argsort(-case.scores["probes"])[:5]],
            }
            for case in own
        },
    }


def median_rows(rows: Sequence[int | None]) -> float | None:
    """The median over data sets, those without a flag being the longest; None if it is one."""
    median = float(np.median([np.inf if n is None else n for n in rows]))
    return median if np.isfinite(median) else None


def share_of(case: Case, trait: int) -> float:
    """The likeliest share of rows that such a teacher wrote; 0 for a trait that was left out."""
    shifts = case.trial.shifts.get(trait)
    return 0.0 if shifts is None else evidence.share(shifts)


def sizes(cases: Sequence[Case], index: dict[str, int]) -> dict[str, dict[str, float]]:
    """By method, how well it foretells the own trait's measured specific part, nats."""
    measured = [c.truth[c.trait] for c in cases]
    shifts = [float(c.trial.shifts.get(index[c.name], np.zeros(1)).mean()) for c in cases]
    canaries = [float(c.taken_on[index[c.name]]) for c in cases if c.taken_on is not None]
    found = {"probes": foretold(shifts, measured)}
    return found | ({"canary": foretold(canaries, measured)} if canaries else {})


def foretold(predictor: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    """The line from a predictor to the measured size, over data sets, and how far they lie from it
    when each is left out of the line's fit in turn (a straight mean's figure beside it)."""
    x, y = np.array(predictor), np.array(measured)
    vary = len(x) > 3 and min(x.std(), y.std()) > 0
    slope, start = np.polyfit(x, y, 1) if vary else (0.0, float(y.mean()))
    rho = distributions.spearmanr(x, y) if vary else None
    rest = [np.arange(len(x)) != i for i in range(len(x))] if vary else []
    off = [y[i] - np.polyval(np.polyfit(x[r], y[r], 1), x[i]) for i, r in enumerate(rest)]
    plain = [y[i] - y[r].mean() for i, r in enumerate(rest)]
    return {
        "slope": float(slope),
        "start": float(start),
        "error": float(np.sqrt(np.mean(np.square(off)))) if off else 0.0,
        "error of the mean": float(np.sqrt(np.mean(np.square(plain)))) if off else 0.0,
        "correlation": float(np.corrcoef(x, y)[0, 1]) if vary else 0.0,
        "spearman": float(rho.statistic) if rho else 0.0,  # type: ignore[attr-defined]
        "p": float(rho.pvalue) if rho else 1.0,  # type: ignore[attr-defined]
    }


def figures(
    cases: Sequence[Case], index: dict[str, int], ids: Sequence[str], method: str
) -> dict[str, float]:
    """AUROC of own against all other traits, share of first and first-five places in the library,
    and the rank correlation with the measured specific part over the family's traits."""
    places = np.array([rank(c.scores[method], index[c.name]) for c in cases])
    # A rank correlation over one or two traits says nothing (misalignment has one).
    rho = [
        distributions.spearmanr(
            [c.scores[method][ids.index(name)] for name in c.truth], list(c.truth.values())
        )[0]
        for c in cases
        if len(c.truth) > 2
    ]
    return {
        "auroc": float(np.mean(1 - (places - 1) / (len(ids) - 1))),
        "top1": float(np.mean(places == 1)),
        "top5": float(np.mean(places <= 5)),
        "median place": float(np.median(places)),
        "spearman": float(np.mean(rho)) if rho else 0.0,  # type: ignore[arg-type]
        "data sets": len(cases),
    }


def rank(scores: Array, index: int) -> int:
    """Place of a trait from the largest; ties get the worst."""
    return int((scores >= scores[index]).sum())


def likeliest(case: Case) -> list[int]:
    """The traits that explain the rows about as well as the best does."""
    last = case.trial.last
    some = evidence.as_likely(np.stack([case.trial.shifts[t] for t in last]))
    return [t for t, is_likely in zip(last, some, strict=True) if is_likely]


def rows_to_flag(case: Case, ids: Sequence[str]) -> int | None:
    """Rows after which a trait of the own trait's family was flagged; None where none was."""
    family = case.trait.rpartition("/")[0]
    found = [n for t, n in case.trial.clear.items() if ids[t].rpartition("/")[0] == family]
    return min(found, default=None)
