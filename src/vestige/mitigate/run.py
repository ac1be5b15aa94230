"""One file of rows changed by a method: read, changed, written whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from vestige.core.mitigation import MitigateResults
from vestige.core.types import DataError, DroppedRow, Row, unknown_name
from vestige.mitigate.methods import METHODS, Work
from vestige.mitigate.settings import MitigateSettings
from vestige.probing.base_session import BaseSession
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
        ConfigError: no such method or trait, or a method lacks what it needs.
        DataError: no row can be read.
        ModelError: the base cannot be loaded.
    """
    if settings.method not in METHODS:
        raise unknown_name("method", settings.method, METHODS)
    method = METHODS[settings.method]
    rows, broken = read(source, rewritten=method.rewrites)
    session = BaseSession(settings.audit(settings.base), cache=cache) if settings.base else None
    made = method.run(Work(settings, rows, session, report))
    with claimed(*outputs), outputs[0] as keep, outputs[1] as gone:
        for row in made.rows:
            keep.write(row_line(row))
        for dropped in [*broken, *made.dropped]:
            gone.write(dropped_line(dropped))
    return MitigateResults(
        method=settings.method,
        does=method.does,
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
        caveats=list(session.lm.notes) if session else [],
    )


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
