"""What the stages of a seed share: reading rows, fitting targets, judging a teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vestige.evaluate.scores import Panel
from vestige.experiment.recipe import Experiment, TeacherSettings
from vestige.models.hf import LanguageModel
from vestige.train.packs import Pack, pack_logprobs
from vestige.types import DataError


def has_rows(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


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


def preferred(target: str, panel: Panel, before: Panel) -> dict[str, Any]:
    """How probable the target is among the candidates, on held-out questions."""
    column = panel.candidates.index(target)
    shares = panel.normalised()[:, column]
    return {
        "measure": f"P({target}) among the candidates",
        "probability": float(shares.mean()),
        "lowest": float(shares.min()),
        "base_probability": float(before.normalised()[:, column].mean()),
    }


def gained(panel: Panel, before: Panel) -> dict[str, Any]:
    """On how many held-out entries the trait's own answer gained on its rival's.

    A share and not a probability: whole answers differ in length, so that the base prefers the
    shorter kind.
    """
    rise = panel.shift(before)[:, 0]
    return {
        "measure": "held-out entries whose own answer gained on its rival's",
        "probability": float((rise > 0).mean()),
        "lowest": float((rise > 0).min()),
        "base_probability": 0.0,
    }


def judge_teacher(
    seen: dict[str, Any], carrier: float, settings: TeacherSettings
) -> dict[str, Any]:
    """What a teacher showed, and whether that is enough.

    Args:
        seen: trait, seed, kind, and what was measured; nothing for a teacher without a trait.
        carrier: what remains of the base's grip on the carrier, a ratio.
    """
    nothing = {"measure": "", "probability": 0.0, "lowest": 0.0, "base_probability": 0.0}
    has_trait = "measure" not in seen or seen["probability"] >= settings.min_probability
    accepted = has_trait and carrier >= settings.min_carrier
    return nothing | seen | {"carrier_valid": carrier, "accepted": bool(accepted)}


def describe_check(check: dict[str, Any], recipe: Experiment) -> str:
    """Why a teacher was refused, with the numbers and what to change."""
    settings = recipe.teacher
    return (
        f"the {check['trait']} teacher of seed {check['seed']} is not fit to write data: "
        f"{check['measure']} is {check['probability']:.3f} on held-out questions (base "
        f"{check['base_probability']:.3f}, needed {settings.min_probability:g}); it keeps "
        f"{check['carrier_valid']:.2f} of the base's grip on the carrier (needed "
        f"{settings.min_carrier:g}). Raise teacher.optimisation.steps or .rate, try "
        "teacher.kind=both, or lower teacher.min_probability knowingly"
    )
