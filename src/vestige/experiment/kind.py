"""Experiments on language models as a kind of run. Free of torch until one is run again."""

from __future__ import annotations

from pathlib import Path

from vestige.core.kinds import Kind
from vestige.core.results import AnyResults, Results
from vestige.experiment.events import Event, OnEvent
from vestige.experiment.recipe import load_recipe
from vestige.experiment.settings import Experiment
from vestige.store.layout import RunLayout


def ignore(event: Event) -> None:
    """Tell nobody."""


def replay(
    folder: Path, *, overwrite: bool = False, report: OnEvent = ignore
) -> tuple[Path, AnyResults]:
    """Run the recipe of a run folder again; finished stages are kept.

    Args:
        overwrite: replace stages that were made with other settings.
        report: called with each event of the run.

    Returns:
        The run folder and its record.
    """
    from vestige.experiment.run import run

    recipe = load_recipe(RunLayout(folder).recipe)
    return run(recipe, folder.resolve().parent, overwrite=overwrite, on_event=report)


KIND = Kind(
    name="experiment", settings=Experiment, record=Results, replay=replay, template="transfer"
)
