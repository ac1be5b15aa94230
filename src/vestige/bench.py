"""How well an audit predicts what students really took on: ``vestige bench audit``.

Truth comes from finished runs (``vestige run``): the rows that teachers wrote, and the specific
part that each student took on, seed by seed. Every data set of a run is audited as if its writer
were unknown; references are made once a seed, as all its data sets share their prompts. Clean data
sets are further draws of the untrained base, and rows of the run's no-trait teacher where there
are any. Canaries differ from the students they predict: another order of rows, and other questions
where the family has more than an audit asks.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from vestige.audit.canary import canary
from vestige.audit.influence import Gradients, influence, trait_gradients
from vestige.audit.lab import Lab
from vestige.audit.material import Material, choose_rows
from vestige.audit.reader import spread
from vestige.audit.settings import AuditSettings
from vestige.audit.verdict import Look, first_flags, look
from vestige.audit.writers import Writer, base_writers, planted_writers
from vestige.experiment.analysis import Shifts
from vestige.experiment.reading import read_kept
from vestige.experiment.recipe import NO_TRAIT, Experiment, parse_recipe
from vestige.store import atomic_write, hash_config
from vestige.store.files import read_json
from vestige.types import DataError, Row

Array = NDArray[np.float64]
Report = Callable[[str], None]
INFLUENCE_ROWS = 32
CLEAN, FIRST_CLEAN = "clean", 100  # name and noise of clean data sets


@dataclass(frozen=True)
class Case:
    """One data set with what its students took on.

    Attributes:
        trait: the writer's, by its id; ``none`` or ``clean-...`` for a clean data set.
        truth: for each library trait of the run's family the specific part, nats; empty: clean.
        scores: by method, a number for each library trait, [T].
        looks: the canary's looks, first to last.
    """

    name: str
    trait: str
    truth: dict[str, float]
    scores: dict[str, Array]
    looks: list[Look]


class Bench:
    """Cases from runs. Every canary and gradient is kept below ``folder``, so that a bench that
    was stopped goes on."""

    def __init__(
        self, settings: AuditSettings, folder: Path, *, clean: int, report: Report
    ) -> None:
        self.lab = Lab(settings)
        self.folder, self.clean, self.report = folder, clean, report
        self.gradients = Gradients(self.lab)
        folder.mkdir(parents=True, exist_ok=True)

    def kept(self, name: str, key: Any, make: Callable[[], Array]) -> Array:
        """What ``make`` gives, from the folder if it was made there with the same key."""
        settings = self.lab.settings.model_dump(mode="json")
        digest = hash_config([key, settings, self.lab.fingerprint, self.lab.contents])
        path = self.folder / f"{name}-{digest[:12]}.json"
        if path.exists():
            return np.array(json.loads(path.read_text()))
        self.report(name)
        made = make()
        atomic_write(path, json.dumps(made.tolist()))
        return made

    def seed(self, run: Path, recipe: Experiment, seed: int) -> list[Case]:
        """Every data set of one seed of a run."""
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
        prefix = f"{run.name}-{seed}"

        def measured(name: str, rows: Callable[[], list[Row]]) -> tuple[Array, Array]:
            """A data set's canary [looks, T] and its rows' influence [rows, T]."""
            once, key = functools.cache(rows), [prefix, name]
            shifts = self.kept(
                f"{prefix}-canary-{name}", key,
                lambda: canary(self.lab, material, once(), seed=settings.seed + 1).shifts,
            )  # fmt: skip
            pulls = self.kept(
                f"{prefix}-influence-{name}", key, lambda: self.influence(material, once())
            )
            return shifts, pulls

        def written(writer: Writer) -> tuple[Array, Array]:
            return measured(writer.name, lambda: writer.write(material, first))

        writers = [*base_writers(self.lab, settings.base_written), *planted_writers(self.lab)]
        references = {writer.name: written(writer) for writer in writers}
        planted = {writer.name: writer.planted for writer in writers if writer.planted}
        sets = {name: measured(f"data-{name}", lambda name=name: data[name]) for name in names}
        clean = base_writers(self.lab, self.clean, FIRST_CLEAN, CLEAN)
        sets |= {writer.name: written(writer) for writer in clean}
        truths = self.truths(run, recipe, student, seed)
        own = {name: f"{recipe.family}/{name}" for name in recipe.traits}
        return [
            self.case(
                f"{prefix}-{name}", own.get(name, name), found, references, planted,
                truths.get(name, {}), len(first),
            )
            for name, found in sets.items()
        ]  # fmt: skip

    def influence(self, material: Material, rows: Sequence[Row]) -> Array:
        matrix = trait_gradients(self.lab, self.gradients)
        some = rows[:: max(1, len(rows) // INFLUENCE_ROWS)]
        return influence(self.lab, material, some, gradients=self.gradients, traits=matrix)

    def case(
        self, name: str, trait: str, found: tuple[Array, Array],
        references: dict[str, tuple[Array, Array]], planted: dict[str, str],
        truth: dict[str, float], rows: int,
    ) -> Case:  # fmt: skip
        shifts, pulls = found
        settings, ids = self.lab.settings, self.lab.library.ids
        looks = [
            look(
                step * settings.batch, shifts[i],
                {label: pair[0][i] for label, pair in references.items()}, planted, ids,
            )
            for i, step in enumerate(settings.steps(rows))
        ]  # fmt: skip
        mean = np.array([pair[1].mean(0) for pair in references.values()])
        spread = np.sqrt(np.mean([pair[1].var(0, ddof=1) for pair in references.values()], axis=0))
        draw = np.random.default_rng(int(hash_config(name)[:8], 16))
        scores = {
            "canary": looks[-1].z,
            "canary, an earlier look": looks[len(looks) // 2].z,
            "canary, no references": shifts[-1],
            "influence": (pulls.mean(0) - mean.mean(0)) / spread * np.sqrt(len(pulls)),
            "influence, no references": pulls.mean(0),
            "random": draw.normal(size=len(ids)),
        }
        return Case(name, trait, truth, scores, looks)

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


def bench_audit(
    runs: Sequence[Path],
    settings: AuditSettings,
    folder: Path,
    *,
    seeds: Sequence[int] | None = None,
    clean: int = 4,
    report: Report = lambda name: None,
) -> dict[str, Any]:
    """Audit every data set of ``runs`` and hold the outcome against what students took on.

    Args:
        seeds: those of the runs to take; None takes all.
        clean: further draws of the untrained base for each seed, as clean data sets.

    Raises:
        DataError: a run has no students on sampled rows; StoreError: it is not finished.
    """
    bench = Bench(settings, folder, clean=clean, report=report)
    cases: list[Case] = []
    for run in runs:
        recipe = parse_recipe(
            read_json(run / "recipe.json", "name a run folder"), str(run / "recipe.json")
        )
        if not isinstance(recipe, Experiment):
            raise DataError(f"{run} is no run on language models")
        for seed in recipe.seeds:
            if seeds is None or seed in seeds:
                cases += bench.seed(run, recipe, seed)
    found = summarise(cases, bench.lab.library.ids, bench.lab.library.held_out, settings)
    atomic_write(folder / "bench.json", json.dumps(found, indent=1))
    return found


def summarise(
    cases: Sequence[Case],
    ids: Sequence[str],
    held_out: frozenset[str],
    settings: AuditSettings,
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
    return {
        "methods": {
            method: {part: figures(members, index, ids, method) for part, members in parts.items()}
            for method in own[0].scores
        },
        "flagged": {
            part: {
                "data sets": len(members),
                "own trait flagged": sum(flags(c, settings, index[c.name]) for c in members),
                "any trait flagged": sum(flags(c, settings) for c in members),
            }
            for part, members in parts.items()
        },
        "clean": {"data sets": len(clean), "false alarms": sum(flags(c, settings) for c in clean)},
        "rows to a flag": [rows_to_flag(c, settings, index[c.name]) for c in own],
        "planted": planted_share(cases, settings),
        "size": predicted_size(own, index),
        "cases": {
            case.name: {
                "own": case.trait,
                "place": rank(case.scores["canary"], index[case.name]),
                "z": float(case.scores["canary"][index[case.name]]),
                "predicted": float(case.looks[-1].contrast[index[case.name]]),
                "measured": case.truth[case.trait],
                "top": [ids[i] for i in np.argsort(-case.scores["canary"])[:5]],
            }
            for case in own
        },
    }


def predicted_size(cases: Sequence[Case], index: dict[str, int]) -> dict[str, float]:
    """The canary's contrast against the measured specific part, over data sets: nats."""
    predicted = np.array([c.looks[-1].contrast[index[c.name]] for c in cases])
    measured = np.array([c.truth[c.trait] for c in cases])
    slope = float((predicted @ measured) / (predicted @ predicted))
    left = measured - slope * predicted
    vary = min(predicted.std(), measured.std()) > 0
    return {
        "slope": slope,
        "residual sd": float(np.sqrt((left @ left) / max(1, len(left) - 1))),
        "correlation": float(np.corrcoef(predicted, measured)[0, 1]) if vary else 0.0,
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


def flags(case: Case, settings: AuditSettings, index: int | None = None) -> bool:
    """Whether any look flags the trait, or any trait at all."""
    found = first_flags(case.looks, levels_of(case, settings))
    return bool(found) if index is None else index in found


def rows_to_flag(case: Case, settings: AuditSettings, index: int) -> int | None:
    """Rows read at the first look that flags the trait; None where none does."""
    at = first_flags(case.looks, levels_of(case, settings)).get(index)
    return None if at is None else case.looks[at].rows


def levels_of(case: Case, settings: AuditSettings) -> tuple[float, ...]:
    """What each look of a case may spend of alpha."""
    return settings.levels(case.looks[-1].rows)


def planted_share(cases: Sequence[Case], settings: AuditSettings) -> float:
    """Share of planted traits that a canary finds, over the benchmark's seeds."""
    found: dict[tuple[str, float], bool] = {}
    for case in cases:
        last = case.looks[-1]
        needed = last.needed_z(levels_of(case, settings)[-1])
        found |= {(name, z): z >= needed for name, (_, z) in last.planted.items()}
    return float(np.mean(list(found.values()))) if found else 0.0
