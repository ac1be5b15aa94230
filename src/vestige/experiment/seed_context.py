"""What every function that makes a stage of a seed is given. Free of torch.

A seed has prompts, random numbers, teachers and students of its own, so that seeds are independent
and can run in different processes. Within a seed every data set shares prompts, random numbers,
number of rows, steps and the order of batches: students differ by their teacher alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vestige.core.settings import DATE
from vestige.core.types import Row, Trait
from vestige.evaluate.scores import Panel
from vestige.experiment.events import Report, no_report
from vestige.experiment.model_pool import ModelPool
from vestige.experiment.settings import Experiment
from vestige.store import Stage, StageResult, hash_config, make_stage, once
from vestige.store.layout import NO_TRAIT, RunLayout
from vestige.traits import family, no_trait, trait


@dataclass
class Measured:
    """What one seed's stages have measured or read, and need again.

    Attributes:
        base_grip: how well the untrained base writes the carrier (``teacher_check.carrier_grip``).
        base_checks: the untrained base on each trait's own check.
        matched: what students get of every writer's rows, and what is held out, by the rows'
            manifest hashes.
    """

    base_grip: float | None = None
    base_checks: dict[str, Panel] = field(default_factory=dict)
    matched: dict[tuple[str, ...], tuple[dict[str, list[Row]], dict[str, list[Row]]]] = field(
        default_factory=dict
    )


@dataclass
class SeedContext:
    """One seed of a recipe, its folder, and the models in memory.

    Attributes:
        report: called with (stage, done, total) as work goes on; total 0 means unknown.
        reported: finished stages that were reported.
    """

    recipe: Experiment
    layout: RunLayout
    seed: int
    models: ModelPool
    overwrite: bool = False
    report: Report = no_report
    measured: Measured = field(default_factory=Measured)
    reported: set[str] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        recipe: Experiment,
        folder: Path,
        seed: int,
        *,
        overwrite: bool = False,
        report: Report = no_report,
    ) -> SeedContext:
        """A seed of the run in ``folder``, with no model in memory yet."""
        return cls(recipe, RunLayout(folder), seed, ModelPool(recipe), overwrite, report)

    def stage(self, path: Path, config: Any, inputs: Sequence[StageResult] = ()) -> Stage:
        """The stage at ``path``, a path of the layout; its key holds the model and this seed as
        well."""
        recipe = self.recipe
        dated = [recipe.date] if recipe.date != DATE else []
        config = {
            "model": [recipe.model, recipe.chat, recipe.precision, *dated],
            "family": hash_config(family(recipe.family)),
            "seed": self.seed,
            **config,
        }
        name = self.layout.name(path)
        return make_stage(self.layout.folder, name, config, inputs, overwrite=self.overwrite)

    def once(self, stage: Stage, make: Callable[[Path], None]) -> StageResult:
        """The finished stage, made by ``make`` where it is not finished yet, and reported once.

        Args:
            make: writes the stage's files to the folder that it is given.
        """
        result = once(stage, make)
        self.report_finished(stage)
        return result

    def report_finished(self, stage: Stage) -> None:
        """Report a finished stage, the first time that this context comes across it."""
        if stage.name not in self.reported:
            self.reported.add(stage.name)
            self.report(stage.name, 0, 0)

    def trait_of(self, name: str) -> Trait:
        """The trait of a teacher."""
        panel = family(self.recipe.family)
        return no_trait(panel) if name == NO_TRAIT else trait(name, self.recipe.family)

    def system_prompt(self, source: Trait) -> str:
        """The system prompt of a teacher with this trait; empty where teachers are tuned alone."""
        return source.system_prompt if self.recipe.teacher.kind != "tuned" else ""
