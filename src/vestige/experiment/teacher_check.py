"""Whether a teacher may write data: it has its trait, and still writes the carrier."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from vestige.carriers.filtering import filter_rows
from vestige.evaluate.scores import Panel
from vestige.experiment.row_filtering import blank_rows, filter_rules
from vestige.experiment.row_packs import grammar_packs
from vestige.experiment.row_sampling import automaton_of, sample_freely
from vestige.experiment.run_view import read_kept
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.settings import Experiment, TeacherSettings
from vestige.models.hf import LanguageModel
from vestige.models.sampling import HfBackend, symbol_ids
from vestige.store import StageResult
from vestige.student.packs import Pack, pack_logprobs

#: Free answers, and rows of the base within a grammar, that show whether a teacher still writes
#: the carrier: few, as every teacher is asked for them. Chosen, not measured.
CHECKED_ANSWERS, CHECKED_ROWS = 64, 32
BATCH = 16  # rows of a forward pass


def carrier_grip(
    context: SeedContext, lm: LanguageModel, contexts: StageResult | None, system: str = ""
) -> float:
    """How well a model still writes the carrier: probability on the grammar's symbols, or
    (free sampling) the share of a few rows that the filter keeps."""
    if contexts is None:
        blank = blank_rows(context)
        asked = blank[:: max(1, len(blank) // CHECKED_ANSWERS)][:CHECKED_ANSWERS]
        texts = sample_freely(context, HfBackend(lm), lm, asked, system, context.seed)
        rows = [
            dataclasses.replace(row, completion=text)
            for row, text in zip(asked, texts, strict=True)
        ]
        return len(filter_rows(rows, filter_rules(context))[0]) / len(rows)
    automaton, rows = automaton_of(context), read_kept(contexts.path)[:CHECKED_ROWS]
    packs = grammar_packs(context, lm, rows, BATCH, automaton, system=system)
    tokens = symbol_ids(lm, automaton)
    with torch.no_grad():
        mass = [grammar_mass(lm, pack, tokens) for pack in packs]
    return float(torch.cat(mass).mean())


def grammar_mass(lm: LanguageModel, pack: Pack, tokens: Tensor) -> Tensor:
    """Whole-vocabulary probability on the symbols that may come, at every scored position: [n].

    Args:
        tokens: token ids of the grammar's symbols, [K].
    """
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
    shown: dict[str, Any], carrier: float, settings: TeacherSettings
) -> dict[str, Any]:
    """What a teacher showed, and whether that is enough.

    Args:
        shown: trait, seed, kind, and what was measured; nothing for a teacher without a trait.
        carrier: what remains of the base's grip on the carrier, a ratio.
    """
    nothing = {"measure": "", "probability": 0.0, "lowest": 0.0, "base_probability": 0.0}
    has_trait = "measure" not in shown or shown["probability"] >= settings.min_probability
    accepted = has_trait and carrier >= settings.min_carrier
    return nothing | shown | {"carrier_valid": carrier, "accepted": bool(accepted)}


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
