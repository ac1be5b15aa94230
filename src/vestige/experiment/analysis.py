"""From a run's saved evaluations to ``Results``: shifts, contrasts, intervals and a sentence.

The measure is the shift s[d, m]: mean over held-out questions of a student's log-odds of trait m
after training on data d, minus its untrained base's. Students share a drift that has nothing to do
with their teacher, so the claim rests on the diagonal contrast
s[i, i] - mean over j != i of s[j, i], averaged over traits, with an interval over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vestige.core import stats
from vestige.core.results import (
    ArmResult,
    ControlResult,
    CurvePoint,
    Interval,
    MatrixResult,
    QuestionResult,
    Results,
    TraitResult,
)
from vestige.core.types import DataError, Estimate
from vestige.evaluate.scores import Panel
from vestige.experiment.defence_view import defences, heldout
from vestige.experiment.run_view import (
    choices,
    filters,
    freeform,
    interval,
    number_of_rows,
    remarks,
    samples,
    seconds,
    teachers,
)
from vestige.experiment.sampled_view import begun, sampled
from vestige.experiment.settings import Experiment, Student
from vestige.experiment.wording import ALPHA, caveats, defence_verdict, sentence, verdict
from vestige.store.layout import NO_TRAIT, DataName, RunLayout, StageFile
from vestige.traits import family, trait

UNITS = "log-odds (nats)"
#: Nats of log-odds: less than this counts as no transfer. Chosen.
MARGIN = 0.25

Array = NDArray[np.float64]
Outcome = Literal["yes", "no", "unclear"]


class Shifts:
    """All shifts of one arm: ``at(step)`` has shape [seeds, data, questions, candidates]."""

    def __init__(self, recipe: Experiment, student: Student, folder: Path) -> None:
        self.recipe, self.student, self.layout = recipe, student, RunLayout(folder)
        self.data = recipe.data_of(student)
        self.candidates: tuple[str, ...] = ()
        self.questions: tuple[str, ...] = ()
        self.columns: list[int] = []

    def panel(self, seed: int, data: str, step: int) -> Panel:
        stage = self.layout.student(seed, self.student.name, data)
        return Panel.load(stage / StageFile.student_panel(step))

    def base(self, seed: int, data: str) -> Panel:
        if self.student.base:
            stage = self.layout.student(seed, self.student.name, data)
            return Panel.load(stage / StageFile.BASE_PANEL)
        return base_panel(self.layout.folder, seed)

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

    def crossed(self, cube: Array) -> Array:
        """Mean shift over questions, [seeds, data of traits and controls, traits measured]."""
        return cube.mean(2)[:, : len(self.recipe.sources), self.columns]

    def contrasts(self, cube: Array) -> Array:
        """How far every candidate rose in the students of each trait's teacher beyond its rise in
        the others', [seeds, traits, candidates]."""
        mean = cube.mean(2)
        own = range(len(self.recipe.traits))
        return np.stack([mean[:, i] - mean[:, self.others(i)].mean(1) for i in own], axis=1)

    @property
    def untaught(self) -> list[int]:
        """The candidates that no teacher was taught."""
        taught = {trait(name, self.recipe.family).target.name for name in self.recipe.sources}
        return [i for i, name in enumerate(self.candidates) if name not in taught]

    def others(self, trait: int) -> list[int]:
        """The data sets that trait number ``trait`` is held against."""
        return [j for j in range(len(self.recipe.sources)) if j != trait]


def base_panel(folder: Path, seed: int) -> Panel:
    """The untrained base's panel as the seed's first stage measured it."""
    return Panel.load(RunLayout(folder).base(seed) / StageFile.PANEL)


def analyse(recipe: Experiment, folder: Path) -> Results:
    """Read every evaluation of a finished run.

    Raises:
        StoreError: a stage is missing or damaged; names the file.
    """
    arms = [analyse_arm(recipe, student, folder) for student in recipe.students]
    panel, against = family(recipe.family), defences(recipe, arms, folder)
    return Results(
        name=recipe.name,
        verdict=defence_verdict(recipe, arms, against) if against else verdict(recipe, arms),
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
        choices=choices(recipe, folder),
        freeform=freeform(recipe, folder),
        defences=against,
        caveats=[*caveats(recipe), *remarks(recipe, folder)],
    )


def analyse_arm(recipe: Experiment, student: Student, folder: Path) -> ArmResult:
    """One arm's contrast, matrix, traits, controls and curve."""
    shifts = Shifts(recipe, student, folder)
    final = student.steps
    cube = shifts.at(final)
    spread = stats.specificity(shifts.crossed(cube), units=UNITS)
    p_placebo = placebo(shifts, cube)
    outcome = decide(spread.contrast, p_placebo)
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
        p_placebo=p_placebo,
        chance_rank=(len(shifts.candidates) + 1) / 2,
        traits=by_trait,
        groups=groups(shifts, cube),
        shuffled=shuffled(shifts, cube),
        matrix=matrix(shifts, cube),
        questions=per_question(shifts, cube),
        curve=curve(shifts, student, cube),
        transmitted=outcome,
        sentence=sentence(
            student, outcome, spread.contrast, by_trait, len(shifts.candidates), p_placebo
        ),
        sampled=sampled(recipe, student, folder),
        begun=begun(recipe, student, folder),
        heldout=heldout(recipe, student, folder),
    )


def decide(contrast: Estimate, p_placebo: float | None) -> Outcome:
    """``yes``: the interval over seeds is above zero, and answers that nobody was taught hardly
    ever give such a contrast; ``no``: it is below the margin; else ``unclear``.

    Args:
        p_placebo: as ``stats.placebo_p``; None where all answers were taught: the interval decides.
    """
    if contrast.low > 0 and (p_placebo is None or p_placebo <= ALPHA):
        return "yes"
    return "no" if contrast.high < MARGIN else "unclear"


def placebo(shifts: Shifts, cube: Array) -> float | None:
    """p-value of the diagonal contrast against answers that nobody was taught; None without any."""
    if not (untaught := shifts.untaught):
        return None
    return stats.placebo_p(shifts.contrasts(cube).mean(0), shifts.columns, untaught)


def trait_results(shifts: Shifts, cube: Array, specific: Array) -> list[TraitResult]:
    """Each trait's own shift, its specific part, p-values and ranks among all candidates."""
    recipe, n = shifts.recipe, len(shifts.recipe.traits)
    mean = cube.mean(2)  # [seeds, data, candidates]
    p_values = [p_value(specific[:, i]) for i in range(n)]
    adjusted = stats.holm(p_values)
    contrasts, results = shifts.contrasts(cube), []
    none = shifts.data.index(NO_TRAIT) if NO_TRAIT in shifts.data else None
    for i, name in enumerate(recipe.traits):
        column = shifts.columns[i]
        before = [shifts.base(seed, name) for seed in recipe.seeds]
        after = [shifts.panel(seed, name, shifts.student.steps) for seed in recipe.seeds]
        own = mean[:, i, column]
        control: dict[str, Interval] = {}
        if none is not None:
            without = mean[:, none, column]
            control["no_trait"] = interval(stats.t_interval(without, units=UNITS))
            control["beyond_no_trait"] = interval(stats.t_interval(own - without, units=UNITS))
        results.append(
            TraitResult(
                trait=name,
                shift=interval(stats.t_interval(own, units=UNITS)),
                **control,
                specific=interval(stats.t_interval(specific[:, i], units=UNITS)),
                p=p_values[i],
                p_holm=adjusted[i],
                ranks=[stats.rank_of(row, column) for row in contrasts[:, i]],
                raw_ranks=[stats.rank_of(row, column) for row in mean[:, i]],
                base_probability=among_candidates(before, column),
                student_probability=among_candidates(after, column),
                base_share=of_all_answers(before, column),
                student_share=of_all_answers(after, column),
                base_mass=float(np.mean([panel.mass for panel in before])),
                student_mass=float(np.mean([panel.mass for panel in after])),
            )
        )
    return results


def among_candidates(panels: Sequence[Panel], column: int) -> float:
    """Mean probability of a candidate among the candidates, over questions and seeds."""
    return float(np.mean([panel.normalised()[:, column] for panel in panels]))


def of_all_answers(panels: Sequence[Panel], column: int) -> float:
    """Mean probability that an answer begins with a candidate, over questions and seeds."""
    return float(np.mean([np.exp(panel.logprobs[:, column]) for panel in panels]))


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
    results = [group("own", "data of the trait's own teacher", own)]
    if n > 1:
        other = [mean[:, j, columns[i]] for i in range(n) for j in range(n) if j != i]
        label = "data of teachers with other traits"
        results.append(group("other_traits", label, np.mean(other, axis=0)))
    for name in recipe.controls:
        values = np.mean([mean[:, at[name], c] for c in columns], axis=0)
        results.append(group(f"control_{name}", f"data of the {name} teacher", values))
    if NO_TRAIT in at:
        values = np.mean([mean[:, at[NO_TRAIT], c] for c in columns], axis=0)
        results.append(group("no_trait", "data of a teacher without a trait", values))
    for kind in shifts.student.shuffles:
        rows = [
            mean[:, at[str(DataName(t, kind))], columns[i]] for i, t in enumerate(recipe.traits)
        ]
        label = f"own teacher's data, shuffled {kind.removeprefix('shuffle_')} rows"
        results.append(group(kind, label, np.mean(rows, axis=0)))
    zero = Interval(
        value=0.0, low=0.0, high=0.0, n=len(recipe.seeds), n_clusters=len(recipe.seeds),
        method="zero by definition", units=UNITS,
    )  # fmt: skip
    return [*results, ControlResult(name="base", label="the untrained base", estimate=zero)]


def shuffled(shifts: Shifts, cube: Array) -> list[ControlResult]:
    """The diagonal contrast among students of shuffled rows, for each way to shuffle them."""
    n, results = len(shifts.recipe.traits), []
    at = {name: i for i, name in enumerate(shifts.data)}
    for kind in shifts.student.shuffles if n > 1 else ():
        rows = [at[str(DataName(name, kind))] for name in shifts.recipe.traits]
        square = cube.mean(2)[:, rows][:, :, shifts.columns]
        label = f"shuffled {kind.removeprefix('shuffle_')} rows"
        contrast = stats.specificity(square, units=UNITS).contrast
        results.append(ControlResult(name=kind, label=label, estimate=interval(contrast)))
    return results


def matrix(shifts: Shifts, cube: Array) -> MatrixResult:
    """Mean shift of each measured trait in the students of each data set, the no-trait row last."""
    n = len(shifts.recipe.traits)
    rows = [i for i, d in enumerate(shifts.data) if d in (*shifts.recipe.sources, NO_TRAIT)]
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
    results = []
    for i, name in enumerate(shifts.recipe.traits):
        measured = cube[..., shifts.columns[i]]  # [seeds, data, questions]
        own = measured[:, i]
        others = measured[:, shifts.others(i)].mean(1)
        for question, value in zip(shifts.questions, (own - others).mean(0), strict=True):
            results.append(QuestionResult(trait=name, question=question, specific=float(value)))
    return results


def curve(shifts: Shifts, student: Student, final: Array) -> list[CurvePoint]:
    """The diagonal contrast at each measured step."""
    points = []
    for step in sorted({*(s for s in student.curve if s < student.steps), student.steps}):
        cube = final if step == student.steps else shifts.at(step)
        contrast = stats.specificity(shifts.crossed(cube), units=UNITS).contrast
        points.append(
            CurvePoint(step=step, rows_seen=student.rows_seen(step), contrast=interval(contrast))
        )
    return points
