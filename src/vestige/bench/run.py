"""How well an audit predicts what students really took on: ``vestige bench audit``.

What is computed is kept in the folder that the user names (``readings``), so that a benchmark that
was stopped goes on, and another one that asks for more finds it there. Each benchmark leaves a run
folder in it, from which it can be run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vestige.audit.data import Data
from vestige.audit.race_result import METHOD
from vestige.audit.recipe import lasting
from vestige.bench.case import Case
from vestige.bench.data_sets import Readings, Report
from vestige.bench.figures import summarise
from vestige.bench.runs import known_clean_case, read_experiment, seed_cases
from vestige.bench.settings import BenchRecipe, BenchSettings, Source
from vestige.core.results import BenchResults
from vestige.core.types import DataError, StoreError
from vestige.experiment.recipe import Experiment
from vestige.store import Run, atomic_write, hash_config, load_recipe_as
from vestige.store.files import read_json
from vestige.store.layout import ANY, RunLayout, StageFile

NAME = "bench-audit"
RESULTS_FILE = "results.json"
AGAIN = "run the same vestige bench audit again"


def bench_audit(
    runs: Sequence[Path],
    settings: BenchSettings,
    folder: Path,
    *,
    known_clean: Sequence[Path | str] = (),
    overwrite: bool = False,
    report: Report = lambda name: None,
) -> tuple[Path, BenchResults]:
    """Audit every data set of ``runs`` and hold the outcome against what students took on.

    Args:
        runs: folders of finished runs.
        folder: where what is computed is kept, and the run folder is made.
        known_clean: files of rows that are known to be clean, such as texts that people wrote.
        report: called with the name of what is computed next.

    Returns:
        The run folder, ``folder/bench-audit-<hash8>``, and the results.

    Raises:
        DataError: a run has no students on sampled rows; StoreError: it is not finished.
        ConfigError: no such method; the writers' probabilities of rows that several wrote.
    """
    settings.check()
    recipes = [read_experiment(run) for run in runs]
    readings = Readings(settings, folder, report)
    config = recipe_of(readings, runs, known_clean).model_dump(mode="json")
    with Run.open(folder, NAME, config, overwrite=overwrite) as opened:
        cases = [
            case
            for run, experiment in zip(runs, recipes, strict=True)
            for case in run_cases(readings, run, experiment)
        ]
        cases += [known_clean_case(readings, path) for path in known_clean]
        library = readings.session.library
        figures = summarise(cases, library.ids, library.held_out)
        atomic_write(folder / "bench.json", json.dumps(figures, indent=1))
        results = bench_results(settings, runs, cases, figures)
        atomic_write(opened.folder / RESULTS_FILE, results.model_dump_json(indent=1))
        return opened.folder, results


def run_cases(readings: Readings, run: Path, experiment: Experiment) -> list[Case]:
    """The data sets of the seeds of a run that are asked for."""
    wanted = readings.settings.seeds
    seeds = [seed for seed in experiment.seeds if wanted is None or seed in wanted]
    return [case for seed in seeds for case in seed_cases(readings, run, experiment, seed)]


def bench_results(
    settings: BenchSettings, runs: Sequence[Path], cases: Sequence[Case], figures: dict[str, Any]
) -> BenchResults:
    """The record of a benchmark."""
    counts, clean = figures["flagged"]["all"], figures["clean"]
    first = figures["methods"]["audit"]["all"]["top1"]
    return BenchResults(
        name=NAME,
        verdict=(
            f"Of {counts['data sets']} data sets the writer's trait comes first in {first:.0%}; "
            f"{counts['own trait flagged']} are flagged for it, {counts['another family flagged']} "
            f"for a trait of another family; of {clean['data sets']} clean ones "
            f"{clean['false alarms']} are flagged."
        ),
        base=settings.audit.base,
        runs=[run.name for run in runs],
        methods=list(settings.methods),
        data_sets=len(cases),
        figures=figures,
    )


# ---- run again --------------------------------------------------------------------------------


def recipe_of(
    readings: Readings, runs: Sequence[Path], known_clean: Sequence[Path | str]
) -> BenchRecipe:
    """What a benchmark is made from."""
    return BenchRecipe(
        settings=readings.settings,
        runs=tuple(map(run_source, runs)),
        known_clean=tuple(file_source(path, readings.settings) for path in known_clean),
        base=readings.session.fingerprint,
        library=readings.session.contents,
        method=METHOD,
    )


def run_source(run: Path) -> Source:
    """A run as a recipe names it: where it is, and a hash of its recipe, rows and students."""
    layout = RunLayout(run)
    manifests = {
        layout.name(path.parent): read_json(path, "run it again")["manifest_hash"]
        for stages in (layout.rows(ANY, ANY), layout.student(ANY, ANY, ANY))
        for path in layout.below(stages / StageFile.MANIFEST)
    }
    identity = hash_config([read_json(layout.recipe, "name a run folder"), manifests])
    return Source(path=lasting(run), identity=identity)


def file_source(path: Path | str, settings: BenchSettings) -> Source:
    """A file of clean rows as a recipe names it."""
    return Source(path=lasting(path), identity=Data.of(path, settings.audit.seed).identity)


def read_recipe(folder: Path) -> BenchRecipe:
    """The recipe of a benchmark's folder. Raises ``StoreError`` if it is none."""
    return load_recipe_as(BenchRecipe, folder, "benchmark's", AGAIN)


def replay(
    folder: Path,
    *,
    overwrite: bool = False,
    report: Callable[[str, int, int], object] = lambda stage, done, total: None,
) -> tuple[Path, BenchResults]:
    """Run a benchmark again from its folder; readings that are kept beside it are taken.

    Raises:
        StoreError: it is no benchmark's folder, or of another version of the method.
        DataError: a run or a file is gone, or is not what it was.
    """
    recipe, folder = read_recipe(folder), folder.absolute()
    settings = recipe.settings
    if recipe.method != METHOD:
        raise StoreError(f"{folder} is of version {recipe.method} of the method, not {METHOD}")
    for source in recipe.runs:
        if not Path(source.path).is_dir():
            raise DataError(f"{source.path} is gone: {folder} was made from that run")
        if run_source(Path(source.path)) != source:
            raise DataError(f"{source.path} is not the run that {folder} was made from")
    for source in recipe.known_clean:
        if file_source(source.path, settings) != source:
            raise DataError(f"{source.path} does not hold the rows that {folder} was made from")
    return bench_audit(
        [Path(source.path) for source in recipe.runs],
        settings,
        folder.parent,
        known_clean=[source.path for source in recipe.known_clean],
        overwrite=overwrite,
        report=lambda name: report(name, 0, 0),
    )
