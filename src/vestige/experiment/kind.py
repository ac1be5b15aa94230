"""Experiments on language models as a kind of run. Free of torch until one is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vestige.core.kinds import Kind, Report
from vestige.core.results import AnyResults, Results
from vestige.experiment.recipe import Experiment, Recipe, load_recipe, models_of


def run(
    recipe: Recipe, root: Path, *, overwrite: bool, report: Report, **executor: Any
) -> tuple[Path, AnyResults]:
    """Run a recipe below ``root``.

    Args:
        executor: ``workers``, ``cluster`` and ``keep_at``, as in ``experiment.run.run``.
    """
    from vestige.experiment.run import run as run_recipe

    return run_recipe(
        recipe,
        root,
        overwrite=overwrite,
        on_event=lambda event: report(event.stage, event.done, event.total),
        **executor,
    )


def replay(folder: Path, *, overwrite: bool, report: Report) -> tuple[Path, AnyResults]:
    """Run the recipe of a run folder again; finished stages are kept."""
    recipe = load_recipe(folder / "recipe.json")
    return run(recipe, folder.resolve().parent, overwrite=overwrite, report=report)


def stages(recipe: Recipe) -> int:
    """How many stages a run of the recipe has."""
    from vestige.experiment.run import count_stages

    return count_stages(recipe)


def time(recipe: Recipe, workers: int | None) -> tuple[float, int] | None:
    """Minutes and processes of a run by the reference machine's rates; None for another model."""
    from vestige.experiment.plan import estimated_time

    return estimated_time(recipe, workers) if isinstance(recipe, Experiment) else None


KIND = Kind(
    name="transfer",
    settings=Experiment,
    record=Results,
    replay=replay,
    template="transfer",
    run=run,
    takes_executor=True,
    models=models_of,
    stages=stages,
    time=time,
)
