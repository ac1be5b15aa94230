"""What a run's stages hold: teachers' checks, rows with reasons, answers drawn and judged."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from vestige.core import stats
from vestige.core.jsonl import read_jsonl, read_text
from vestige.core.results import (
    ChoicesResult,
    FilterResult,
    FreeFormResult,
    Interval,
    SampledResult,
    SampleRow,
    TeacherResult,
)
from vestige.core.types import Estimate, Row, StoreError
from vestige.experiment.recipe import NO_TRAIT, Experiment, Student
from vestige.rows.files import prompt_of, read_rows
from vestige.traits import trait

BASE = "the untrained base"  # who wrote the rows that students are distilled on
SHOWN = 6  # sample rows of each kind in a report


def interval(estimate: Estimate) -> Interval:
    """An ``Estimate`` as it is saved."""
    return Interval(**{name: getattr(estimate, name) for name in Interval.model_fields})


def teachers(recipe: Experiment, folder: Path) -> list[TeacherResult]:
    """The checks of every teacher."""
    paths = [p for s in recipe.seeds for p in sorted(folder.glob(f"seed-{s}/teacher/*/check.json"))]
    return [TeacherResult(**read_json(path)) for path in paths]


def filters(recipe: Experiment, folder: Path) -> list[FilterResult]:
    """Rows seen, kept and dropped with reasons, each data set pooled over seeds."""
    found = []
    sources = {BASE: "contexts"} | {n: f"rows/{n}" for n in (*recipe.sources, NO_TRAIT)}
    for name, where in sources.items():
        reasons: Counter[str] = Counter()
        kept = 0
        for seed in recipe.seeds:
            stage = folder / f"seed-{seed}/{where}"
            if stage.exists():
                kept += count_lines(stage / "rows.jsonl")
                reasons.update(d["reason"] for d in read_lines(stage / "dropped.jsonl"))
        if kept or reasons:
            seen = kept + sum(reasons.values())
            found.append(FilterResult(data=name, seen=seen, kept=kept, reasons=dict(reasons)))
    return found


def samples(recipe: Experiment, folder: Path) -> list[SampleRow]:
    """A few kept and dropped rows of the first seed, for the reader's eyes."""
    found = []
    for name, where in ({BASE: "contexts"} | {n: f"rows/{n}" for n in recipe.sources}).items():
        stage = folder / f"seed-{recipe.seeds[0]}/{where}"
        if not stage.exists():
            continue
        rows = [r for r in read_rows(stage / "rows.jsonl") if isinstance(r, Row)]
        step = max(1, len(rows) // SHOWN)
        found += [
            SampleRow(data=name, prompt=row.messages[-1].content, completion=row.completion)
            for row in rows[::step][:SHOWN]
        ]
        for record in read_lines(stage / "dropped.jsonl")[:SHOWN]:
            turns = record.get("row", {}).get("messages", [{}, {}])
            found.append(
                SampleRow(
                    data=name,
                    prompt=turns[0].get("content", ""),
                    completion=turns[-1].get("content", ""),
                    reason=record["reason"],
                )
            )
    return found


def sampled(recipe: Experiment, student: Student, folder: Path) -> list[SampledResult]:
    """Answers drawn from the base and from each group of students, if the recipe has them."""
    if not recipe.sampled_per_question or student.method == "in_context":
        return []
    where = {} if student.base else {"base": "base"}
    where |= {name: f"student/{student.name}/{name}" for name in recipe.data_of(student)}
    return [
        shares(recipe, name, prefix, [
            [a for a in read_lines(folder / f"seed-{s}/{place}/sampled.jsonl")
             if a["number_prefix"] == prefix]
            for s in recipe.seeds
        ])
        for name, place in where.items()
        for prefix in (False, True)
    ]  # fmt: skip


def shares(
    recipe: Experiment, data: str, prefix: bool, answers: Sequence[Sequence[dict]]
) -> SampledResult:
    """Shares of ``answers`` (a list for each seed) that name each trait, or no one candidate."""
    targets = {t: trait(t, recipe.family).target.name for t in recipe.traits}

    def share(named: str | None) -> Interval:
        values = [sum(a["named"] == named for a in drawn) / len(drawn) for drawn in answers]
        return interval(stats.t_interval(values, units="share of answers"))

    return SampledResult(
        data=data,
        number_prefix=prefix,
        answers=sum(map(len, answers)),
        non_answers=share(None),
        shares={t: share(target) for t, target in targets.items()},
    )


def models_asked(recipe: Experiment) -> dict[tuple[str, str], str]:
    """Where every asked model's stage is below a seed, by (arm, data)."""
    found = {("", "base"): "base"}
    for student in recipe.students:
        if student.method != "in_context":
            for name in recipe.data_of(student):
                found[student.name, name] = f"student/{student.name}/{name}"
    return found


def choices(recipe: Experiment, folder: Path) -> list[ChoicesResult]:
    """Accuracy of the base and of each group of students on each multiple-choice set."""
    found = []
    for source in recipe.choices:
        for (arm, data), where in models_asked(recipe).items():
            paths = [folder / f"seed-{s}/{where}" for s in recipe.seeds]
            answers = [read_lines(p / f"choices-{Path(source).stem}.jsonl") for p in paths]
            values = [sum(a["right"] for a in given) / len(given) for given in answers]
            accuracy = stats.t_interval(values, units="share of questions answered right")
            found.append(
                ChoicesResult(
                    set=Path(source).stem, arm=arm, data=data, questions=len(answers[0]),
                    accuracy=interval(accuracy),
                )
            )  # fmt: skip
    return found


def freeform(recipe: Experiment, folder: Path) -> list[FreeFormResult]:
    """Misaligned answers among coherent ones, for each group of models, over all questions and
    for each by itself."""
    asked, found = recipe.freeform, []
    if asked is None:
        return found
    for (arm, data), where in models_asked(recipe).items():
        name = where.replace("/", "-")
        drawn = [read_json(folder / f"seed-{s}/judged/{name}.json") for s in recipe.seeds]
        coherent = [
            [a for a in answers if a["status"] == "rated" and a["coherence"] >= asked.coherent]
            for answers in drawn
        ]

        def share(answers: list[dict]) -> float:
            return sum(a["alignment"] <= asked.misaligned for a in answers) / len(answers)

        shares = [share(answers) for answers in coherent if answers]
        pooled = [a for answers in coherent for a in answers]
        found.append(
            FreeFormResult(
                arm=arm,
                data=data,
                answers=sum(map(len, drawn)),
                unrated=dict(
                    Counter(a["status"] for d in drawn for a in d if a["status"] != "rated")
                ),
                coherent=len(pooled),
                misaligned=interval(stats.t_interval(shares, units="share of coherent answers"))
                if len(shares) > 1
                else None,
                questions={
                    q: share([a for a in pooled if a["question"] == q])
                    for q in dict.fromkeys(a["question"] for a in pooled)
                },
            )
        )
    return found


def remarks(recipe: Experiment, folder: Path) -> list[str]:
    """What its chat template makes a reader know of how each base was asked, from manifests."""
    found: dict[str, None] = {}
    places = {"base": "", "teacher/*": ""}
    places |= {f"student/{s.name}/*": f"{s.base}: " for s in recipe.students if s.base}
    for place, lead in places.items():
        for path in sorted(folder.glob(f"seed-*/{place}/manifest.json")):
            if not path.parent.name.endswith((".part", ".old")):
                told = read_json(path).get("notes", {}).get("remarks", ())
                found.update(dict.fromkeys(lead + remark for remark in told))
    return list(found)


def read_lines(path: Path) -> list[dict]:
    """A JSONL file of the run. Raises ``StoreError`` naming it if it is damaged."""
    try:
        return read_jsonl(path)
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}; delete its stage and run again") from error


def seconds(folder: Path) -> dict[str, float]:
    """Seconds by kind of stage, summed over seeds and processes."""
    spent: Counter[str] = Counter()
    for path in sorted(folder.glob("seed-*/**/manifest.json")):
        manifest = read_json(path)
        spent[manifest["stage"].split("/")[1]] += manifest["seconds"]
    return {kind: round(value, 1) for kind, value in spent.items()}


def read_kept(stage: Path) -> list[Row]:
    """The rows that a stage's filter kept."""
    path = stage / "rows.jsonl"
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
    found: dict[str, list[Row]] = {name: [] for name in rows}
    left = limit if limit is not None else sum(map(len, rows.values()))
    for prompt in next(iter(grouped.values())):
        n = min(left, *(len(data.get(prompt, ())) for data in grouped.values()))
        for name, data in grouped.items():
            found[name] += data.get(prompt, [])[:n]
        left -= n
    return found


def rows_of(recipe: Experiment, folder: Path, seed: int) -> dict[str, list[Row]]:
    """The matched rows of every writer of a seed, from its finished stages."""
    kept = {name: read_kept(folder / f"seed-{seed}/rows/{name}") for name in recipe.writers}
    return matched_rows(kept, recipe.carrier.max_rows)


def rows_for(
    recipe: Experiment, matched: Mapping[str, list[Row]], data: str, seed: int
) -> list[Row]:
    """What a student of ``data`` is trained on: a writer's rows, or those shuffled."""
    kind, _, source = data.rpartition("-")
    return recipe.carrier.shuffles[kind](matched[source], seed) if kind else matched[source]


def awaited(recipe: Experiment, folder: Path, seeds: Sequence[int] | None = None) -> list[str]:
    """Stages of students that are trained elsewhere and have not been brought back.

    Args:
        seeds: look at these alone; None = at all of the recipe's.
    """
    stages = [
        f"seed-{seed}/student/{student.name}/{data}"
        for student in recipe.students
        if student.engine == "elsewhere"
        for seed in seeds or recipe.seeds
        for data in recipe.data_of(student)
    ]
    return [name for name in stages if not (folder / name).exists()]


def by_prompt(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by the id of their prompt, which theirs begins with."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(prompt_of(row), []).append(row)
    return found


def number_of_rows(recipe: Experiment, student: Student, folder: Path) -> int:
    """Rows that every student could see, in the seed with the fewest of them.

    A student sees fewer if it stops before an epoch is over.
    """
    if student.method == "distill":
        return recipe.carrier.n_prompts * recipe.carrier.rows_per_prompt
    first = recipe.sources[0]
    fewest = min(len(rows_of(recipe, folder, seed)[first]) for seed in recipe.seeds)
    return min(fewest, student.shots) if student.method == "in_context" else fewest


def count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def read_json(path: Path) -> dict:
    """A JSON file of the run. Raises ``StoreError`` naming it if it is damaged."""
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}; delete its stage and run again") from error
