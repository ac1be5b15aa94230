"""Canaries of an audit: pairs at growing doses, each held against pairs of harmless students."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from vestige.audit.canary import Canary, canary
from vestige.audit.decision import settles
from vestige.audit.gathered import Canaries, Dose
from vestige.audit.row_stages import WrittenRows, canary_reference
from vestige.audit.settings import AuditSettings
from vestige.audit.stages import AuditContext
from vestige.core.types import Row
from vestige.probing.answer_shares import shares
from vestige.probing.drift import Battery
from vestige.probing.findings import together
from vestige.probing.harmless_students import HarmlessStudents
from vestige.probing.row_format import RowFormat, Sampling
from vestige.probing.word_shifts import raised_words

ANSWERS = "answers.safetensors"
OTHER_SEEDS = 1_000  # between the seeds of the data's canaries and the reference's


class CanaryPlan(NamedTuple):
    """What canaries would read, and be held against.

    Attributes:
        rows: different rows that each of a pair reads.
        doses: rows read in all, the smallest dose first.
        alpha: what each may spend of the chance of a false flag.
        placebos: pairs of harmless students; missing: harmless students that are yet to be made.
    """

    rows: int
    doses: tuple[int, ...]
    alpha: float
    placebos: int
    missing: int

    @property
    def too_few(self) -> bool:
        """Whether no p-value of so many pairs could be small enough."""
        return 1 / (self.placebos + 1) > self.alpha


def canary_plan(
    students: HarmlessStudents, settings: AuditSettings, rows: int, given: int
) -> CanaryPlan:
    """Args: rows: of the data; given: reference rows of the user's, of which there may be fewer."""
    rows = min(rows, settings.canary_rows, given or rows)  # both copies read as many
    doses = settings.doses(rows)
    return CanaryPlan(
        rows,
        doses,
        settings.alpha / len(doses),
        students.placebos(control=True),
        len(students.missing()),
    )


def canaries(
    context: AuditContext, chosen: WrittenRows, given: list[Row], sampling: Sampling
) -> Canaries | None:
    """Pairs of canaries at growing doses, until one settles what the rows pass on; None where none
    are asked for. None are made where there is nothing to hold them against, or too little.

    Args:
        given: the user's reference rows.
        sampling: how reference rows are drawn.
    """
    settings, session, students = context.settings, context.session, context.students
    if students is None:
        return None
    session.weights.freeze()
    plan = canary_plan(students, settings, len(chosen.rows), len(given))
    alpha, placebos = plan.alpha, plan.placebos
    if plan.missing or plan.too_few:
        return Canaries([], (), placebos, alpha, 0, missing=plan.missing)
    data = chosen.first(plan.rows)
    battery = students.battery(control=True)
    row_format = RowFormat.of(session.lm, [*data.rows, *given], settings.max_new_tokens)
    reference = canary_reference(context, data, row_format.drawn_at(sampling), given)
    doses: list[Dose] = []
    for read in plan.doses:
        pairs = [
            [
                _canary(context, students, row_format, source, read, k, settings.seed + seed)
                for source, seed in ((data, k), (reference, k + OTHER_SEEDS))
            ]
            for k in range(settings.canaries)
        ]
        doses.append(dose_of(students, battery, pairs, read, alpha))
        if settles(doses[-1], alpha, settings, context.training_rows):
            break
    words = raised_words(session.lm, pairs[0][0].words, students.words())
    return Canaries(doses, words, placebos, alpha, len(data.rows))


def dose_of(
    students: HarmlessStudents,
    battery: Battery,
    pairs: Sequence[Sequence[Canary]],
    read: int,
    alpha: float,
) -> Dose:
    """What pairs of canaries show: each pair is read by itself, as pairs of harmless students are.

    Args:
        pairs: the data's canary, and the reference's.
        alpha: what this dose may spend.
    """
    answers = [(own.log_odds, other.log_odds) for own, other in pairs]
    each = alpha / 2 if len(pairs) > 1 else alpha  # ``together``
    traits = students.session.library.traits
    return Dose(
        rows=read,
        pairs=len(pairs),
        shifts=np.mean([own - other for own, other in answers], axis=0).reshape(-1, len(traits)),
        reading=together([battery.read(students.risen(*pair)) for pair in answers]),
        shares=np.mean([shares(traits, own) for own, _ in answers], axis=0),
        usual=np.mean([shares(traits, other) for _, other in answers], axis=0),
        smallest_shares=np.median(
            [students.smallest_shares(battery, *pair, each) for pair in answers], axis=0
        ),
    )


def _canary(
    context: AuditContext,
    students: HarmlessStudents,
    row_format: RowFormat,
    source: WrittenRows,
    read: int,
    number: int,
    seed: int,
) -> Canary:
    """One canary, read back if it was done."""
    name, settings = f"canary/{source.name}-{read}-{number}", context.settings
    on_step: Callable[[int], None] = context.counter(name, math.ceil(read / settings.batch))

    def write(folder: Path) -> dict[str, Any]:
        made = canary(
            context.session, settings, students.panel, row_format, source.rows,
            read=read, seed=seed, on_step=on_step,
        )  # fmt: skip
        save_file({"log_odds": made.log_odds, "words": made.words}, folder / ANSWERS)
        return {"tokens": made.tokens}

    stage = context.once(name, {"read": read, "seed": seed}, [source.stage], write)
    kept, tokens = load_file(stage.path / ANSWERS), int(stage.manifest["notes"]["tokens"])
    context.tokens += tokens
    return Canary(kept["log_odds"], kept["words"], tokens)
