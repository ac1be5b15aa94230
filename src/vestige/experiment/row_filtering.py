"""Rows before and after they are written: blank ones, the filter, and whether enough are left.

Free of torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vestige.carriers.filtering import Filter, filter_rows
from vestige.core.jsonl import read_jsonl, write_jsonl
from vestige.core.types import DataError, Message, Row
from vestige.experiment.judging import judge_rows
from vestige.experiment.seed_context import SeedContext
from vestige.rows.files import dropped_to_json, write_rows
from vestige.store import Stage, StageResult
from vestige.store.layout import StageFile
from vestige.traits import trait


def blank_rows(context: SeedContext) -> list[Row]:
    """Every row still to be written; rows of one prompt are neighbours."""
    carrier = context.recipe.carrier
    return [
        Row(f"{p.id}-{i}", (Message("user", p.text),), "", p.meta)
        for p in carrier.make_prompts(context.seed)
        for i in range(carrier.rows_per_prompt)
    ]


def filter_rules(context: SeedContext) -> Filter:
    """The carrier's filter, given what words the traits go by."""
    recipe = context.recipe
    traits = [trait(name, recipe.family) for name in recipe.sources]
    return recipe.carrier.rules([form for t in traits for form in t.target.forms])


def writing_settings(context: SeedContext) -> dict[str, Any]:
    """What rows depend on, besides who writes them."""
    recipe = context.recipe
    settings: dict[str, Any] = {
        "carrier": recipe.carrier.model_dump(
            mode="json", exclude={"min_rows", "max_rows", "max_dropped"}
        )
    }
    if recipe.backend != "hf":
        settings["writer"] = [recipe.backend, recipe.engine_kwargs]
    if recipe.judge:
        settings["judge"] = [recipe.judge.identity, recipe.judge.keep, recipe.judge.threshold]
    return settings


def write_filtered(context: SeedContext, rows: Sequence[Row], stage: Stage, folder: Path) -> None:
    """Write the rows that the filter and the judge keep, and the others with their reasons."""
    kept, dropped = filter_rows(rows, filter_rules(context))
    judge = context.recipe.judge
    if judge and kept:
        ratings, ledger = folder / StageFile.RATINGS, context.layout.ledger
        kept, judged = judge_rows(kept, judge, ratings, ledger)
        dropped += judged
    write_rows(folder / StageFile.KEPT, kept, overwrite=True)
    write_jsonl(folder / StageFile.DROPPED, map(dropped_to_json, dropped))
    stage.note(seen=len(rows), kept=len(kept))


def check_dropped(context: SeedContext, data: StageResult) -> StageResult:
    """Rows that were written and filtered, if the filter left enough of them.

    Raises:
        DataError: more than ``max_dropped`` went; the rows and the reasons are kept.
    """
    allowed, notes = context.recipe.carrier.max_dropped, data.manifest["notes"]
    gone = notes["seen"] - notes["kept"]
    if gone > allowed * notes["seen"]:
        reasons = Counter(d["reason"] for d in read_jsonl(data.path / StageFile.DROPPED))
        counted = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
        raise DataError(
            f"{data.manifest['stage']}: the filter dropped {gone} of {notes['seen']} rows "
            f"({counted}), more than carrier.max_dropped={allowed:g} allows; loosen the filter, "
            "or raise max_dropped knowingly"
        )
    return data


def check_enough(context: SeedContext, left: int, kept: Mapping[str, int]) -> None:
    """Raises ``DataError`` with the numbers if the filter left too few rows."""
    wanted = context.recipe.carrier.min_rows
    if left < wanted:
        raise DataError(
            f"seed {context.seed}: {left} rows are left (kept by the filter: {dict(kept)}), fewer "
            f"than carrier.min_rows={wanted}; sample more (carrier.n_prompts) or loosen the filter"
        )
