"""One file of rows changed by a method: read, changed, written whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from vestige.carriers.filtering import check_apart
from vestige.core.mitigation import MitigateResults
from vestige.core.types import DataError, DroppedRow, Row
from vestige.mitigate.methods import METHODS, Mitigated, Work
from vestige.mitigate.settings import MitigateSettings
from vestige.probing.base_session import BaseSession
from vestige.probing.row_format import empty, unusable
from vestige.rows.files import RowSource, dropped_line, row_line
from vestige.rows.outputs import Output, claimed
from vestige.rows.trained_parts import other_parts

MORE = "trained_on_more_than_the_completion"  # which a method would leave as it is
Report = Callable[[str, int, int], None]


def mitigate(
    source: RowSource,
    settings: MitigateSettings,
    outputs: tuple[Output, Output],
    *,
    report: Report = lambda stage, done, total: None,
    cache: Path | None = None,
) -> MitigateResults:
    """Change the rows of a file. They are all in memory at once.

    Args:
        outputs: for the new rows, and for those that were left out with the reason.

    Raises:
        ConfigError: no such trait, or a method lacks what it needs.
        DataError: no row can be read.
        ModelError: the base cannot be loaded.
    """
    method = METHODS[settings.method]
    for place in source.places:
        check_apart(place, outputs[0].name, outputs[1].name)
    rows, broken = read(source, rewritten=method.rewrites)
    session = BaseSession(settings.probing(settings.base), cache=cache) if settings.base else None
    if session:
        rows = usable(session, rows, broken)
    with claimed(*outputs), outputs[0] as keep, outputs[1] as gone:
        made = method.run(Work(settings, rows, session, report))
        if not made.rows:
            raise DataError(f"{settings.method} leaves no row: {made.reasons}")
        for row in made.rows:
            keep.write(row_line(row))
        for dropped in [*broken, *made.dropped]:
            gone.write(dropped_line(dropped))
    return results_of(settings, rows, broken, made, session)


def results_of(
    settings: MitigateSettings,
    rows: list[Row],
    broken: list[DroppedRow],
    made: Mitigated,
    session: BaseSession | None,
) -> MitigateResults:
    """What was changed, counted."""
    return MitigateResults(
        method=settings.method,
        does=METHODS[settings.method].does,
        at_random=settings.at_random,
        trait=settings.trait,
        rows=len(rows),
        left_out=dict(Counter(d.reason for d in broken)),
        kept=len(made.rows) - made.added,
        added=made.added,
        changed=made.changed,
        tokens=made.tokens,
        redrawn=made.redrawn,
        reasons=made.reasons,
        caveats=[*session.lm.template.remarks(), *session.lm.notes] if session else [],
    )


def usable(session: BaseSession, rows: list[Row], broken: list[DroppedRow]) -> list[Row]:
    """The rows that the base can read; the others are added to ``broken`` with the reason.

    Raises:
        DataError: there are none.
    """
    kept = []
    for row in rows:
        reason = empty(row) or unusable(session.lm, row, session.settings.max_new_tokens)
        if reason:
            broken.append(DroppedRow(reason, row=row))
        else:
            kept.append(row)
    if not kept:
        raise DataError(f"no row can be read by {session.settings.base}")
    return kept


def read(source: RowSource, *, rewritten: bool) -> tuple[list[Row], list[DroppedRow]]:
    """The rows of a file, and what is no row or would be changed by half.

    Args:
        rewritten: whether completions are changed.

    Raises:
        DataError: no row can be read.
    """
    rows, broken = list[Row](), list[DroppedRow]()
    for item in source:
        if isinstance(item, DroppedRow):
            broken.append(item)
        elif rewritten and any(other_parts(item)):
            broken.append(DroppedRow(MORE, row=item))
        else:
            rows.append(item)
    if not rows:
        raise DataError(source.nothing("no row can be changed"))
    return rows, broken
