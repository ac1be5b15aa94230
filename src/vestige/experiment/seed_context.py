"""What every stage of a seed works with: its keys, prompts, filter and rows. Free of torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vestige.carriers.filtering import Filter, filter_rows
from vestige.core.jsonl import read_jsonl, write_jsonl
from vestige.core.settings import DATE
from vestige.core.types import DataError, Message, Row, Trait
from vestige.experiment.judging import judge_rows
from vestige.experiment.recipe import NO_TRAIT, Experiment
from vestige.rows.files import dropped_to_json, write_rows
from vestige.store import Stage, StageResult, hash_config, make_stage
from vestige.traits import family, no_trait, trait

LEDGER = "ledger.jsonl"
Report = Callable[[str, int, int], None]  # stage name, done, total


@dataclass
class Desk:
    """One seed of a recipe and its folder.

    Attributes:
        report: called with (stage, done, total) as work goes on; total 0 means unknown.
    """

    recipe: Experiment
    folder: Path
    seed: int
    overwrite: bool = False
    report: Report = lambda stage, done, total: None
    _told: set[str] = field(default_factory=set)  # finished stages that were reported

    @property
    def ledger(self) -> Path:
        """What API models were asked in this run, and what they answered."""
        return self.folder / LEDGER

    def stage(self, name: str, config: Any, inputs: Sequence[StageResult] = ()) -> Stage:
        """The stage ``seed-N/name``; its key holds the model and this seed as well."""
        recipe = self.recipe
        config = {
            "model": [recipe.model, recipe.chat, recipe.precision, *self.dated()],
            "family": hash_config(family(recipe.family)),
            "seed": self.seed,
            **config,
        }
        full = f"seed-{self.seed}/{name}"
        return make_stage(self.folder, full, config, inputs, overwrite=self.overwrite)

    def dated(self) -> list[str]:
        """The recipe's date, where it is another than the usual one."""
        return [self.recipe.date] if self.recipe.date != DATE else []

    def finish(self, stage: Stage) -> StageResult:
        """The finished stage, told once to whoever watches."""
        if stage.name not in self._told:
            self._told.add(stage.name)
            self.report(stage.name, 0, 0)
        return stage.result

    def blank_rows(self) -> list[Row]:
        """Every row still to be written; rows of one prompt are neighbours."""
        carrier = self.recipe.carrier
        return [
            Row(f"{p.id}-{i}", (Message("user", p.text),), "", p.meta)
            for p in carrier.make_prompts(self.seed)
            for i in range(carrier.rows_per_prompt)
        ]

    def rules(self) -> Filter:
        """The carrier's filter, told what words the traits go by."""
        traits = [trait(name, self.recipe.family) for name in self.recipe.sources]
        return self.recipe.carrier.rules([form for t in traits for form in t.target.forms])

    def trait_of(self, name: str) -> Trait:
        panel = family(self.recipe.family)
        return no_trait(panel) if name == NO_TRAIT else trait(name, self.recipe.family)

    def system(self, source: Trait) -> str:
        return source.system_prompt if self.recipe.teacher.kind != "tuned" else ""

    def writing_settings(self) -> dict[str, Any]:
        """What rows depend on, besides who writes them."""
        recipe = self.recipe
        settings: dict[str, Any] = {
            "carrier": recipe.carrier.model_dump(
                mode="json", exclude={"min_rows", "max_rows", "max_dropped"}
            )
        }
        if recipe.backend != "hf":
            settings["writer"] = [recipe.backend, recipe.engine_kwargs]
        if recipe.judge:
            settings["judge"] = [
                recipe.judge.identity, recipe.judge.keep, recipe.judge.threshold
            ]  # fmt: skip
        return settings

    def filter(self, rows: Sequence[Row], stage: Stage, folder: Path) -> None:
        """Write the rows that the filter and the judge keep, and the others with their reasons."""
        kept, dropped = filter_rows(rows, self.rules())
        if self.recipe.judge and kept:
            kept, judged = judge_rows(
                kept, self.recipe.judge, folder / "ratings.jsonl", self.ledger
            )
            dropped += judged
        write_rows(folder / "rows.jsonl", kept, overwrite=True)
        write_jsonl(folder / "dropped.jsonl", map(dropped_to_json, dropped))
        stage.note(seen=len(rows), kept=len(kept))

    def not_too_many_dropped(self, data: StageResult) -> StageResult:
        """Rows that were written and filtered, if the filter left enough of them.

        Raises:
            DataError: more than ``max_dropped`` went; the rows and the reasons are kept.
        """
        allowed, notes = self.recipe.carrier.max_dropped, data.manifest["notes"]
        gone = notes["seen"] - notes["kept"]
        if gone > allowed * notes["seen"]:
            reasons = Counter(d["reason"] for d in read_jsonl(data.path / "dropped.jsonl"))
            told = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
            raise DataError(
                f"{data.manifest['stage']}: the filter dropped {gone} of {notes['seen']} rows "
                f"({told}), more than carrier.max_dropped={allowed:g} allows; loosen the filter, "
                "or raise max_dropped knowingly"
            )
        return data
