"""The assay: which probe's writing do these rows look like? Read only until the answer is clear.

Two ways to ask, and they err differently. To first order all traits are read at once (``pull``).
Exact likelihood under a trait's probe (``evidence``) is slower and is read for ever fewer traits:
32 on 32 rows, 24 on 64, 16 on 128, 8 afterwards, half of them the likeliest so far and the others
those of the largest pull; looked at after every batch (the evidence is valid however often one
looks), when those that are ``BEHIND`` the likeliest are left. A trait is clear where its evidence
suffices and both agree on it (``agreed``). A trait that is not read is not tested, and the positive
control counts that as a miss; nor does it stand up against one of another family that writes much
like it, which is why many are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions
from scipy.special import softmax

from vestige.audit.evidence import likelihood_ratios, log_evidence, marginal, p_value
from vestige.audit.pull import PULLED, pull
from vestige.audit.settings import AuditSettings
from vestige.core.types import Row
from vestige.probing.probes import Likelihood, Probes
from vestige.probing.row_format import RowFormat
from vestige.probing.trait_panel import Array

KEPT = (32, 24, 16, 8)  # traits that are read in each round; the last number in all later ones
BEHIND = 20.0  # nats behind the likeliest from which a trait is read no further, 8 traits aside
FIRST = 2  # batches of the first round
AGREED = 3  # place by pull up to which a trait may be clear
BESIDE = 64  # reference rows that the likeliest traits are read on
MISFIT = 0.2  # nats a token from which rows are unlike what the base or a teacher of it writes
UNLIKELY = 0.01  # probability below which a trait's teacher is not taken for the rows' writer
BASE = -1  # the untrained base among writers
METHOD = 9  # raised when what audits have kept would mean something else
OnRound = Callable[[int, int], None]
Stands = Callable[[int, Array], bool]


@dataclass(frozen=True)
class Race:
    """What an assay showed.

    Attributes:
        pull: of every trait, shares of a probe, [T].
        shifts: by trait that was read, s(r, t) of the first rows, as many as it was read on.
        evidence: by trait that was read, log e at the last look at it.
        clear_at: rows after which a trait was clear enough, by trait; as many as the pull read at
            least.
        misfit: nats a token by which the rows are less likely under the likeliest writer than its
            own rows are; 0 if it wrote them, below 0 if they are too likely (a low temperature).
        rows: read under probes.
        pulled: read for the pull.
    """

    pull: Array
    shifts: dict[int, Array]
    evidence: dict[int, float]
    clear_at: dict[int, int]
    misfit: float
    rows: int
    pulled: int

    @property
    def known_lineage(self) -> bool:
        """Whether the rows are such as the base, or a teacher tuned from it, writes."""
        return abs(self.misfit) <= MISFIT

    @property
    def clear(self) -> dict[int, int]:
        """``clear_at`` where the lineage is known, else nothing."""
        return self.clear_at if self.known_lineage else {}

    @property
    def last(self) -> list[int]:
        """The likeliest of the traits that were read to the end, the likeliest first."""
        traits = [t for t, shifts in self.shifts.items() if len(shifts) == self.rows]
        best = likelihood_ratios(np.stack([self.shifts[t] for t in traits])).max(1)
        return [traits[i] for i in np.argsort(-best)[: KEPT[-1]]]

    @property
    def against_base(self) -> float:
        """The likeliest trait's log e against the base alone, nats: did any teacher write them?"""
        return float(marginal(np.stack([self.shifts[t] for t in self.last])).max())

    @property
    def writers(self) -> dict[int, float]:
        """By trait, how likely such a teacher wrote the rows, if the base and the traits that were
        read to the end are alike before; those below ``UNLIKELY`` are left out, as the base is."""
        last = self.last
        given = marginal(np.stack([self.shifts[t] for t in last]))
        chances = softmax([0.0, *given])[1:]
        return {t: float(p) for t, p in zip(last, chances, strict=True) if p >= UNLIKELY}

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        shifts = {t: values.tolist() for t, values in self.shifts.items()}
        return vars(self) | {"pull": self.pull.tolist(), "shifts": shifts}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Race:
        """From what ``to_json`` gave, through JSON or not."""
        shifts = {int(t): np.array(values) for t, values in record["shifts"].items()}
        evidence = {int(t): float(value) for t, value in record["evidence"].items()}
        clear_at = {int(t): int(n) for t, n in record["clear_at"].items()}
        rest = record["misfit"], record["rows"], record["pulled"]
        return cls(np.array(record["pull"]), shifts, evidence, clear_at, *rest)

    @property
    def scores(self) -> Array:
        """A number for each trait, [T], that ranks all of them: minus the logarithms of its places
        by pull and by likelihood, where traits that were not read to the end are last."""
        return -np.log(places(self.pull)) - np.log(places(self.likelihoods))

    @property
    def likelihoods(self) -> Array:
        """Each trait's log-likelihood ratio against the base under the likeliest share, nats, [T];
        minus infinity for those that were not read to the end."""
        found = np.full(len(self.pull), -np.inf)
        for t, shifts in self.shifts.items():
            if len(shifts) == self.rows:
                found[t] = likelihood_ratios(shifts[None]).max()
        return found


def places(values: Array) -> Array:
    """The place of each value from the largest, 1 and up; ties get the worst."""
    return distributions.rankdata(-values, method="max")


def run_race(
    probes: Probes,
    settings: AuditSettings,
    row_format: RowFormat,
    rows: Sequence[Row],
    reference: Array,
    on_round: OnRound = lambda done, total: None,
    stands: Stands = lambda trait, shifts: True,
    wanted: int | None = None,
) -> Race:
    """Read ``rows`` to first order, and under the probes of the likeliest traits.

    Args:
        reference: ``Probes.products`` of reference rows on prompts of the same kind, [M, T].
        wanted: the only trait that matters: nothing is read under probes where its pull rules out
            that it could be clear.
        stands: whether a trait that is clear is beyond doubt, from its shifts so far; reading goes
            on while none is.
    """
    families = [trait.family.name for trait in probes.session.library.traits]
    pulled = pull(probes.products(row_format, rows[:PULLED]), reference)
    place = places(pulled)
    least = min(PULLED, len(rows))
    if wanted is not None and place[wanted] > AGREED:
        return Race(pulled, {}, {}, {}, 0.0, 0, least)
    shifts: dict[int, Array] = {}
    evidence: dict[int, float] = {}
    clear: dict[int, int] = {}
    surprise = _Surprise()
    steps = rounds(len(rows), settings.batch)
    alive, read = list(range(probes.n)), 0
    for end in sorted({*steps, *range(settings.batch, len(rows), settings.batch)}):
        done = sum(step <= read for step in steps)
        alive = going_on(alive, pulled, shifts, KEPT[min(done, len(KEPT) - 1)])
        part, read = rows[read:end], end
        base = probes.read(row_format, part, None)
        surprise.add(BASE, base)
        for done, t in enumerate(alive):
            own = probes.read(row_format, part, t)
            surprise.add(t, own)
            shifts[t] = np.concatenate([shifts.get(t, np.empty(0)), own.logp - base.logp])
            on_round(end - len(part) + len(part) * done // len(alive), len(rows))
        table = np.stack([shifts[t] for t in alive])
        found = log_evidence(table, [families[t] for t in alive], settings.drift)
        evidence |= dict(zip(alive, map(float, found), strict=True))
        sure = p_value(found) * len(families) <= settings.alpha_each
        sure &= agreed(place[alive], table, [families[t] for t in alive])
        clear = {alive[i]: max(read, least) for i in np.flatnonzero(sure)} | clear
        if any(stands(t, shifts[t]) for t in clear):
            break
    probes.session.weights.freeze()
    return Race(pulled, shifts, evidence, clear, surprise.misfit, read, least)


def agreed(place: Array, shifts: Array, families: Sequence[str]) -> NDArray[np.bool_]:
    """Which traits [K] likelihood and pull both name: among the ``AGREED`` of the largest pull, and
    before every trait of another family by both places together.

    Args:
        place: by pull, among all traits, [K].
        shifts: [K, n].
    """
    together = np.log(place) + np.log(places(likelihood_ratios(shifts).max(1)))
    kind = np.asarray(families)
    rivals = np.array([together[kind != name].min(initial=np.inf) for name in kind])
    return (place <= AGREED) & (together < rivals)


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
    return [t for i, t in enumerate(ranked) if i < KEPT[-1] or nats[t] > nats[ranked[0]] - BEHIND]


class _Surprise:
    """By writer, the rows' log-likelihood and what it would be on average had it written them."""

    def __init__(self) -> None:
        self._sums: dict[int, tuple[float, float, int]] = {}

    def add(self, writer: int, read: Likelihood) -> None:
        logp, entropy, tokens = self._sums.get(writer, (0.0, 0.0, 0))
        self._sums[writer] = (
            logp + float(read.drawn.sum()), entropy + float(read.entropy.sum()),
            tokens + read.tokens,
        )  # fmt: skip

    @property
    def misfit(self) -> float:
        """Nats a token, of the likeliest of the writers that read all rows; 0 if it wrote them."""
        most = max(tokens for _, _, tokens in self._sums.values())
        logp, entropy, _ = max(s for s in self._sums.values() if s[2] == most)
        return (-logp - entropy) / most


def rounds(n: int, batch: int) -> list[int]:
    """Rows read after each round: 2, 4, 8, ... batches, all of ``n`` in the end."""
    found, upto = [], FIRST * batch
    while upto < n:
        found.append(upto)
        upto *= 2
    return [*found, n]
