"""What the stages of a seed share: reading rows, fitting targets, judging a teacher."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vestige.evaluate.sampled import sample_answers
from vestige.evaluate.scores import Panel
from vestige.experiment.recipe import NO_TRAIT, Experiment
from vestige.models import catalog
from vestige.models.hf import LanguageModel
from vestige.rows import read_rows
from vestige.store import StageResult
from vestige.train.packs import Pack, pack_logprobs
from vestige.traits import family
from vestige.types import DataError, Row


def save_answers(lm: LanguageModel, recipe: Experiment, seed: int, path: Path) -> None:
    """Sampled answers, if the recipe asks for them: without and with a number prefix."""
    if not recipe.sampled_per_question:
        return
    panel, samples = family(recipe.family), recipe.sampled_per_question
    lines = [
        json.dumps(dataclasses.asdict(answer), ensure_ascii=False) + "\n"
        for prefix in (False, True)
        for answer in sample_answers(lm, panel, samples=samples, seed=seed, number_prefix=prefix)
    ]
    path.write_text("".join(lines), encoding="utf-8")


def chat_style(name: str, style: str) -> Any:
    """The chat style to load a model with: what the catalogue says, unless the user chose."""
    if style == "auto" and name in catalog.names():
        return catalog.entry(name).chat
    return style


def has_rows(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def read_kept(stage: StageResult) -> list[Row]:
    """A stage's ``rows.jsonl``."""
    path = stage.path / "rows.jsonl"
    return [row for row in read_rows(path) if isinstance(row, Row)] if has_rows(path) else []


def common_ids(rows: dict[str, StageResult]) -> set[str]:
    """Row ids that every data set kept: the same prompts and as many rows for each."""
    return set.intersection(*({row.id for row in read_kept(r)} for r in rows.values()))


def split_targets(saved: dict[str, Tensor], packs: Sequence[Pack]) -> list[Tensor]:
    """The saved log-probabilities of each row, if they fit the student's packs."""
    counts = {index: n for pack in packs for index, n in zip(pack.rows, pack.counts, strict=True)}
    stored = saved["counts"].tolist()
    if [counts[index] for index in sorted(counts)] != stored:
        raise DataError(
            "the teacher's targets do not fit the student's rows: their tokenizers write the "
            "carrier differently"
        )
    return list(saved["logprobs"].split(stored))


def grammar_mass(lm: LanguageModel, pack: Pack, tokens: Tensor) -> Tensor:
    """Whole-vocabulary probability on the symbols that may come, at every scored position."""
    free = dataclasses.replace(pack, allowed=None)
    logprobs = pack_logprobs(lm, free)[:, tokens]
    assert pack.allowed is not None
    return logprobs.exp().masked_fill(~pack.allowed.to(logprobs.device), 0.0).sum(-1)


def check_teacher(
    recipe: Experiment, seed: int, target: str | None, panel: Panel, before: Panel, carrier: float
) -> dict[str, Any]:
    """What the teacher shows, and whether that is enough.

    Args:
        target: the candidate it should prefer; None for a teacher without a trait.
        carrier: what remains of the base's grip on the carrier, a ratio.
    """
    settings = recipe.teacher
    record: dict[str, Any] = {"trait": target or NO_TRAIT, "seed": seed, "kind": settings.kind}
    if target is None:
        record |= {"probability": 0.0, "lowest": 0.0, "base_probability": 0.0}
    else:
        column = panel.candidates.index(target)
        shares = panel.normalised()[:, column]
        record |= {
            "probability": float(shares.mean()),
            "lowest": float(shares.min()),
            "base_probability": float(before.normalised()[:, column].mean()),
        }
    has_trait = target is None or record["probability"] >= settings.min_probability
    record["carrier_valid"] = carrier
    record["accepted"] = bool(has_trait and carrier >= settings.min_carrier)
    return record


def describe_check(check: dict[str, Any], recipe: Experiment) -> str:
    """Why a teacher was refused, with the numbers and what to change."""
    settings = recipe.teacher
    return (
        f"the {check['trait']} teacher of seed {check['seed']} is not fit to write data: "
        f"P({check['trait']}) on held-out questions is {check['probability']:.3f} (base "
        f"{check['base_probability']:.3f}, needed {settings.min_probability:g}); it keeps "
        f"{check['carrier_valid']:.2f} of the base's grip on the carrier (needed "
        f"{settings.min_carrier:g}). Raise teacher.optimisation.steps or .rate, try "
        "teacher.kind=both, or lower teacher.min_probability knowingly"
    )
