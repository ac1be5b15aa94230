"""What every executor does with a run."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from vestige.experiment.events import OnEvent
from vestige.experiment.settings import Experiment


class Executor(Protocol):
    """Works on every job of every seed of a recipe."""

    def run(self, recipe: Experiment, folder: Path, overwrite: bool, on_event: OnEvent) -> int:
        """Make every stage in the run folder that is not finished.

        Args:
            overwrite: replace stages that were made with other settings.
            on_event: called with progress, and of each finished stage.

        Returns:
            How many processes or jobs there could be at once.

        Raises:
            VestigeError: a job failed; finished stages are kept, and the same run goes on.
        """
        ...
