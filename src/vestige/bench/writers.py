"""How often detection is right: students of writers that the battery does not know.

Every student is a stage of the run: its rows are written, it is tuned and read, and what is kept
is what it answered. A benchmark that was stopped goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from vestige.bench.trait_writers import trait_numbers
from vestige.bench.writer_cases import CONTROL, Case, Examined, cases, controls
from vestige.bench.writer_kinds import HARMLESS
from vestige.bench.writers_figures import HeldAgainst, writers_results
from vestige.bench.writers_settings import WritersBench
from vestige.core.jsonl import read_text, write_text
from vestige.core.types import Row
from vestige.core.writers import WritersResults
from vestige.probing.base_session import BaseSession
from vestige.probing.harmless import base_numbers
from vestige.probing.harmless_students import HarmlessStudents, tune_on_rows
from vestige.store import Run, atomic_write

RESULTS_FILE, READING = "results.json", "reading.json"
Report = Callable[[str, int, int], object]


def run(
    settings: WritersBench,
    root: Path,
    *,
    overwrite: bool = False,
    report: Report = lambda stage, done, total: None,
    cache: Path | None = None,
) -> tuple[Path, WritersResults]:
    """Make every student, examine it and count.

    Returns:
        The run folder and the results.

    Raises:
        ModelError: the base cannot be loaded; StoreError: another process works on the run.
    """
    session = BaseSession(settings.battery, cache=cache)
    students = HarmlessStudents(session, settings.battery)
    config = settings.model_dump(mode="json")
    with Run.open(root, settings.name, config, overwrite=overwrite) as opened:
        total = len(students.every)
        battery = students.battery(lambda done: report("battery", done, total))
        report("battery", 0, 0)
        paired = students.battery(control=True) if settings.controls else None
        made = {}
        for name, wanted in (
            ("controls", controls(settings, session)),
            ("students", cases(settings, session)),
        ):
            made[name] = []
            for number, case in enumerate(wanted):
                made[name].append(examine(settings, students, opened, case))
                report(name, number + 1, len(wanted))
            report(name, 0, 0)
        held = HeldAgainst(students, battery, paired, made["controls"])
        results = writers_results(settings, held, made["students"])
        atomic_write(opened.folder / RESULTS_FILE, results.model_dump_json(indent=1))
        return opened.folder, results


def examine(
    settings: WritersBench, students: HarmlessStudents, opened: Run, case: Case
) -> Examined:
    """One student, made or read back."""
    session, identity = students.session, [students.session.fingerprint, students.session.contents]
    config = {"case": asdict(case), "rows": settings.rows, "base": identity}
    stage = opened.stage(case.stage, config, [])
    if not stage.done:
        with stage.writing() as folder:
            rows, gained = rows_of_case(settings, session, case)
            try:
                tune(settings, session, rows, case)
                log_odds = students.panel.read()
            finally:
                session.weights.freeze()
            record = {"log_odds": [round(v, 5) for v in log_odds.tolist()], "gained": gained}
            write_text(folder / READING, json.dumps(record))
    record = json.loads(read_text(stage.result.path / READING))
    return Examined(case, np.array(record["log_odds"]), record["gained"])


def rows_of_case(
    settings: WritersBench, session: BaseSession, case: Case
) -> tuple[list[Row], float | None]:
    """A writer's rows, and what it gained of its trait, if it has one."""
    if case.kind == CONTROL:
        return base_numbers(session, case.number, settings.rows), None
    if not case.trait:
        return HARMLESS[case.kind](session, case.number, settings.rows), None
    trait = session.library.traits[session.library.ids.index(case.trait)]
    return trait_numbers(session, case.kind, trait, case.number, settings.rows)


def tune(settings: WritersBench, session: BaseSession, rows: Sequence[Row], case: Case) -> None:
    """Turn the model into the student of a case."""
    ways = settings.training(len(session.lm.layers), session.trainable)
    tune_on_rows(session, rows, ways[case.training], case.number)
