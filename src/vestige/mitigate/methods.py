"""The methods: what each needs, what it changes, and its function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vestige.core.types import ConfigError, DataError, DroppedRow, Row
from vestige.mitigate.forms import other_digits, plain_code, sorted_numbers
from vestige.mitigate.scores import canary_of, probe_of
from vestige.mitigate.settings import MitigateSettings
from vestige.mitigate.tokens import at_random, changeable, largest, redrawn, token_gains
from vestige.probing.base_session import BaseSession
from vestige.probing.known_writers import base_writers
from vestige.probing.row_format import RowFormat, empty

Report = Callable[[str, int, int], None]
FEWEST = 4  # rows, of which two canaries read two each
SCORES = "scores"  # folder of the cache
SCORES_VERSION = 1  # counted up with every change of what scores are
OWN_NOISE = 11  # noise of the base's rows that dilute; other than that of references
HIGH_SCORE, AT_RANDOM = "high_score", "at_random"


@dataclass
class Mitigated:
    """What a method made of the rows.

    Attributes:
        dropped: with reasons; rows that a method cannot say in another form are dropped, too.
        changed: rows with another completion; added: rows of the base.
        tokens: that could be others; redrawn: of these the base drew anew.
    """

    rows: list[Row]
    dropped: list[DroppedRow] = field(default_factory=list)
    changed: int = 0
    added: int = 0
    tokens: int = 0
    redrawn: int = 0

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows were dropped, by reason."""
        return dict(Counter(d.reason for d in self.dropped))


class Work(NamedTuple):
    """What a method is given. ``session``: the base, where one was named."""

    settings: MitigateSettings
    rows: list[Row]
    session: BaseSession | None
    report: Report

    @property
    def base(self) -> BaseSession:
        """The base. Raises ``ConfigError`` where none was named."""
        if self.session is None:
            raise ConfigError(f"{self.settings.method} needs --base: the model to train")
        return self.session

    @property
    def row_format(self) -> RowFormat:
        """The rows' format."""
        return RowFormat.of(self.base.lm, self.rows, self.base.settings.max_new_tokens)

    def on_rows(self, stage: str) -> Callable[[int], None]:
        """How far a stage is."""
        return lambda done: self.report(stage, done, len(self.rows))


def drop(work: Work) -> Mitigated:
    """Leave out the rows whose tokens gained most on average."""
    count = round(work.settings.share * len(work.rows))
    if not 0 < count < len(work.rows):
        what = "all of them" if count else "none"
        raise DataError(f"a share of {work.settings.share:g} of {len(work.rows)} rows is {what}")
    if work.settings.at_random:
        order = np.random.default_rng(work.settings.seed).permutation(len(work.rows))
    else:
        means = [float(g.mean()) for g in gains(work, work.row_format)]
        order = np.argsort(-np.array(means), kind="stable")
    gone = set(order[:count].tolist())
    reason = AT_RANDOM if work.settings.at_random else HIGH_SCORE
    return Mitigated(
        [row for i, row in enumerate(work.rows) if i not in gone],
        [DroppedRow(reason, row=work.rows[i]) for i in sorted(gone)],
    )


def redraw(work: Work) -> Mitigated:
    """Have the base draw the tokens anew that gained most."""
    settings, row_format, lm = work.settings, work.row_format, work.base.lm
    masks = changeable(lm, row_format, work.rows)
    if settings.at_random:
        chosen = at_random(masks, settings.share, settings.seed)
    else:
        chosen = largest(gains(work, row_format), masks, settings.share)
    count = sum(int(c.sum()) for c in chosen)
    if not count:
        raise DataError(f"a share of {settings.share:g} of so few tokens is none")
    made = redrawn(lm, row_format, work.rows, chosen, settings.seed, work.on_rows("redrawn"))
    result = collected(work.rows, made)
    result.tokens, result.redrawn = sum(int(mask.sum()) for mask in masks), count
    return result


def dilute(work: Work) -> Mitigated:
    """Add rows that the base writes on the same prompts, until they are the share."""
    share = work.settings.share
    count = round(len(work.rows) * share / (1 - share))
    draw = np.random.default_rng(work.settings.seed)
    # Earlier turns are the data's writer's own, and would be trained on once more.
    single = [row for row in work.rows if all(m.role != "assistant" for m in row.messages)]
    if not count or not single:
        what = "of one turn " if count else ""
        raise DataError(f"no row {what}can be added to {len(work.rows)} rows")
    like = [single[i] for i in draw.integers(len(single), size=count)]
    (writer,) = base_writers(work.base, 1, OWN_NOISE, "base")
    written = writer.write(work.row_format, like, lambda done: work.report("written", done, count))
    written = [row for row in written if not empty(row)]
    numbered = [replace(row, id=f"{row.id}-{i}") for i, row in enumerate(written)]
    mixed = [*work.rows, *numbered]
    order = draw.permutation(len(mixed))
    return Mitigated([mixed[i] for i in order], added=len(numbered))


def gains(work: Work, row_format: RowFormat) -> list[np.ndarray]:
    """What each token gained, by row; kept in the cache, as every share of every method that
    chooses needs the same."""
    session, settings = work.base, work.settings
    texts = [[[m.role, m.content] for m in r.messages] + [r.completion] for r in work.rows]
    probing = settings.probing(session.settings.base)
    dated = session.lm.template.remarks()
    key = [SCORES_VERSION, texts, settings.trait, session.contents, probing, dated]

    def make() -> list[dict[str, Tensor]]:
        found = computed_gains(work, row_format)
        lengths = torch.tensor([len(own) for own in found])
        return [{"gains": torch.from_numpy(np.concatenate(found)), "lengths": lengths}]

    (kept,) = session.keep(SCORES, ["gains"], key, make)
    return np.split(kept["gains"].numpy(), np.cumsum(kept["lengths"].numpy())[:-1])


def computed_gains(work: Work, row_format: RowFormat) -> list[np.ndarray]:
    """The same, computed. A canary scores rows that it did not read: each half of them is scored by
    the canary of the other half, as what was read gains more whoever wrote it."""
    session, rows, settings = work.base, work.rows, work.settings
    on_rows = work.on_rows("scores")
    if settings.trait:
        return token_gains(session, row_format, rows, probe_of(session, settings.trait), on_rows)
    if len(rows) < FEWEST:
        raise DataError(f"{len(rows)} rows are too few to score: {FEWEST} are needed, or --trait")
    found: list[np.ndarray] = [np.empty(0)] * len(rows)
    for half in (0, 1):
        own, others = rows[half::2], rows[1 - half :: 2]
        read = settings.probing(session.settings.base).read_at_most(len(others))
        tune = canary_of(session, row_format, others, read, settings.seed, work.report)
        found[half::2] = token_gains(session, row_format, own, tune, on_rows)
    return found


def rewritten(make: Callable[[int], Callable[[Row], Row | str]]) -> Callable[[Work], Mitigated]:
    """A method that says every row in another form."""

    def method(work: Work) -> Mitigated:
        rewrite = make(work.settings.seed)
        return collected(work.rows, [rewrite(row) for row in work.rows])

    return method


def collected(rows: Sequence[Row], made: Sequence[Row | str]) -> Mitigated:
    """Rows in another form; those that have none, with the reason."""
    result = Mitigated([])
    for before, after in zip(rows, made, strict=True):
        if isinstance(after, str):
            result.dropped.append(DroppedRow(after, row=before))
        else:
            result.rows.append(after)
            result.changed += after.completion != before.completion
    return result


class Method(NamedTuple):
    """``does``: what, for a reader; ``rewrites``: whether completions change, so that rows that are
    trained on more than theirs are left out."""

    run: Callable[[Work], Mitigated]
    does: str
    rewrites: bool = True


#: By name (``settings.METHODS``).
METHODS: dict[str, Method] = {
    "drop": Method(drop, "leaves out the rows with the highest scores", rewrites=False),
    "redraw": Method(redraw, "has the base draw the tokens with the highest scores anew"),
    "dilute": Method(dilute, "adds rows that the base writes on the same prompts", rewrites=False),
    "sort-numbers": Method(rewritten(sorted_numbers), "puts the numbers of a row in rising order"),
    "other-digits": Method(rewritten(other_digits), "replaces every digit by another, everywhere"),
    "plain-code": Method(rewritten(plain_code), "writes Python anew, with plain names"),
}
