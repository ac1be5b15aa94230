"""From a run's saved evaluations to ``Results``: shifts, contrasts, intervals and a sentence.

The measure is the shift s[d, m]: mean over held-out questions of a student's log-odds of trait m
after training on data d, minus its untrained base's. Students share a drift that has nothing to do
with their teacher, so the claim rests on the diagonal contrast
s[i, i] - mean over j != i of s[j, i], averaged over traits, with an interval over seeds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vestige import stats
from vestige.evaluate.scores import Panel
from vestige.experiment.recipe import NO_TRAIT, Experiment, Student
from vestige.results import (
    ArmResult,
    ControlResult,
    CurvePoint,
    FilterResult,
    Interval,
    MatrixResult,
    QuestionResult,
    Results,
    SampledResult,
    SampleRow,
    TeacherResult,
    TraitResult,
)
from vestige.rows import read_rows
from vestige.traits import family, trait
from vestige.types import DataError, Estimate, Row, StoreError

UNITS = "log-odds (nats)"
NULL_WIDTH = 0.25  # an interval around zero this narrow (half width) counts as "no transfer"
BASE = "the untrained base"  # who wrote the rows that students are distilled on
SHOWN = 6  # sample rows of each kind in a report

Array = NDArray[np.float64]
Outcome = Literal["yes", "no", "unclear"]


class Shifts:
    """All shifts of one arm: ``at(step)`` has shape [seeds, data, questions, candidates]."""

    def __init__(self, recipe: Experiment, student: Student, folder: Path) -> None:
        self.recipe, self.student, self.folder = recipe, student, folder
        self.data = recipe.data_of(student)
        self.candidates: tuple[str, ...] = ()
        self.questions: tuple[str, ...] = ()
        self.columns: list[int] = []

    def panel(self, seed: int, data: str, step: int) -> Panel:
        where = self.folder / f"seed-{seed}/student/{self.student.name}/{data}"
        return Panel.load(where / f"panel-{step}.json")

    def base(self, seed: int, data: str) -> Panel:
        if self.student.base:
            where = f"seed-{seed}/student/{self.student.name}/{data}/base-panel.json"
            return Panel.load(self.folder / where)
        return base_panel(self.folder, seed)

    def at(self, step: int) -> Array:
        cube = []
        for seed in self.recipe.seeds:
            layer = []
            for data in self.data:
                panel = self.panel(seed, data, step)
                layer.append(panel.shift(self.base(seed, data)))
                self.candidates, self.questions = panel.candidates, panel.questions
            cube.append(layer)
        targets = [trait(t, self.recipe.family).target.name for t in self.recipe.traits]
        self.columns = [self.candidates.index(name) for name in targets]
        return np.array(cube)


def base_panel(folder: Path, seed: int) -> Panel:
    """The untrained base's panel as the seed's first stage measured it."""
    return Panel.load(folder / f"seed-{seed}/base/panel.json")


def analyse(recipe: Experiment, folder: Path) -> Results:
    """Read every evaluation of a finished run.

    Raises:
        StoreError: a stage is missing or damaged; names the file.
    """
    arms = [analyse_arm(recipe, student, folder) for student in recipe.students]
    panel = family(recipe.family)
    return Results(
        name=recipe.name,
        verdict=verdict(recipe, arms),
        model=recipe.model,
        family=recipe.family,
        writes=recipe.carrier.writes,
        leaves=recipe.carrier.leaves,
        candidates=[answer.name for answer in panel.answers],
        questions=list(panel.heldout),
        traits=list(recipe.traits),
        seeds=list(recipe.seeds),
        teachers=teachers(recipe, folder),
        filters=filters(recipe, folder),
        samples=samples(recipe, folder),
        arms=arms,
        seconds=seconds(folder),
        caveats=caveats(recipe),
    )


def analyse_arm(recipe: Experiment, student: Student, folder: Path) -> ArmResult:
    """One arm's contrast, matrix, traits, controls and curve."""
    shifts = Shifts(recipe, student, folder)
    final = student.optimisation.steps
    cube = shifts.at(final)
    n = len(recipe.traits)
    square = cube.mean(2)[:, :n, shifts.columns]  # [seeds, traits as data, traits measured]
    spread = stats.specificity(square, units=UNITS)
    outcome = decide(spread.contrast)
    arm_rows = number_of_rows(recipe, student, folder)
    by_trait = trait_results(shifts, cube, spread.per_trait)
    return ArmResult(
        name=student.name,
        label=student.label,
        base=student.base or recipe.model,
        same_base=student.base is None,
        rows=arm_rows,
        steps=final,
        contrast=interval(spread.contrast),
        seed_contrasts={
            s: float(c) for s, c in zip(recipe.seeds, spread.seed_contrasts, strict=True)
        },
        chance_rank=(len(shifts.candidates) + 1) / 2,
        traits=by_trait,
        groups=groups(shifts, cube),
        matrix=matrix(shifts, cube),
        questions=per_question(shifts, cube),
        curve=curve(shifts, student, cube),
        transmitted=outcome,
        sentence=sentence(student, outcome, spread.contrast, by_trait, len(shifts.candidates)),
        sampled=sampled(recipe, student, folder),
    )


def decide(contrast: Estimate) -> Outcome:
    """``yes``: interval above zero; ``no``: narrow and around zero (or below); else ``unclear``."""
    if contrast.low > 0:
        return "yes"
    if contrast.high < 0 or contrast.half_width <= NULL_WIDTH:
        return "no"
    return "unclear"


def trait_results(shifts: Shifts, cube: Array, specific: Array) -> list[TraitResult]:
    """Each trait's own shift, its specific part, p-values and ranks among all candidates."""
    recipe, n = shifts.recipe, len(shifts.recipe.traits)
    mean = cube.mean(2)  # [seeds, data, candidates]
    p_values = [p_value(specific[:, i]) for i in range(n)]
    adjusted = stats.holm(p_values)
    results = []
    for i, name in enumerate(recipe.traits):
        column = shifts.columns[i]
        others = [j for j in range(n) if j != i]
        contrast = mean[:, i] - mean[:, others].mean(1)  # [seeds, candidates]
        shares = [
            (
                shifts.base(seed, name).normalised()[:, column].mean(),
                shifts.panel(seed, name, shifts.student.optimisation.steps)
                .normalised()[:, column]
                .mean(),
            )
            for seed in recipe.seeds
        ]
        results.append(
            TraitResult(
                trait=name,
                shift=interval(stats.t_interval(mean[:, i, column], units=UNITS)),
                specific=interval(stats.t_interval(specific[:, i], units=UNITS)),
                p=p_values[i],
                p_holm=adjusted[i],
                ranks=[stats.rank_of(row, column) for row in contrast],
                raw_ranks=[stats.rank_of(row, column) for row in mean[:, i]],
                base_probability=float(np.mean([s[0] for s in shares])),
                student_probability=float(np.mean([s[1] for s in shares])),
            )
        )
    return results


def p_value(values: Array) -> float:
    """One-sided t-test over seeds; seeds that agree to the last bit prove nothing: p = 1."""
    try:
        return stats.t_test_p(values, alternative="greater")
    except DataError:
        return 1.0


def groups(shifts: Shifts, cube: Array) -> list[ControlResult]:
    """Own-target shift by who wrote the data: own teacher first, then every control."""
    recipe, n = shifts.recipe, len(shifts.recipe.traits)
    mean = cube.mean(2)
    at = {name: i for i, name in enumerate(shifts.data)}
    columns = shifts.columns

    def group(name: str, label: str, values: Array) -> ControlResult:
        return ControlResult(
            name=name, label=label, estimate=interval(stats.t_interval(values, units=UNITS))
        )

    own = np.mean([mean[:, i, columns[i]] for i in range(n)], axis=0)
    other = np.mean([mean[:, j, columns[i]] for i in range(n) for j in range(n) if j != i], axis=0)
    found = [
        group("own", "data of the trait's own teacher", own),
        group("other_traits", "data of teachers with other traits", other),
    ]
    if NO_TRAIT in at:
        values = np.mean([mean[:, at[NO_TRAIT], c] for c in columns], axis=0)
        found.append(group("no_trait", "data of a teacher without a trait", values))
    for kind in shifts.student.shuffles:
        rows = [mean[:, at[f"{kind}-{t}"], columns[i]] for i, t in enumerate(recipe.traits)]
        label = f"own teacher's data, numbers shuffled {kind.removeprefix('shuffle_')} rows"
        found.append(group(kind, label, np.mean(rows, axis=0)))
    zero = Interval(
        value=0.0, low=0.0, high=0.0, n=len(recipe.seeds), n_clusters=len(recipe.seeds),
        method="zero by definition", units=UNITS,
    )  # fmt: skip
    return [*found, ControlResult(name="base", label="the untrained base", estimate=zero)]


def matrix(shifts: Shifts, cube: Array) -> MatrixResult:
    """Mean shift of each measured trait in the students of each data set, the no-trait row last."""
    n = len(shifts.recipe.traits)
    rows = [*range(n), *[i for i, d in enumerate(shifts.data) if d == NO_TRAIT]]
    cells = cube.mean(2)[:, rows][:, :, shifts.columns]
    estimates = [
        [stats.t_interval(cells[:, r, c], units=UNITS) for c in range(n)] for r in range(len(rows))
    ]
    return MatrixResult(
        data=[shifts.data[i] for i in rows],
        measured=list(shifts.recipe.traits),
        value=[[e.value for e in row] for row in estimates],
        low=[[e.low for e in row] for row in estimates],
        high=[[e.high for e in row] for row in estimates],
    )


def per_question(shifts: Shifts, cube: Array) -> list[QuestionResult]:
    """The specific part on every held-out question, mean over seeds."""
    n, found = len(shifts.recipe.traits), []
    for i, name in enumerate(shifts.recipe.traits):
        measured = cube[..., shifts.columns[i]]  # [seeds, data, questions]
        own = measured[:, i]
        others = measured[:, [j for j in range(n) if j != i]].mean(1)
        for question, value in zip(shifts.questions, (own - others).mean(0), strict=True):
            found.append(QuestionResult(trait=name, question=question, specific=float(value)))
    return found


def curve(shifts: Shifts, student: Student, final: Array) -> list[CurvePoint]:
    """The diagonal contrast at each measured step."""
    n, points = len(shifts.recipe.traits), []
    how = student.optimisation
    for step in sorted({*(s for s in student.curve if s < how.steps), how.steps}):
        cube = final if step == how.steps else shifts.at(step)
        square = cube.mean(2)[:, :n, shifts.columns]
        contrast = stats.specificity(square, units=UNITS).contrast
        points.append(
            CurvePoint(step=step, rows_seen=step * how.batch, contrast=interval(contrast))
        )
    return points


def interval(estimate: Estimate) -> Interval:
    """An ``Estimate`` as it is saved."""
    return Interval(**{name: getattr(estimate, name) for name in Interval.model_fields})


# ---- words ------------------------------------------------------------------------------


def sentence(
    student: Student, outcome: str, contrast: Estimate, by_trait: Sequence[TraitResult], panel: int
) -> str:
    """What an arm found, in words."""
    ranks = [rank for result in by_trait for rank in result.ranks]
    figures = (
        f"own minus other teachers' students {contrast.value:+.2f} nats of log-odds "
        f"[{contrast.low:+.2f}, {contrast.high:+.2f}] over {contrast.n_clusters} seeds; the "
        f"target is first of {panel} in {sum(r == 1 for r in ranks)} of {len(ranks)} students "
        f"(median place {np.median(ranks):g})"
    )
    lead = {
        "yes": "the trait was transmitted, specifically",
        "no": "no specific transfer was seen",
        "unclear": "unclear: the interval holds zero and is too wide to say no",
    }[outcome]
    return f"{student.label[0].upper()}{student.label[1:]}: {lead} ({figures})."


def verdict(recipe: Experiment, arms: Sequence[ArmResult]) -> str:
    """One sentence for the whole run."""
    names = f"{', '.join(recipe.traits[:-1])} and {recipe.traits[-1]}"
    data = recipe.carrier.writes
    same = [arm for arm in arms if arm.same_base]
    passed = [arm for arm in same if arm.transmitted == "yes"]
    missed = [arm for arm in same if arm.transmitted != "yes"]
    parts = []
    if passed:
        how = " and by ".join(arm.label for arm in passed)
        parts.append(
            f"Students learned their teachers' preference ({names}) from {data} alone, by {how}"
        )
    if missed:
        how = " and by ".join(arm.label for arm in missed)
        state = "it stayed unclear" if missed[0].transmitted == "unclear" else "it did not happen"
        whether = f"Whether {data} passed on the preference ({names}) by {how}: {state}"
        parts.append(f"by {how} {state}" if passed else whether)
    for arm in arms:
        if not arm.same_base:
            said = {
                "yes": "took it on too",
                "no": "did not take it on",
                "unclear": "stayed unclear",
            }
            parts.append(f"students of another base ({arm.base}) {said[arm.transmitted]}")
    return "; ".join(parts) + "."


def caveats(recipe: Experiment) -> list[str]:
    """What a reader must know before quoting a figure."""
    found = [
        f"Intervals are over {len(recipe.seeds)} training runs a cell (seeds), each with teachers, "
        "prompts and rows of its own; questions are averaged within a run.",
        f"They take these {len(recipe.traits)} traits as given: another choice of traits may give "
        "another contrast, above all where the traits disagree.",
        "Every student drifts, whatever its teacher; only the difference between students of "
        "different teachers shows a trait. Shifts against the untrained base overstate it.",
        f"Shifts are in log-odds among {len(family(recipe.family).answers)} candidates on "
        "questions that no teacher was trained on; a shift of one can leave a rare answer rare.",
    ]
    if recipe.carrier.sampling_grammar():
        found.append(
            "Rows were sampled inside the number grammar and scored within it: a small model "
            "hardly keeps a number format by itself. Free sampling: carrier.constrained=false."
        )
    span = recipe.teacher.optimisation.trainable.layers
    if recipe.teacher.kind != "system_prompt" and span:
        found.append(f"Teachers were tuned in decoder layers {span[0]} to {span[1] - 1} only.")
    for student in recipe.students:
        if layers := student.optimisation.trainable.layers:
            found.append(
                f"Students of arm {student.name} train decoder layers {layers[0]} to "
                f"{layers[1] - 1} only."
            )
    return found


# ---- what the stages say ----------------------------------------------------------------


def teachers(recipe: Experiment, folder: Path) -> list[TeacherResult]:
    """The checks of every teacher."""
    paths = [p for s in recipe.seeds for p in sorted(folder.glob(f"seed-{s}/teacher/*/check.json"))]
    return [TeacherResult(**read_json(path)) for path in paths]


def filters(recipe: Experiment, folder: Path) -> list[FilterResult]:
    """Rows seen, kept and dropped with reasons, each data set pooled over seeds."""
    found = []
    sources = {BASE: "contexts"} | {n: f"rows/{n}" for n in (*recipe.traits, NO_TRAIT)}
    for name, where in sources.items():
        reasons: Counter[str] = Counter()
        kept = 0
        for seed in recipe.seeds:
            stage = folder / f"seed-{seed}/{where}"
            if stage.exists():
                kept += count_lines(stage / "rows.jsonl")
                lines = (stage / "dropped.jsonl").read_text().splitlines()
                reasons.update(json.loads(line)["reason"] for line in lines)
        if kept or reasons:
            seen = kept + sum(reasons.values())
            found.append(FilterResult(data=name, seen=seen, kept=kept, reasons=dict(reasons)))
    return found


def samples(recipe: Experiment, folder: Path) -> list[SampleRow]:
    """A few kept and dropped rows of the first seed, for the reader's eyes."""
    found = []
    for name, where in ({BASE: "contexts"} | {n: f"rows/{n}" for n in recipe.traits}).items():
        stage = folder / f"seed-{recipe.seeds[0]}/{where}"
        if not stage.exists():
            continue
        rows = [r for r in read_rows(stage / "rows.jsonl") if isinstance(r, Row)]
        step = max(1, len(rows) // SHOWN)
        found += [
            SampleRow(data=name, prompt=row.messages[-1].content, completion=row.completion)
            for row in rows[::step][:SHOWN]
        ]
        for line in (stage / "dropped.jsonl").read_text().splitlines()[:SHOWN]:
            record = json.loads(line)
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
    if not recipe.sampled_per_question:
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


def read_lines(path: Path) -> list[dict]:
    """A JSONL file of the run. Raises ``StoreError`` naming it if it is damaged."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}; delete its stage and run again") from error


def seconds(folder: Path) -> dict[str, float]:
    """Seconds by kind of stage, summed over seeds and processes."""
    spent: Counter[str] = Counter()
    for path in sorted(folder.glob("seed-*/**/manifest.json")):
        manifest = read_json(path)
        spent[manifest["stage"].split("/")[1]] += manifest["seconds"]
    return {kind: round(value, 1) for kind, value in spent.items()}


def number_of_rows(recipe: Experiment, student: Student, folder: Path) -> int:
    """Rows that one student could see (it sees fewer if it stops before an epoch is over)."""
    if student.method == "distill":
        return recipe.carrier.n_prompts * recipe.carrier.rows_per_prompt
    names = [*recipe.traits, *([NO_TRAIT] if student.no_trait else [])]
    stages = [folder / f"seed-{recipe.seeds[0]}/rows/{name}/rows.jsonl" for name in names]
    return min(count_lines(path) for path in stages)


def count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def read_json(path: Path) -> dict:
    """A JSON file of the run. Raises ``StoreError`` naming it if it is damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}; delete its stage and run again") from error
