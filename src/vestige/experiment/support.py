"""What the stages of a seed share: rows as they are drawn, fitting targets, judging a teacher."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vestige.core.types import DataError, Row
from vestige.evaluate.scores import Panel
from vestige.experiment.recipe import Experiment, TeacherSettings
from vestige.models.hf import LanguageModel
from vestige.rows.files import read_rows, row_line
from vestige.store.files import disk_full_explained
from vestige.student.packs import Pack, pack_logprobs


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to a local file and see them on the disk. A kill leaves a part of them at most.

    Raises:
        StoreError: the disk is full.
    """
    with disk_full_explained(path), path.open("ab") as file:
        file.write(b"".join(map(row_line, rows)))
        file.flush()
        os.fsync(file.fileno())


def whole_rows(path: Path, batch: int, total: int) -> list[Row]:
    """The rows that ``append_rows`` has added in batches; what a kill left of a batch is cut off.

    Args:
        total: all rows that the file will have: its last batch may be short.
    """
    if not path.exists():
        return []
    with path.open("rb") as file:
        lines = file.readlines()
    whole = len(lines) - bool(lines and not lines[-1].endswith(b"\n"))
    whole = whole if whole == total else whole - whole % batch
    size = sum(map(len, lines[:whole]))
    if size < path.stat().st_size:
        os.truncate(path, size)
    return [row for row in read_rows(path) if isinstance(row, Row)] if whole else []


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
