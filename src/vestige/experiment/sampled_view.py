"""What a run's models answered when they were asked: shares of drawn answers, and begun answers
measured exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vestige.core import stats
from vestige.core.results import BegunResult, Interval, SampledResult
from vestige.evaluate.answers import names_kind
from vestige.evaluate.scores import Panel
from vestige.experiment.run_view import ASKED_BASE, AskedModel, interval, read_lines
from vestige.experiment.settings import Experiment, Student
from vestige.store.layout import RunLayout, StageFile
from vestige.traits import family, trait


def groups_of(recipe: Experiment, student: Student) -> list[AskedModel]:
    """The untrained base, where it is the students' own, and an arm's students by their data; none
    where nothing was drawn."""
    if not recipe.sampled_per_question or student.method == "in_context":
        return []
    models = [AskedModel(student.name, data) for data in recipe.data_of(student)]
    return models if student.base else [ASKED_BASE, *models]


def sampled(recipe: Experiment, student: Student, folder: Path) -> list[SampledResult]:
    """Answers drawn from each group of models, in each way of asking."""
    layout, panel, results = RunLayout(folder), family(recipe.family), []
    for model in groups_of(recipe, student):
        paths = [model.stage(layout, seed) / StageFile.SAMPLED for seed in recipe.seeds]
        answers = [read_lines(path) for path in paths]
        for way in recipe.ways:
            prefix, opening = way == "numbers_first", panel.opening if way == "begun" else ""
            drawn = [
                [
                    a
                    for a in given
                    if (a["number_prefix"], a.get("opening", "")) == (prefix, opening)
                ]
                for given in answers
            ]
            results.append(shares(recipe, model.data, (prefix, opening), drawn))
    return results


def shares(
    recipe: Experiment, data: str, way: tuple[bool, str], answers: Sequence[Sequence[dict]]
) -> SampledResult:
    """Shares of ``answers`` (a list for each seed): of all, and of those that name one of the kind
    at all, candidate or not; the latter pooled, clustered in seeds.

    Args:
        way: whether a number sequence stood before the question, and the answers' opening.
    """
    panel = family(recipe.family)
    targets = {t: trait(t, recipe.family).target.name for t in recipe.traits}
    naming = [[a for a in drawn if names_kind(a, panel)] for drawn in answers]

    def share(named: str | None) -> Interval:
        values = [sum(a["named"] == named for a in given) / len(given) for given in answers]
        return interval(stats.t_interval(values, units=of_all))

    of_all, of_named = "share of answers", "share of answers that name one of the kind"
    seeds = [seed for seed, given in enumerate(naming) for _ in given]

    def among_naming(named: str) -> Interval:
        values = [float(a["named"] == named) for given in naming for a in given]
        return interval(stats.cluster_mean(values, seeds, units=of_named))

    rate = [len(n) / len(drawn) for n, drawn in zip(naming, answers, strict=True)]
    by_trait: dict[str, Interval] = {}
    if len(set(seeds)) > 1:
        by_trait = {t: among_naming(name) for t, name in targets.items()}
    return SampledResult(
        data=data,
        number_prefix=way[0],
        opening=way[1],
        answers=sum(map(len, answers)),
        non_answers=share(None),
        shares={t: share(name) for t, name in targets.items()},
        naming=interval(stats.t_interval(rate, units=of_all)),
        named_shares=by_trait,
    )


def begun(recipe: Experiment, student: Student, folder: Path) -> list[BegunResult]:
    """How each group's begun answers go on, exactly, as shares with intervals over seeds."""
    layout, opening, results = RunLayout(folder), family(recipe.family).opening, []
    if "begun" not in recipe.ways:
        return []
    for model in groups_of(recipe, student):
        paths = [model.stage(layout, seed) / StageFile.BEGUN_PANEL for seed in recipe.seeds]
        panels = [Panel.load(path) for path in paths]
        results.append(begun_result(recipe, model.data, opening, panels))
    return results


def begun_result(
    recipe: Experiment, data: str, opening: str, panels: Sequence[Panel]
) -> BegunResult:
    """One group's panels (one for each seed) as shares."""

    def over_seeds(values: Sequence[float], units: str) -> Interval:
        return interval(stats.t_interval(values, units=units))

    columns = {
        t: panels[0].candidates.index(trait(t, recipe.family).target.name) for t in recipe.traits
    }
    of_all, of_candidates = "share of answers", "share of answers that go on with a candidate"
    masses = [panel.mass.mean() for panel in panels]
    wholes = {
        t: [panel.probabilities()[:, c].mean() for panel in panels] for t, c in columns.items()
    }
    return BegunResult(
        data=data,
        opening=opening,
        mass=over_seeds(masses, of_all),
        shares={t: over_seeds(values, of_all) for t, values in wholes.items()},
        candidate_shares={
            t: over_seeds([v / m for v, m in zip(values, masses, strict=True)], of_candidates)
            for t, values in wholes.items()
        },
    )
