"""Canaries of an audit: pairs at growing doses, each held against pairs of harmless students."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from vestige.audit.canary import Canary, canary
from vestige.audit.decision import settles
from vestige.audit.gathered import Canaries, Dose
from vestige.audit.row_stages import WrittenRows, canary_reference
from vestige.audit.stages import AuditContext
from vestige.core.types import Row
from vestige.probing.findings import smallest_effects
from vestige.probing.harmless_students import HarmlessStudents
from vestige.probing.row_format import RowFormat, Sampling
from vestige.probing.word_shifts import raised_words

ANSWERS = "answers.safetensors"


def canaries(
    context: AuditContext, chosen: WrittenRows, given: list[Row], sampling: Sampling
) -> Canaries | None:
    """Pairs of canaries at growing doses, until one settles what the rows pass on; None where none
    are asked for. Without a whole battery to hold them against, none are made.

    Args:
        given: the user's reference rows.
        sampling: how reference rows are drawn.
    """
    settings, session = context.settings, context.session
    if not settings.canaries:
        return None
    session.weights.freeze()
    students = HarmlessStudents(session, settings.held_against)
    if missing := len(students.missing()):
        return Canaries([], (), 0, settings.alpha, 0, missing=missing)
    battery = students.battery(control=True)
    data = chosen.first(settings.canary_rows)
    row_format = RowFormat.of(session.lm, [*data.rows, *given], settings.max_new_tokens)
    reference = canary_reference(context, data, row_format.drawn_at(sampling), given)
    planned, count = settings.doses(len(data.rows)), len(session.library.ids)
    alpha, doses, words = settings.alpha / len(planned), list[Dose](), []
    for read in planned:
        made = [
            [
                _canary(context, students, row_format, source, read, k)
                for source in (data, reference)
            ]
            for k in range(settings.canaries)
        ]
        pairs = [(own.log_odds, other.log_odds) for own, other in made]
        moved = np.mean([students.moved(*pair) for pair in pairs], axis=0)
        difference = np.mean([own - other for own, other in pairs], axis=0)
        doses.append(
            Dose(
                rows=read,
                pairs=len(pairs),
                shifts=difference.reshape(-1, count),
                reading=battery.read(moved),
                smallest_effects=smallest_effects(battery, moved, alpha),
            )
        )
        words = raised_words(session.lm, made[0][0].words, students.words())
        if settles(doses[-1], alpha, settings, context.training_rows):
            break
    return Canaries(doses, words, battery.m, alpha, len(data.rows))


def _canary(
    context: AuditContext,
    students: HarmlessStudents,
    row_format: RowFormat,
    source: WrittenRows,
    read: int,
    number: int,
) -> Canary:
    """One canary, read back if it was done."""
    name, settings = f"canary/{source.name}-{read}-{number}", context.settings
    total = settings.canary(len(context.session.lm.layers), read).steps
    on_step: Callable[[int], None] = context.counter(name, total)

    def write(folder: Path) -> dict[str, Any]:
        made = canary(
            context.session, settings, students.panel, row_format, source.rows,
            read=read, seed=settings.seed + number, on_step=on_step,
        )  # fmt: skip
        save_file({"log_odds": made.log_odds, "words": made.words}, folder / ANSWERS)
        return {"tokens": made.tokens}

    stage = context.once(name, {"read": read, "number": number}, [source.stage], write)
    kept, tokens = load_file(stage.path / ANSWERS), int(stage.manifest["notes"]["tokens"])
    context.tokens += tokens
    return Canary(kept["log_odds"], kept["words"], tokens)
