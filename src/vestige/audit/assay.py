"""The assay: which probe's writing do these rows look like? Read only until the answer is clear.

Exact likelihood of ever more rows under ever fewer traits' probes, the likeliest going on: every
trait on 8 rows, 48 on 16, 32 on 48, 16 on 112, 8 on 240, ...; looked at after every batch
(successive halving, Karnin et al., ICML 2013; the evidence is valid however often one looks, see
``evidence``). A trait that is left behind is not tested any more, and the positive control counts
that as a miss; nor does it stand up any more against one of another family that writes much like
it, which is why many go on (``docs/log.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import softmax

from vestige.audit.evidence import likelihood_ratios, log_evidence, marginal, p_value
from vestige.audit.material import Material
from vestige.audit.probes import Likelihood, Probes
from vestige.audit.reader import Array
from vestige.types import Row

KEPT = (48, 32, 16, 8)  # traits that go on after each round; the last number after all later ones
BESIDE = 64  # reference rows that the likeliest traits are read on
MISFIT = 0.2  # nats a token from which rows are unlike what the base or a teacher of it writes
UNLIKELY = 0.01  # probability below which a trait's teacher is not taken for the rows' writer
BASE = -1  # the untrained base among writers
METHOD = 6  # raised when what audits have kept would mean something else
OnRound = Callable[[int, int], None]
Stands = Callable[[int, Array], bool]


@dataclass(frozen=True)
class Assay:
    """What an assay showed.

    Attributes:
        shifts: by trait (all of them), s(r, t) of the rows that it was read on, in their order.
        evidence: by trait, log e at the last round that it was in.
        clear_at: rows after which a trait was clear enough, by trait.
        misfit: nats a token by which the rows are less likely under the likeliest writer than its
            own rows are; 0 if it wrote them, below 0 if they are too likely (a low temperature).
        rows: read in all.
    """

    shifts: dict[int, Array]
    evidence: dict[int, float]
    clear_at: dict[int, int]
    misfit: float
    rows: int

    @property
    def known_lineage(self) -> bool:
        """Whether the rows are such as the base, or a teacher tuned from it, writes."""
        return abs(self.misfit) <= MISFIT

    @property
    def clear(self) -> dict[int, int]:
        """``clear_at`` where the lineage is known, else nothing."""
        return self.clear_at if self.known_lineage else {}

    @property
    def mean(self) -> Array:
        """Each trait's shift, nats a row, on the rows that it was read on, [T]."""
        return np.array([self.shifts[t].mean() for t in range(len(self.shifts))])

    @property
    def error(self) -> Array:
        """The standard error of ``mean``, [T]; one row tells none, and has 1."""
        every = [self.shifts[t] for t in range(len(self.shifts))]
        return np.array([s.std(ddof=1) / len(s) ** 0.5 if len(s) > 1 else 1.0 for s in every])

    @property
    def last(self) -> list[int]:
        """The likeliest of the traits that were read to the end, the likeliest first."""
        traits = [t for t, shifts in self.shifts.items() if len(shifts) == self.rows]
        best = likelihood_ratios(np.stack([self.shifts[t] for t in traits])).max(1)
        return [traits[i] for i in np.argsort(-best)[: KEPT[-1]]]

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
        return vars(self) | {"shifts": {t: values.tolist() for t, values in self.shifts.items()}}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Assay:
        """From what ``to_json`` gave, through JSON or not."""
        shifts = {int(t): np.array(values) for t, values in record["shifts"].items()}
        evidence = {int(t): float(value) for t, value in record["evidence"].items()}
        clear_at = {int(t): int(n) for t, n in record["clear_at"].items()}
        return cls(shifts, evidence, clear_at, record["misfit"], record["rows"])

    @property
    def scores(self) -> Array:
        """A number for each trait, [T], that ranks all of them: log e of those that went furthest,
        and below them those that were left behind earlier."""
        behind = [0.0 if len(self.shifts[t]) == self.rows else 1e3 * self.rows / len(self.shifts[t])
                  for t in range(len(self.shifts))]  # fmt: skip
        return np.array([self.evidence[t] for t in range(len(self.shifts))]) - behind


def assay(
    probes: Probes,
    material: Material,
    rows: Sequence[Row],
    on_round: OnRound = lambda done, total: None,
    stands: Stands = lambda trait, shifts: True,
) -> Assay:
    """Read ``rows`` under every trait's probe, and on under the likeliest ones'.

    Args:
        stands: whether a trait that is clear is beyond doubt, from its shifts so far; reading goes
            on while none is.
    """
    settings = probes.lab.settings
    families = [trait.family.name for trait in probes.lab.library.traits]
    alive = list(range(len(families)))
    shifts: dict[int, Array] = {t: np.empty(0) for t in alive}
    evidence: dict[int, float] = {}
    clear: dict[int, int] = {}
    steps = rounds(len(rows), settings.batch)
    ends = sorted({*steps, *range(settings.batch, len(rows), settings.batch)})
    surprise = _Surprise()
    read = 0
    for end in ends:
        part, read = rows[read:end], end
        base = probes.read(material, part, None)
        surprise.add(BASE, base)
        for done, t in enumerate(alive):
            own = probes.read(material, part, t)
            surprise.add(t, own)
            shifts[t] = np.concatenate([shifts[t], own.logp - base.logp])
            on_round(end - len(part) + len(part) * done // len(alive), len(rows))
        table = np.stack([shifts[t] for t in alive])
        found = log_evidence(table, [families[t] for t in alive], settings.drift)
        evidence |= dict(zip(alive, map(float, found), strict=True))
        p = p_value(found) * len(families)
        new = {t: read for t, q in zip(alive, p, strict=True) if q <= settings.alpha_each}
        clear = new | clear
        if any(stands(t, shifts[t]) for t in clear):
            break
        if read in steps[:-1]:
            best = np.argsort(-likelihood_ratios(table).max(1))
            kept = KEPT[min(steps.index(read), len(KEPT) - 1)]
            alive = [alive[i] for i in best[:kept]]
    probes.lab.weights.freeze()
    return Assay(shifts, evidence, clear, surprise.misfit, read)


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
    """Rows read after each round: half a batch, 1, 3, 7, ... batches, all of ``n`` in the end."""
    found, upto = [max(1, batch // 2)] if n > batch // 2 else [], batch
    while upto < n:
        found.append(upto)
        upto = 2 * upto + batch
    return [*found, n]
