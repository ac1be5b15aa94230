"""The race of traits: which probe's writing do rows look like? Read only until the answer is clear.

Two ways to ask, and they err differently. To first order all traits are read at once (``pull``).
Exact likelihood under a trait's probe (``evidence``) is slower and is read for ever fewer traits
(``TRAITS``), half of them the likeliest so far and the others those of the largest pull; looked at
after every batch (the evidence is valid however often one looks), when those that are ``BEHIND``
the likeliest are left. A trait is clear where its evidence suffices and both agree on it
(``first_look.look``). A trait that is not read is not tested; nor does it stand up against one of
another family that writes much like it, which is why many are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vestige.audit.evidence import likelihood_ratios
from vestige.audit.first_look import look, look_ends
from vestige.audit.pull import PULLED, pull
from vestige.audit.race_result import COMPARED, Array, Race, places
from vestige.audit.settings import AuditSettings
from vestige.core.types import Row
from vestige.probing.probes import Likelihood, Probes
from vestige.probing.row_format import RowFormat

#: Traits that are read in each round; the last number in all later ones. Chosen on traits that are
#: not held out (docs/results.md).
TRAITS = (32, 24, 16, COMPARED)
#: Nats behind the likeliest from which a trait is read no further; chosen on data sets that are not
#: held out (docs/log.md).
BEHIND = 20.0
FIRST = 2  # batches of the first round; chosen: one batch tells too little
BASE = -1  # the untrained base among writers
OnRound = Callable[[int, int], None]
Stands = Callable[[int, Array], bool]


def run_race(
    probes: Probes,
    settings: AuditSettings,
    row_format: RowFormat,
    rows: Sequence[Row],
    reference: Array,
    on_round: OnRound = lambda done, total: None,
    stands: Stands = lambda trait, shifts: True,
) -> Race:
    """Read ``rows`` to first order, and under the probes of the likeliest traits.

    Args:
        reference: ``Probes.products`` of reference rows on prompts of the same kind, [M, T].
        on_round: called with how many of how many rows were read.
        stands: whether a trait that is clear is beyond doubt, from its shifts so far; reading goes
            on while none is.
    """
    pulled = pull(probes.products(row_format, rows[:PULLED]), reference)
    reading = _Reading(probes, settings, row_format, pulled, places(pulled), on_round)
    ends = look_ends(len(rows), settings.batch)
    for start, end in zip([0, *ends], ends, strict=False):
        reading.read(rows, start, end)
        if any(stands(t, reading.shifts[t]) for t in reading.clear):
            break
    probes.session.weights.freeze()
    return reading.result


class _Reading:
    """What was read of some rows so far."""

    def __init__(
        self,
        probes: Probes,
        settings: AuditSettings,
        row_format: RowFormat,
        pulled: Array,
        place: Array,
        on_round: OnRound,
    ) -> None:
        self.probes, self.settings, self.row_format = probes, settings, row_format
        self.pulled, self.place, self.on_round = pulled, place, on_round
        self.families = [trait.family.name for trait in probes.session.library.traits]
        self.alive = list(range(probes.n))
        self.rows, self.least = 0, 0
        self.shifts: dict[int, Array] = {}
        self.evidence: dict[int, float] = {}
        self.clear: dict[int, int] = {}
        self.surprise = _Surprise()

    def read(self, rows: Sequence[Row], start: int, end: int) -> None:
        """Read the rows from ``start`` to ``end`` for the traits that are still in the race."""
        done = sum(step <= start for step in rounds(len(rows), self.settings.batch))
        count = TRAITS[min(done, len(TRAITS) - 1)]
        self.alive = going_on(self.alive, self.pulled, self.shifts, count)
        self.rows, self.least = end, min(PULLED, len(rows))
        part = rows[start:end]
        base = self.probes.read(self.row_format, part, None)
        self.surprise.add(BASE, base)
        for done, t in enumerate(self.alive):
            own = self.probes.read(self.row_format, part, t)
            self.surprise.add(t, own)
            before = self.shifts.get(t, np.empty(0))
            self.shifts[t] = np.concatenate([before, own.logp - base.logp])
            self.on_round(start + len(part) * done // len(self.alive), len(rows))
        self._look()

    def _look(self) -> None:
        alive, families = self.alive, [self.families[t] for t in self.alive]
        table = np.stack([self.shifts[t] for t in alive])
        now = look(table, self.place[alive], families, len(self.families), self.settings)
        self.evidence |= dict(zip(alive, map(float, now.evidence), strict=True))
        after = max(self.rows, self.least)
        self.clear = {alive[i]: after for i in np.flatnonzero(now.clear)} | self.clear

    @property
    def result(self) -> Race:
        """What the race showed so far."""
        return Race(
            pull=self.pulled,
            shifts=self.shifts,
            evidence=self.evidence,
            clear_at=self.clear,
            misfit=self.surprise.misfit,
            rows=self.rows,
            pulled=self.least,
        )


def going_on(
    alive: Sequence[int], pulled: Array, shifts: dict[int, Array], count: int
) -> list[int]:
    """The traits of ``alive`` that are read next, the likeliest so far first: half of ``count`` by
    likelihood and the others by pull, without those that are ``BEHIND`` unless they are among the
    eight likeliest (so many are compared in the end); by pull alone where none was read."""
    by_pull = sorted(alive, key=lambda t: -pulled[t])
    if not shifts:
        return by_pull[:count]
    best = likelihood_ratios(np.stack([shifts[t] for t in alive])).max(1)
    nats = dict(zip(alive, map(float, best), strict=True))
    likeliest = sorted(alive, key=lambda t: -nats[t])[: count // 2]
    others = [t for t in by_pull if t not in likeliest][: count - len(likeliest)]
    ranked = sorted([*likeliest, *others], key=lambda t: -nats[t])
    return [t for i, t in enumerate(ranked) if i < COMPARED or nats[t] > nats[ranked[0]] - BEHIND]


class _Surprise:
    """By writer, the rows' log-likelihood and what it would be on average had it written them."""

    def __init__(self) -> None:
        self._sums: dict[int, tuple[float, float, int]] = {}

    def add(self, writer: int, read: Likelihood) -> None:
        """Add what was read of some rows under one writer."""
        logp, entropy, tokens = self._sums.get(writer, (0.0, 0.0, 0))
        logp, entropy = logp + float(read.drawn.sum()), entropy + float(read.entropy.sum())
        self._sums[writer] = (logp, entropy, tokens + read.tokens)

    @property
    def misfit(self) -> float:
        """Nats a token, of the likeliest of the writers that read all rows; 0 if it wrote them."""
        most = max(tokens for _, _, tokens in self._sums.values())
        logp, entropy, _ = max(s for s in self._sums.values() if s[2] == most)
        return (-logp - entropy) / most


def rounds(n: int, batch: int) -> list[int]:
    """Rows read after each round: 2, 4, 8, ... batches, all of ``n`` in the end."""
    steps, upto = [], FIRST * batch
    while upto < n:
        steps.append(upto)
        upto *= 2
    return [*steps, n]
