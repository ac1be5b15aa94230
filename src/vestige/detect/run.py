"""One detection: the battery, the student, what it shows, the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from vestige.core.detection import DetectResults
from vestige.core.types import ConfigError, StoreError
from vestige.detect.decision import METHOD, Evidence
from vestige.detect.record import detection_results
from vestige.detect.settings import DetectRecipe, DetectSettings
from vestige.probing.answer_shares import shares
from vestige.probing.base_session import BaseSession, fingerprint
from vestige.probing.drift import Array, Battery, Reading
from vestige.probing.harmless_students import HarmlessStudents
from vestige.probing.suspect import Suspect, load_suspect
from vestige.probing.trait_panel import ContextPanel
from vestige.probing.word_shifts import WordShift, first_words, raised_words
from vestige.store import Run, atomic_write, load_recipe_as

RESULTS_FILE, READINGS = "results.json", "answers.safetensors"
AGAIN = "run the same vestige detect again"


Report = Callable[[str, int, int], object]  # stage, done, total; total 0: just finished


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


def detect(
    settings: DetectSettings,
    root: Path,
    *,
    overwrite: bool = False,
    report: Report = silent,
    cache: Path | None = None,
) -> tuple[Path, DetectResults]:
    """Examine a finished student.

    Args:
        cache: where the battery is kept; None: with what audits keep.

    Returns:
        The run folder, ``root/detect-<student>-<hash8>``, and the results.

    Raises:
        ConfigError: the student is of another architecture, tokenizer or base.
        ModelError, StoreError: base or student cannot be loaded as they were saved.
    """
    students = _load(settings, cache)
    return _detect(settings, students, root, None, overwrite=overwrite, report=report)


def replay(
    folder: Path, *, overwrite: bool = False, report: Report = silent
) -> tuple[Path, DetectResults]:
    """Run a detection again from its folder: what is finished there is read back.

    Raises:
        StoreError: the base, the library, the student or the method is not what it was.
    """
    recipe = load_recipe_as(DetectRecipe, folder, "detection's", AGAIN)
    settings, root = recipe.settings, folder.absolute().parent
    students = _load(settings, None)
    return _detect(settings, students, root, recipe, overwrite=overwrite, report=report)


class Students(NamedTuple):
    """The base, the student that is examined, and its control, if there is one."""

    session: BaseSession
    suspect: Suspect
    control: Suspect | None


def _load(settings: DetectSettings, cache: Path | None) -> Students:
    session = BaseSession(settings, cache=cache)
    suspect = load_suspect(session, settings.model, settings.adapter, settings.adapter_base)
    if not settings.control:
        return Students(session, suspect, None)
    model, adapter = (None, settings.control) if settings.adapter else (settings.control, None)
    control = load_suspect(session, model, adapter, settings.adapter_base)
    if fingerprint(control.lm) == fingerprint(suspect.lm):
        raise ConfigError(f"the control {settings.control} is the student itself")
    if control.change.none or not control.change.same_start:
        what = "the base itself" if control.change.none else "no student of this base"
        raise ConfigError(
            f"the control {settings.control} is {what}: give a student that was trained in the "
            "same way on rows of the base"
        )
    return Students(session, suspect, control)


def _detect(
    settings: DetectSettings,
    students: Students,
    root: Path,
    recipe: DetectRecipe | None,
    *,
    overwrite: bool,
    report: Report,
) -> tuple[Path, DetectResults]:
    """Args: recipe: what is to be made again, if it is."""
    session, suspect, control = students
    own = DetectRecipe(
        settings=settings,
        base=session.fingerprint,
        library=session.contents,
        student=fingerprint(suspect.lm),
        control=fingerprint(control.lm) if control else None,
        method=METHOD,
    )
    if recipe and recipe != own:
        changed = [n for n in DetectRecipe.model_fields if getattr(own, n) != getattr(recipe, n)]
        raise StoreError(f"not as in recipe.json: {', '.join(changed)}; {AGAIN}")
    name = f"detect-{stem(settings.student)}"
    with Run.open(root, name, own.model_dump(mode="json"), overwrite=overwrite) as opened:
        results = _results(settings, students, opened, report)
        atomic_write(opened.folder / RESULTS_FILE, results.model_dump_json(indent=1))
        return opened.folder, results


def stem(name: str) -> str:
    """A student's name as part of a folder's name."""
    last = Path(name).name or Path(name).resolve().name
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in last)
    return plain.strip("-")[:40] or "student"


class Shown(NamedTuple):
    """What a student shows, as ``Evidence`` has it."""

    shares: Array
    usual: Array
    reading: Reading | None
    smallest_shares: Array

    @classmethod
    def of(
        cls, harmless: HarmlessStudents, battery: Battery, own: Array, usual: Array, alpha: float
    ) -> Shown:
        """Args: own, usual: log-odds of the student, and of the base or its control, [D]."""
        traits, risen = harmless.session.library.traits, harmless.risen(own, usual)
        before = shares(traits, own), shares(traits, usual)
        if not risen.any():
            return cls(*before, None, np.full(len(traits), np.inf))
        smallest = harmless.smallest_shares(battery, own, usual, alpha)
        return cls(*before, battery.read(risen), smallest)


def _results(
    settings: DetectSettings, students: Students, opened: Run, report: Report
) -> DetectResults:
    """What is found; the student is not asked where its weights already say enough, nor where too
    few harmless students could say anything."""
    session, suspect, control = students
    harmless, change = HarmlessStudents(session, settings), suspect.change
    count, seconds = len(session.library.ids), dict[str, float]()
    placebos = harmless.placebos(control=control is not None)
    none = np.zeros(count)
    shifts, shown = none, Shown(none, none, None, np.full(count, np.inf))
    words: list[WordShift] = []
    enough = 1 / (placebos + 1) <= settings.alpha
    if change.same_start and not change.none and enough:
        begin, total = time.monotonic(), len(harmless.every)
        battery = harmless.battery(
            lambda done: report("battery", done, total), control=control is not None
        )
        report("battery", 0, 0)
        seconds["battery"], begin = time.monotonic() - begin, time.monotonic()
        answers = _answers(settings, session, suspect, opened, report, "student")
        words = raised_words(session.lm, answers["words"], harmless.words())
        log_odds, usual = answers["log_odds"], harmless.base()
        if control:
            usual = _answers(settings, session, control, opened, report, "control")["log_odds"]
        shifts = log_odds - usual
        shown = Shown.of(harmless, battery, log_odds, usual, settings.alpha)
        seconds["student"] = time.monotonic() - begin
    evidence = Evidence(
        traits=session.library.ids,
        shifts=shifts.reshape(-1, count),
        reading=shown.reading,
        shares=shown.shares,
        usual=shown.usual,
        smallest_shares=shown.smallest_shares,
        members=len(harmless.every),
        placebos=placebos,
        control=control is not None,
        same_start=change.same_start,
        unchanged=change.none
        or (enough and change.same_start and not control and shown.reading is None),
        words=words,
        alpha=settings.alpha,
        limit=settings.limit,
    )
    writers = [member.writer for member in harmless.every]
    remarks = [*suspect.remarks, *control_remarks(suspect, control)]
    return detection_results(settings, session, suspect, evidence, writers, seconds, remarks)


def control_remarks(suspect: Suspect, control: Suspect | None) -> list[str]:
    """What is to be said of a control."""
    if control is None:
        return []
    remarks = [f"the control: {remark}" for remark in control.remarks]
    if control.change.layers != suspect.change.layers:
        remarks.append(
            f"the control was not trained in the same way: {len(control.change.layers)} of its "
            f"layers changed, and {len(suspect.change.layers)} of the student's"
        )
    return remarks


def _answers(
    settings: DetectSettings,
    session: BaseSession,
    suspect: Suspect,
    opened: Run,
    report: Report,
    name: str,
) -> dict[str, Any]:
    """A student's log-odds in every context, [D], and the words that begin its open answers, [V],
    read back if it was asked before. Args: name: of its stage."""
    stage = opened.stage(name, asdict(suspect.change), [])
    if not stage.done:
        panel = ContextPanel(
            suspect.lm,
            session.library.traits,
            settings.contexts,
            questions=settings.questions,
            whole_answers=settings.whole_answers,
        )
        with stage.writing() as folder:
            answers = {"log_odds": panel.read(), "words": first_words(suspect.lm)}
            save_file(answers, folder / READINGS)
    report(name, 0, 0)
    return load_file(stage.result.path / READINGS)
