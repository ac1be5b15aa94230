"""Finished runs as the benchmark reads them: their data sets, writers, and what students took on.

Truth is the specific part that each student took on, seed by seed. Every data set is audited as if
its writer were unknown; reference rows are made once a seed, as all its data sets share their
prompts. Clean data sets are further draws of the untrained base, rows of the run's no-trait teacher
where there are any, and files that are known to be clean. The audit's probes
are tuned with other seeds than the run's teachers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vestige.audit.data import Data
from vestige.bench.case import CLEAN, Case
from vestige.bench.data_sets import DataSets, Readings, diluted
from vestige.core.types import DataError, Row
from vestige.experiment.analysis import Shifts
from vestige.experiment.recipe import (
    NO_TRAIT,
    Experiment,
    Student,
    TeacherSettings,
    parse_recipe,
)
from vestige.experiment.run_view import read_kept
from vestige.models.hf import LanguageModel
from vestige.models.weights import Weights
from vestige.probing.base_session import load
from vestige.probing.known_writers import base_writers
from vestige.probing.row_format import RowFormat, choose_rows, unusable
from vestige.probing.trait_panel import spread
from vestige.store import atomic_write, hash_config
from vestige.store.files import read_json
from vestige.store.layout import RunLayout, StageFile
from vestige.traits import family

FIRST_CLEAN = 100  # noise of the first clean data set


def read_experiment(folder: Path) -> Experiment:
    """The recipe of a run. Raises ``DataError`` if it is no run on language models."""
    path = RunLayout(folder).recipe
    recipe = parse_recipe(read_json(path, "name a run folder"), str(path))
    if not isinstance(recipe, Experiment):
        raise DataError(f"{folder} is no run on language models")
    return recipe


def seed_cases(readings: Readings, run: Path, recipe: Experiment, seed: int) -> Iterator[Case]:
    """Every data set of one seed of a run, and clean ones that the base writes.

    Raises:
        DataError: the run has no students of the same base on sampled rows, or the folder holds
            readings of other rows.
    """
    settings, session = readings.settings, readings.session
    student = student_of(run, recipe)
    layout = RunLayout(run)
    data = rows_of(layout, seed, recipe, readings)
    first, prefix = next(iter(data.values())), f"{run.name}-{seed}"
    row_format = RowFormat.of(session.lm, first, readings.audit.max_new_tokens)
    truths = specific_parts(readings, run, recipe, student, seed)
    ids = {name: f"{family(recipe.family).name}/{name}" for name in recipe.traits}
    check_making(readings.folder, prefix, data)
    sets = DataSets(readings, prefix, row_format, first)
    for name, rows in data.items():
        label, share = name, settings.share
        if share < 1:
            label, rows = f"{name}-{share:g}", diluted(rows, sets.fillers, share)
        stage = layout.teacher(seed, name)
        load_writer = partial(load_teacher, readings, stage, recipe.teacher)
        with_logprobs = load_writer if settings.with_logprobs else None
        yield sets.case(label, ids.get(name, name), truths.get(name, {}), rows, with_logprobs)
    for writer in base_writers(session, settings.clean, FIRST_CLEAN, CLEAN):
        load_base = (lambda: session.lm) if settings.with_logprobs else None
        yield sets.case(writer.name, writer.name, {}, sets.written(writer), load_base)


def student_of(run: Path, recipe: Experiment) -> Student:
    """The students that truth comes from. Raises ``DataError`` if the run has none."""
    arms = (s for s in recipe.students if s.method == "rows" and not (s.base or s.defended))
    student = next(arms, None)
    if student is None:
        raise DataError(f"{run} has no students of the same base on sampled rows")
    return student


def rows_of(
    layout: RunLayout, seed: int, recipe: Experiment, readings: Readings
) -> dict[str, list[Row]]:
    """By data set of a seed, the rows that an audit reads."""
    audit = readings.audit
    names = [*recipe.sources, *([NO_TRAIT] if recipe.rows_with_none else [])]
    return {
        name: choose_rows(read_kept(layout.rows(seed, name)), audit.rows, audit.batch, audit.seed)
        for name in names
    }


def load_teacher(readings: Readings, stage: Path, teacher: TeacherSettings) -> LanguageModel:
    """A run's teacher, with the base. Raises ``DataError`` if the run does not hold it."""
    weights, settings = stage / StageFile.WEIGHTS, readings.audit
    if teacher.kind != "tuned" or not weights.exists():
        raise DataError(
            f"{weights} is not there: --with-logprobs needs tuned teachers that are kept"
        )
    lm = load(settings, settings.base)
    trainable = teacher.optimisation.trainable
    Weights(lm, [trainable]).load(weights, trainable)
    return lm


def check_making(folder: Path, name: str, data: Mapping[str, Sequence[Row]]) -> None:
    """Raises ``DataError`` if the folder's readings are of other rows of a run of that name."""
    rows = {label: [row.completion for row in one_set] for label, one_set in data.items()}
    path, digest = folder / f"{name}-making.json", hash_config(rows)
    if not path.exists():
        atomic_write(path, json.dumps({"rows": digest}))
    elif read_json(path, "name another --out")["rows"] != digest:
        raise DataError(f"{folder} holds readings of other rows of {name}; name another --out")


def known_clean_case(readings: Readings, path: Path | str) -> Case:
    """A file of rows that no teacher with a trait wrote."""
    settings, lm = readings.audit, readings.session.lm
    data = Data.of(path, settings.seed)
    usable = [r for r in data.rows if not unusable(lm, r, settings.max_new_tokens)]
    rows = choose_rows(usable, settings.rows, settings.batch, settings.seed)
    row_format = RowFormat.of(lm, rows, settings.max_new_tokens)
    name = f"{CLEAN}-{data.identity[:12]}"
    return DataSets(readings, "file", row_format, rows).case(name, name, {}, rows)


def specific_parts(
    readings: Readings, run: Path, recipe: Experiment, student: Student, seed: int
) -> dict[str, dict[str, float]]:
    """For each data set of a seed, the specific part of every candidate of the family, nats, on
    the held-out questions that the audit does not ask (all where it asks all)."""
    shifts = Shifts(recipe, student, run)
    first = shifts.panel(seed, recipe.sources[0], student.steps)
    every = range(len(first.questions))
    asked = set(spread(every, readings.audit.questions))
    left = [i for i in every if i not in asked] or list(every)
    panels = {
        data: shifts.panel(seed, data, student.steps).shift(shifts.base(seed, data))[left].mean(0)
        for data in recipe.sources
    }
    ids, name = set(readings.session.library.ids), family(recipe.family).name
    parts: dict[str, dict[str, float]] = {}
    for data, own in panels.items():
        others = np.mean([panel for other, panel in panels.items() if other != data], axis=0)
        named = zip(first.candidates, own - others, strict=True)
        by_id = {f"{name}/{candidate}": float(value) for candidate, value in named}
        parts[data] = {trait: value for trait, value in by_id.items() if trait in ids}
    return parts
