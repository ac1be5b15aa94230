"""``vestige plan``: how many seeds an interval needs, and what a recipe will take.

Seeds from the t interval: the smallest n with t(n-1) sd / sqrt(n) <= half width. Time from token
counts over tokens a second, and memory from the model's size: from a finished run where one is
given, else from rates measured with the bundled model on two CPU cores (``docs/results.md``).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vestige.core import stats
from vestige.core.types import DataError, StoreError
from vestige.experiment.analysis import Shifts, base_panel
from vestige.experiment.run import gpu_present, worker_count
from vestige.experiment.run_view import read_json
from vestige.experiment.settings import Experiment
from vestige.store import load_run
from vestige.store.layout import RunLayout
from vestige.store.machine import usable_cores
from vestige.traits import family

#: Seconds a unit on one core of the reference machine, all processes busy, bundled model.
REFERENCE = {
    "base": 5.0,  # a stage
    "contexts": 0.06,  # a row
    "rows": 0.07,  # a row
    "teacher": 0.9,  # a step
    "targets": 0.02,  # a row
    "student": 0.09,  # a row trained on
    "on_policy": 0.18,  # more for a row that the student writes and a teacher at hand reads
    "load": 5.0,  # a seed
}
#: Nats: how far the contrast lay from its mean over seeds, the largest seen for each kind of arm
#: (docs/results.md: four ways to distil, rows in the prompt, misalignment through numbers).
REFERENCE_SD = {
    "distill": 0.35,
    "rows": 0.45,
    "on_policy": 0.25,
    "preference": 0.08,
    "in_context": 0.08,
    "paired": 0.31,
}
BUNDLED = "smollm2-135m-instruct"  # the model that these were measured with
PROMPT_TOKENS = 90  # chat template and number prompt, counted with the bundled tokenizer
BYTES_A_PROCESS = 2_600_000_000  # memory of one process with the bundled model, as measured there
BYTES_A_COPY = 800_000_000  # and of a teacher at hand, a second copy


def make_plan(
    recipe: Experiment, *, half_width: float, sd: float | None = None, like: Path | None = None
) -> dict[str, Any]:
    """The plan as plain data.

    Args:
        half_width: wanted half width of the contrast's 95% interval, nats of log-odds.
        sd: spread of the contrast over seeds; default: of ``like``, else the reference's.

    Raises:
        DataError: the half width is not positive.
    """
    if half_width <= 0:
        raise DataError("--half-width must be above zero")
    measured = contrasts(like) if like else {}
    spreads = [float(np.std(values, ddof=1)) for values in measured.values()]
    spread = sd or max(spreads, default=reference_spread(recipe))
    rates = rates_of(like) if like else REFERENCE
    workers = worker_count(recipe, None)
    copies = any(student.method == "on_policy" for student in recipe.students)
    plan: dict[str, Any] = {
        "recipe": recipe.name,
        "seeds": len(recipe.seeds),
        "wanted_half_width": half_width,
        "sd_over_seeds": round(spread, 3),
        "sd_from": "given" if sd else (str(like) if like else "reference run"),
        "half_width_of_this_recipe": round(stats.smallest_contrast(spread, len(recipe.seeds)), 3),
        "seeds_needed": stats.seeds_needed(spread, half_width),
        "questions": len(family(recipe.family).heldout),
    }
    if like:
        plan |= questions_for(like, half_width, len(recipe.seeds))
    return plan | {
        "students": sum(len(recipe.data_of(s)) for s in recipe.students) * len(recipe.seeds),
        "tokens_trained": tokens(recipe),
        "workers": workers,
        "cores": usable_cores(),
        "minutes": round(minutes_with(recipe, rates, workers), 1),
        "memory_gb": round(workers * (BYTES_A_PROCESS + copies * BYTES_A_COPY) / 1e9, 1),
        "rates_from": str(like) if like else "reference: bundled model, two CPU cores",
    }


def minutes_with(recipe: Experiment, rates: Mapping[str, float], workers: int) -> float:
    """Minutes that a recipe takes in ``workers`` processes, each working on whole seeds."""
    work = amounts(recipe)
    seed = sum(amount * rates.get(kind, REFERENCE.get(kind, 0.0)) for kind, amount in work.items())
    return seed * math.ceil(len(recipe.seeds) / workers) / 60


def estimated_time(recipe: Experiment, workers: int | None) -> tuple[float, int] | None:
    """Minutes by the reference's rates, and in how many processes; None for another model than the
    bundled one, or with a GPU.

    Args:
        workers: processes that were asked for; None: as many as fit.
    """
    if recipe.model != BUNDLED or gpu_present():
        return None
    processes = worker_count(recipe, workers)
    return minutes_with(recipe, REFERENCE, processes), processes


def reference_spread(recipe: Experiment) -> float:
    """The spread over seeds to plan with where no run like this one is at hand: its arms' largest,
    nats."""
    if family(recipe.family).texts:
        return REFERENCE_SD["paired"]
    return max(REFERENCE_SD[student.method] for student in recipe.students)


def amounts(recipe: Experiment) -> dict[str, float]:
    """Units of work by kind of stage, for one seed."""
    carrier, base = recipe.carrier, recipe.base_carrier
    n = carrier.n_prompts * carrier.rows_per_prompt
    traits = len(recipe.sources) + recipe.with_none
    return {
        "load": 1,
        "base": 1,
        "contexts": base.n_prompts * base.rows_per_prompt if carrier.sampling_grammar() else 0,
        "teacher": traits * recipe.teacher.optimisation.steps
        if recipe.teacher.kind != "system_prompt"
        else 0,
        "targets": traits * n if any(s.reads_targets for s in recipe.students) else 0,
        "rows": traits * n if any(s.reads_rows for s in recipe.students) else 0,
        "student": sum(
            len(recipe.data_of(s)) * s.rows_seen(s.steps)
            for s in recipe.students
            if s.engine != "elsewhere"
        ),
        "on_policy": sum(
            len(recipe.data_of(s)) * s.rows_seen(s.steps)
            for s in recipe.students
            if s.method == "on_policy"
        ),
    }


def tokens(recipe: Experiment) -> int:
    """Tokens that students are trained on, all seeds, roughly."""
    carrier, total = recipe.carrier, 0
    row = carrier.longest
    for student in recipe.students:
        batch = student.optimisation.batch
        prompts = batch / min(batch, carrier.rows_per_prompt)
        step = batch * row + prompts * PROMPT_TOKENS
        total += round(step * student.steps * len(recipe.data_of(student)))
    return total * len(recipe.seeds)


def contrasts(folder: Path) -> dict[str, list[float]]:
    """Each arm's seed contrasts in a finished run."""
    path = RunLayout(folder).results
    if not path.exists():
        raise StoreError(f"{folder} has no results.json: --like needs a finished run")
    return {a["name"]: list(a["seed_contrasts"].values()) for a in read_json(path)["arms"]}


def rates_of(folder: Path) -> dict[str, float]:
    """Seconds a unit of work in a finished run."""
    recipe = Experiment.model_validate(load_run(folder).get("config") or recipe_of(folder))
    spent: dict[str, float] = defaultdict(float)
    for path in RunLayout(folder).manifests():
        manifest = read_json(path)
        spent[RunLayout.kind(manifest["stage"])] += manifest["seconds"] / len(recipe.seeds)
    # What a row costs more on policy is in the seconds of the run's own students.
    spent_on = {k: spent[k] / n for k, n in amounts(recipe).items() if n and spent.get(k)}
    return spent_on | {"on_policy": 0.0}


def recipe_of(folder: Path) -> Any:
    """The recipe that a run folder holds."""
    return read_json(RunLayout(folder).recipe)


def questions_for(folder: Path, half_width: float, seeds: int) -> dict[str, Any]:
    """Questions needed with ``seeds`` seeds, from the spread within a finished run."""
    recipe = Experiment.model_validate(recipe_of(folder))
    student = recipe.students[0]
    shifts, step = Shifts(recipe, student, folder), student.steps
    cells = []
    for seed in recipe.seeds:
        base = base_panel(folder, seed)
        own, other = (shifts.panel(seed, name, step).shift(base) for name in recipe.sources[:2])
        column = base.candidates.index(recipe.traits[0])
        cells.append((own - other)[:, column])
    table = np.array(cells)  # [seeds, questions]
    # What a question adds to every run alike is no noise between runs.
    within = stats.spread_within(table)
    between = max(0.0, table.mean(1).var(ddof=1) - within**2 / table.shape[1]) ** 0.5
    try:
        needed: Any = stats.questions_needed(between, within, half_width, seeds)
    except DataError as error:
        needed = str(error)
    return {"questions_needed": needed, "questions_from": recipe.traits[0]}
