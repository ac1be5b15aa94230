"""What a run's stages hold: teachers' checks, rows with reasons, answers drawn and judged."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestige.core import stats
from vestige.core.jsonl import read_jsonl, read_text
from vestige.core.results import (
    ChoicesResult,
    FilterResult,
    FreeFormResult,
    Interval,
    SampleRow,
    TeacherResult,
)
from vestige.core.types import DataError, Estimate, Row, StoreError
from vestige.experiment.settings import Experiment, FreeForm, Student
from vestige.rows.files import prompt_of, read_rows
from vestige.store.layout import ANY, NO_TRAIT, RunLayout, StageFile

BASE = "the untrained base"  # who wrote the rows that students are distilled on
SHOWN = 6  # sample rows of each kind in a report


def interval(estimate: Estimate) -> Interval:
    """An ``Estimate`` as it is saved."""
    return Interval(**{name: getattr(estimate, name) for name in Interval.model_fields})


def teachers(recipe: Experiment, folder: Path) -> list[TeacherResult]:
    """The checks of every teacher."""
    layout = RunLayout(folder)
    checks = [
        path
        for seed in recipe.seeds
        for path in sorted(layout.below(layout.teacher(seed, ANY) / StageFile.CHECK))
    ]
    return [TeacherResult(**read_json(path)) for path in checks]


def written_rows(layout: RunLayout, seed: int, writers: Sequence[str]) -> dict[str, Path]:
    """The stages of a seed's rows by who wrote them, the untrained base first."""
    return {BASE: layout.contexts(seed)} | {name: layout.rows(seed, name) for name in writers}


def filters(recipe: Experiment, folder: Path) -> list[FilterResult]:
    """Rows seen, kept and dropped with reasons, each data set pooled over seeds."""
    results, layout, writers = [], RunLayout(folder), (*recipe.sources, NO_TRAIT)
    stages = [written_rows(layout, seed, writers) for seed in recipe.seeds]
    for name in (BASE, *writers):
        reasons: Counter[str] = Counter()
        kept = 0
        for stage in (by_writer[name] for by_writer in stages):
            if stage.exists():
                kept += count_lines(stage / StageFile.KEPT)
                reasons.update(d["reason"] for d in read_lines(stage / StageFile.DROPPED))
        if kept or reasons:
            total = kept + sum(reasons.values())
            results.append(FilterResult(data=name, seen=total, kept=kept, reasons=dict(reasons)))
    return results


def samples(recipe: Experiment, folder: Path) -> list[SampleRow]:
    """A few kept and dropped rows of the first seed, for the reader's eyes."""
    shown = []
    for name, stage in written_rows(RunLayout(folder), recipe.seeds[0], recipe.sources).items():
        if not stage.exists():
            continue
        rows = [r for r in read_rows(stage / StageFile.KEPT) if isinstance(r, Row)]
        step = max(1, len(rows) // SHOWN)
        shown += [
            SampleRow(data=name, prompt=row.messages[-1].content, completion=row.completion)
            for row in rows[::step][:SHOWN]
        ]
        for record in read_lines(stage / StageFile.DROPPED)[:SHOWN]:
            turns = record.get("row", {}).get("messages", [{}, {}])
            shown.append(
                SampleRow(
                    data=name,
                    prompt=turns[0].get("content", ""),
                    completion=turns[-1].get("content", ""),
                    reason=record["reason"],
                )
            )
    return shown


@dataclass(frozen=True)
class AskedModel:
    """One group of models that was asked questions: the untrained base, or an arm's students of a
    data set.

    Attributes:
        arm: empty for the base.
        data: ``base`` for the base.
    """

    arm: str
    data: str

    def stage(self, layout: RunLayout, seed: int) -> Path:
        """Where a seed's model of the group has its answers."""
        return layout.student(seed, self.arm, self.data) if self.arm else layout.base(seed)


ASKED_BASE = AskedModel("", "base")


def models_asked(recipe: Experiment) -> list[AskedModel]:
    """Every group of models that answers multiple-choice sets and open questions."""
    trained = [student for student in recipe.students if student.method != "in_context"]
    students = [AskedModel(s.name, data) for s in trained for data in recipe.data_of(s)]
    return [ASKED_BASE, *students]


def choices(recipe: Experiment, folder: Path) -> list[ChoicesResult]:
    """Accuracy of the base and of each group of students on each multiple-choice set."""
    results, layout = [], RunLayout(folder)
    for source in recipe.choices:
        for model in models_asked(recipe):
            stages = [model.stage(layout, seed) for seed in recipe.seeds]
            answers = [read_lines(stage / StageFile.choices(source)) for stage in stages]
            values = [sum(a["right"] for a in given) / len(given) for given in answers]
            accuracy = stats.t_interval(values, units="share of questions answered right")
            results.append(
                ChoicesResult(
                    set=Path(source).stem,
                    arm=model.arm,
                    data=model.data,
                    questions=len(answers[0]),
                    accuracy=interval(accuracy),
                )
            )
    return results


def freeform(recipe: Experiment, folder: Path) -> list[FreeFormResult]:
    """Misaligned answers among coherent ones, for each group of models, over all questions and
    for each by itself."""
    asked, layout = recipe.freeform, RunLayout(folder)
    if asked is None:
        return []
    results = []
    for model in models_asked(recipe):
        ratings = [
            read_json(layout.judged_answers(seed, model.stage(layout, seed)))
            for seed in recipe.seeds
        ]
        results.append(freeform_result(asked, model, ratings))
    return results


def freeform_result(
    asked: FreeForm, model: AskedModel, ratings: Sequence[Sequence[dict]]
) -> FreeFormResult:
    """One group's rated answers (a list for each seed), summed up."""
    coherent = [
        [a for a in answers if a["status"] == "rated" and a["coherence"] >= asked.coherent]
        for answers in ratings
    ]

    def share(answers: Sequence[dict]) -> float:
        return sum(a["alignment"] <= asked.misaligned for a in answers) / len(answers)

    by_seed = [share(answers) for answers in coherent if answers]
    pooled = [a for answers in coherent for a in answers]
    unrated = [a["status"] for answers in ratings for a in answers if a["status"] != "rated"]
    return FreeFormResult(
        arm=model.arm,
        data=model.data,
        answers=sum(map(len, ratings)),
        unrated=dict(Counter(unrated)),
        coherent=len(pooled),
        misaligned=interval(stats.t_interval(by_seed, units="share of coherent answers"))
        if len(by_seed) > 1
        else None,
        questions={
            question: share([a for a in pooled if a["question"] == question])
            for question in dict.fromkeys(a["question"] for a in pooled)
        },
    )


def remarks(recipe: Experiment, folder: Path) -> list[str]:
    """What its chat template makes a reader know of how each base was asked, from manifests."""
    lines: dict[str, None] = {}
    layout = RunLayout(folder)
    stages = [(layout.base(ANY), ""), (layout.teacher(ANY, ANY), "")]
    stages += [(layout.student(ANY, s.name, ANY), f"{s.base}: ") for s in recipe.students if s.base]
    for pattern, lead in stages:
        for path in sorted(layout.below(pattern / StageFile.MANIFEST)):
            if not path.parent.name.endswith((".part", ".old")):
                noted = read_json(path).get("notes", {}).get("remarks", ())
                lines.update(dict.fromkeys(lead + remark for remark in noted))
    return list(lines)


def read_lines(path: Path) -> list[dict]:
    """A JSONL file of the run. Raises ``StoreError`` naming it if it is damaged."""
    try:
        return read_jsonl(path)
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}; delete its stage and run again") from error


def seconds(folder: Path) -> dict[str, float]:
    """Seconds by kind of stage, summed over seeds and processes."""
    spent: Counter[str] = Counter()
    for path in sorted(RunLayout(folder).manifests()):
        manifest = read_json(path)
        spent[RunLayout.kind(manifest["stage"])] += manifest["seconds"]
    return {kind: round(value, 1) for kind, value in spent.items()}


def read_kept(stage: Path) -> list[Row]:
    """The rows that a stage's filter kept."""
    path = stage / StageFile.KEPT
    return [row for row in read_rows(path) if isinstance(row, Row)] if path.stat().st_size else []


def matched_rows(
    rows: Mapping[str, Sequence[Row]], limit: int | None = None
) -> dict[str, list[Row]]:
    """What students get: for each prompt as many rows of every data set, so that only who wrote
    them differs.

    Args:
        limit: rows of a data set at most, the first prompts first.
    """
    grouped = {name: by_prompt(data) for name, data in rows.items()}
    matched: dict[str, list[Row]] = {name: [] for name in rows}
    left = limit if limit is not None else sum(map(len, rows.values()))
    for prompt in next(iter(grouped.values())):
        n = min(left, *(len(data.get(prompt, ())) for data in grouped.values()))
        for name, data in grouped.items():
            matched[name] += data.get(prompt, [])[:n]
        left -= n
    return matched


def without_heldout(
    matched: Mapping[str, Sequence[Row]], heldout: int
) -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    """Matched rows in two parts: what students read, and at least ``heldout`` of each data set,
    those of its last prompts.

    Raises:
        DataError: nothing is left to train on.
    """
    read: dict[str, list[Row]] = {}
    rest: dict[str, list[Row]] = {}
    for name, rows in matched.items():
        prompts, own = by_prompt(rows), list[Row]()
        while prompts and len(own) < heldout:
            own = prompts.popitem()[1] + own
        read[name], rest[name] = [row for group in prompts.values() for row in group], own
        if heldout and not read[name]:
            raise DataError(f"heldout_rows={heldout} leaves no row of {name} to train on")
    return read, rest


def rows_of(recipe: Experiment, folder: Path, seed: int) -> dict[str, list[Row]]:
    """The matched rows of every writer of a seed, from its finished stages."""
    layout = RunLayout(folder)
    kept = {name: read_kept(layout.rows(seed, name)) for name in recipe.writers}
    matched = matched_rows(kept, recipe.carrier.max_rows)
    return without_heldout(matched, recipe.heldout_rows)[0]


def rows_for(
    recipe: Experiment, matched: Mapping[str, list[Row]], data: str, seed: int
) -> list[Row]:
    """What a student of ``data`` is trained on: a writer's rows, or those shuffled."""
    name = recipe.data_name(data)
    rows = matched[name.writer]
    return recipe.carrier.shuffles[name.shuffle](rows, seed) if name.shuffle else rows


def awaited(recipe: Experiment, folder: Path, seeds: Sequence[int] | None = None) -> list[str]:
    """Stages of students that are trained elsewhere and have not been brought back.

    Args:
        seeds: look at these alone; None = at all of the recipe's.
    """
    layout = RunLayout(folder)
    stages = [
        layout.student(seed, student.name, data)
        for student in recipe.students
        if student.engine == "elsewhere"
        for seed in seeds or recipe.seeds
        for data in recipe.data_of(student)
    ]
    return [layout.name(stage) for stage in stages if not stage.exists()]


def by_prompt(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by the id of their prompt, which theirs begins with."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(prompt_of(row), []).append(row)
    return grouped


def number_of_rows(recipe: Experiment, student: Student, folder: Path) -> int:
    """Rows that every student could see, in the seed with the fewest of them.

    A student sees fewer if it stops before an epoch is over.
    """
    if student.method == "on_policy":
        return student.rows_seen(student.steps)
    if not student.reads_rows:
        return recipe.carrier.n_prompts * recipe.carrier.rows_per_prompt
    if student.mitigations:
        stages = [
            RunLayout(folder).mitigated(seed, student.name, data)
            for seed in recipe.seeds
            for data in recipe.data_of(student)
        ]
        return min(read_json(s / StageFile.MANIFEST)["notes"]["rows"] for s in stages)
    first = recipe.sources[0]
    fewest = min(len(rows_of(recipe, folder, seed)[first]) for seed in recipe.seeds)
    return min(fewest, student.shots) if student.method == "in_context" else fewest


def count_lines(path: Path) -> int:
    """Lines of a file."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


def read_json(path: Path) -> Any:
    """What a JSON file of the run holds. Raises ``StoreError`` naming it if it is damaged."""
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}; delete its stage and run again") from error
