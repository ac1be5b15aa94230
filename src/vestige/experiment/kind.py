"""Experiments on language models and on small networks, as kinds of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vestige.core.kinds import Kind, Report
from vestige.core.results import AnyResults, MlpResults, Results
from vestige.experiment.recipe import Experiment, Recipe, load_recipe
from vestige.toy.settings import MlpExperiment


def run(
    recipe: Recipe, root: Path, *, overwrite: bool, report: Report, **executor: Any
) -> tuple[Path, AnyResults]:
    """Run a recipe below ``root``; ``executor``: as in ``experiment.run.run``."""
    from vestige.experiment.run import run as run_recipe

    return run_recipe(
        recipe,
        root,
        overwrite=overwrite,
        on_event=lambda event: report(event.stage, event.done, event.total),
        **executor,
    )


def replay(folder: Path, *, overwrite: bool, report: Report) -> tuple[Path, AnyResults]:
    """Run what is unfinished in a run folder."""
    return run(
        load_recipe(folder / "recipe.json"), folder.parent, overwrite=overwrite, report=report
    )


def stages(recipe: Recipe) -> int:
    """How many stages a recipe has."""
    from vestige.experiment.run import count_stages

    return count_stages(recipe)


KIND = Kind(
    name="transfer",
    settings=Experiment,
    record=Results,
    replay=replay,
    template="transfer",
    run=run,
    stages=stages,
)
SMALL_NETWORKS = Kind(
    name="mlp",
    settings=MlpExperiment,
    record=MlpResults,
    replay=replay,
    template="mlp",
    run=run,
    stages=stages,
)
