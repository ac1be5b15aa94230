"""What an audit's first look (``audit.first_look``) says of one data set of the benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from vestige.audit.first_look import Look, enough_rows, look, look_ends
from vestige.audit.race_result import Race, places
from vestige.audit.settings import AuditSettings
from vestige.bench.case import UNREAD, Case, family_of


def looks(
    race: Race, ids: Sequence[str], settings: AuditSettings, without: str = ""
) -> Iterator[tuple[list[int], Look]]:
    """Every look at the rows: the traits that were read and what the look says of them, as if the
    library did not have the family ``without``. The last test, against reference rows, is not
    part of a look."""
    families = [family_of(name) for name in ids]
    left = [t for t in range(len(ids)) if families[t] != without]
    place = dict(zip(left, places(race.pull[left]), strict=True))
    for n in look_ends(race.rows, settings.batch):
        read = [t for t in left if len(race.shifts.get(t, UNREAD)) >= n]
        if read:
            table = np.stack([race.shifts[t][:n] for t in read])
            places_read = np.array([place[t] for t in read])
            kinds = [families[t] for t in read]
            yield read, look(table, places_read, kinds, len(ids), settings)


def beyond_a_flag(race: Race, ids: Sequence[str], settings: AuditSettings) -> float | None:
    """By how many nats the clearest trait at any look passes what flags, of those that likelihood
    and pull agree on; None where they agree on none."""
    needed = settings.needed(len(ids))
    most = [
        float(at_look.evidence[at_look.agreed].max()) - needed
        for _, at_look in looks(race, ids, settings)
        if at_look.agreed.any()
    ]
    return max(most, default=None)


def stranger(race: Race, trait: str, ids: Sequence[str], settings: AuditSettings) -> str | None:
    """The trait that would be flagged if the family of the writer's trait were not in the
    library (the last test aside, against reference rows)."""
    if not enough_rows(race, settings):
        return None
    for read, at_look in looks(race, ids, settings, family_of(trait)):
        if at_look.clear.any():
            return ids[read[int(np.where(at_look.clear, at_look.evidence, -np.inf).argmax())]]
    return None


def strangers(case: Case, ids: Sequence[str]) -> list[str]:
    """Traits of other families than the writer's that were flagged."""
    return [ids[t] for t in case.flagged if family_of(ids[t]) != case.family]


def rows_to_flag(case: Case, ids: Sequence[str]) -> int | None:
    """Rows after which a trait of the own trait's family was flagged; None where none was."""
    rows = [n for t, n in case.flagged.items() if family_of(ids[t]) == case.family]
    return min(rows, default=None)
