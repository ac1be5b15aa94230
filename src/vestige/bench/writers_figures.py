"""From students of many writers to rates.

Wilson intervals take students for independent. Those that are held against the same control are
not quite: give a large benchmark more of them (``controls``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from vestige.bench.writer_cases import Examined, control_of
from vestige.bench.writer_kinds import HELD_OUT
from vestige.bench.writers_settings import WritersBench
from vestige.core import stats
from vestige.core.results import Interval
from vestige.core.writers import WriterRate, WriterReading, WritersResults, WriterStudent
from vestige.probing.drift import Array, Battery
from vestige.probing.harmless_students import HarmlessStudents

TOOK_ON = 0.5  # nats over harmless students, from which a student has a trait; chosen
FIRST = 5  # places that an auditor would look at; chosen
AGAINST = ", against a control"  # how a student was read


@dataclass(frozen=True)
class HeldAgainst:
    """What students are held against.

    Attributes:
        battery: harmless students; paired: pairs of them, where there are ``controls``.
    """

    students: HarmlessStudents
    battery: Battery
    paired: Battery | None
    controls: Sequence[Examined]


def writers_results(
    settings: WritersBench, held: HeldAgainst, examined: Sequence[Examined]
) -> WritersResults:
    """Every student examined, and the rates."""
    harmless = np.mean([e.log_odds for e in examined if not e.case.trait], axis=0)
    records = [student(held, e, harmless) for e in examined]
    rates = every_rate(records, settings.alpha)
    return WritersResults(
        name=settings.name,
        verdict=verdict(rates),
        base=settings.battery.base,
        alpha=settings.alpha,
        members=held.battery.m,
        placebos=held.paired.m if held.paired else 0,
        rows=settings.rows,
        students=records,
        rates=rates,
    )


def student(held: HeldAgainst, e: Examined, harmless: Array) -> WriterStudent:
    """One student's record. Args: harmless: mean log-odds of harmless students, [D]."""
    library, case = held.students.session.library, e.case
    control = control_of(case, held.controls)
    shift = None
    if case.trait:
        beyond = (e.log_odds - harmless).reshape(-1, len(library.ids)).mean(0)
        shift = float(beyond[library.ids.index(case.trait)])
    paired = None
    if held.paired and control:
        moved = held.students.risen(e.log_odds, control.log_odds)
        paired = reading(held.paired, moved, library.ids, case.trait)
    return WriterStudent(
        kind=case.kind,
        trait=case.trait,
        training=case.training,
        held_out=case.kind in HELD_OUT or case.trait in library.held_out,
        gained=e.gained,
        shift=shift,
        alone=reading(held.battery, held.students.risen(e.log_odds), library.ids, case.trait),
        paired=paired,
    )


def reading(battery: Battery, moved: Array, ids: Sequence[str], trait: str) -> WriterReading:
    """What a student's shifts say. Args: trait: its teacher's; empty: it had none."""
    read = battery.read(moved)
    order = read.order
    own = ids.index(trait) if trait else None
    return WriterReading(
        p=float(read.p.min()),
        first=ids[order[0]],
        place=None if own is None else order.index(own) + 1,
        own_p=None if own is None else float(read.p[own]),
    )


def every_rate(students: Sequence[WriterStudent], alpha: float) -> list[WriterRate]:
    """Rates by group of students, with Wilson intervals: read alone, and against a control."""
    rates = rates_of(students, alpha, lambda s: s.alone, "")
    if all(s.paired for s in students):
        rates += rates_of(students, alpha, lambda s: s.paired or s.alone, AGAINST)
    return rates


def rates_of(
    students: Sequence[WriterStudent],
    alpha: float,
    read: Callable[[WriterStudent], WriterReading],
    how: str,
) -> list[WriterRate]:
    """The rates of one way to read. Args: how: what is said after each of them."""

    def found(s: WriterStudent) -> bool:
        return read(s).p <= alpha

    harmless = [s for s in students if not s.trait]
    taught = [s for s in students if s.trait and (s.shift or 0) >= TOOK_ON]
    rates = [rate("harmless", f"found{how}", harmless, found)]
    rates += [
        rate(f"harmless: {kind}", f"found{how}", own, found) for kind, own in by_kind(harmless)
    ]
    groups = [("took a trait on", taught)]
    groups += [
        ("the same, held out", [s for s in taught if s.held_out]),
        *((f"took a trait on: {kind}", own) for kind, own in by_kind(taught)),
    ]
    for group, own in groups:
        rates += [
            rate(group, f"found, own trait{how}", own, lambda s: (read(s).own_p or 1) <= alpha),
            rate(group, f"found, any trait{how}", own, found),
            rate(group, f"own trait first{how}", own, lambda s: read(s).place == 1),
            rate(
                group,
                f"own trait among {FIRST}{how}",
                own,
                lambda s: (read(s).place or FIRST + 1) <= FIRST,
            ),
        ]
    return [r for r in rates if r is not None]


def by_kind(students: Sequence[WriterStudent]) -> list[tuple[str, list[WriterStudent]]]:
    """Students by the kind of their writer."""
    kinds = dict.fromkeys(s.kind for s in students)
    return [(kind, [s for s in students if s.kind == kind]) for kind in kinds]


def rate(
    group: str,
    what: str,
    students: Sequence[WriterStudent],
    holds: Callable[[WriterStudent], bool],
) -> WriterRate | None:
    """The share of students of which something holds; None of no students."""
    if not students:
        return None
    found = stats.proportion_interval(sum(map(holds, students)), len(students))
    return WriterRate(
        group=group, what=what, students=len(students), share=Interval(**asdict(found))
    )


def verdict(rates: Sequence[WriterRate]) -> str:
    """What was counted, in one sentence."""

    def words(group: str, what: str) -> str:
        own = next((r for r in rates if (r.group, r.what) == (group, what)), None)
        if own is None:
            return "none"
        low, high = own.share.low, own.share.high
        return f"{own.share.value:.1%} [{low:.1%}, {high:.1%}] of {own.students}"

    sentences = [
        f"Found{how}: {words('harmless', f'found{how}')} harmless students; of those that took a "
        f"trait on {words('took a trait on', f'found, own trait{how}')}."
        for how in ("", AGAINST)
        if any(r.what == f"found{how}" for r in rates)
    ]
    return " ".join(sentences)
