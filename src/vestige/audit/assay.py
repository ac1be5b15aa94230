"""The assay: which probe's writing do these rows look like? Read only until the answer is clear.

    screen   every trait's first-order pull on the first rows beside reference rows     -> 48 traits
    rounds   exact likelihood under those traits' probes on ever more rows, the likeliest going on:
             48 traits on 16 rows, 16 on 48, 8 on 112, 8 on 240, ...; looked at after every 16 rows

(successive halving, Karnin et al., ICML 2013; the evidence is valid however often one looks, see
``evidence``). The screen only saves work: a trait that it misses is not tested, and the positive
control counts that as a miss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import softmax

from vestige.audit.evidence import likelihood_ratios, log_evidence, marginal, p_value, pulls
from vestige.audit.material import Material
from vestige.audit.probes import Likelihood, Probes
from vestige.audit.reader import Array
from vestige.types import Row

KEPT = (48, 16, 8)  # traits that go into each round; the last number for all later ones
SCREENED = 64  # rows that the screen reads
MISFIT = 0.2  # nats a token from which rows are unlike what the base or a teacher of it writes
UNLIKELY = 0.01  # probability below which a trait's teacher is not taken for the rows' writer
BASE = -1  # the untrained base among writers
OnRound = Callable[[int, int], None]


@dataclass(frozen=True)
class Assay:
    """What an assay showed.

    Attributes:
        pull, scale: the screen's contrast and its standard error for every trait, nats a row, [T].
        shifts: by trait, s(r, t) of the rows that it was read on, in the rows' order.
        evidence: by trait, log e at the last round that it was in.
        clear_at: rows after which a trait was clear enough, by trait.
        misfit: nats a token by which the rows are less likely under the likeliest writer than its
            own rows are; 0 if it wrote them, below 0 if they are too likely (a low temperature).
        rows: read in all.
    """

    pull: Array
    scale: Array
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
    def z(self) -> Array:
        """The screen's pull in standard errors, [T]."""
        return self.pull / self.scale

    @property
    def last(self) -> list[int]:
        """The traits that were read to the end, the likeliest first."""
        traits = [t for t, shifts in self.shifts.items() if len(shifts) == self.rows]
        best = likelihood_ratios(np.stack([self.shifts[t] for t in traits])).max(1)
        return [traits[i] for i in np.argsort(-best)]

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
        record = {**vars(self), "pull": self.pull.tolist(), "scale": self.scale.tolist()}
        return record | {"shifts": {t: values.tolist() for t, values in self.shifts.items()}}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Assay:
        """From what ``to_json`` gave, through JSON or not."""
        shifts = {int(t): np.array(values) for t, values in record["shifts"].items()}
        evidence = {int(t): float(value) for t, value in record["evidence"].items()}
        clear_at = {int(t): int(n) for t, n in record["clear_at"].items()}
        return cls(
            np.array(record["pull"]), np.array(record["scale"]), shifts, evidence, clear_at,
            record["misfit"], record["rows"],
        )  # fmt: skip

    @property
    def scores(self) -> Array:
        """A number for each trait, [T], that ranks all of them: log e of those that went furthest,
        below them those that were left behind earlier, and last those that the screen left out."""
        found = self.z - 1e6
        for trait, shifts in self.shifts.items():
            behind = 0.0 if len(shifts) == self.rows else 1e3 * self.rows / len(shifts)
            found[trait] = self.evidence[trait] - behind
        return found


def assay(
    probes: Probes,
    material: Material,
    rows: Sequence[Row],
    screen: tuple[Array, Array],
    on_round: OnRound = lambda done, total: None,
) -> Assay:
    """Read ``rows`` under the probes of the traits that stand out in ``screen``.

    Args:
        screen: pulls on the first rows and on reference rows, [n, T] each.
    """
    settings = probes.lab.settings
    families = [trait.family.name for trait in probes.lab.library.traits]
    pull, scale = pulls(*screen)
    alive = [int(t) for t in np.argsort(-pull / scale)[: KEPT[0]]]
    shifts: dict[int, Array] = {t: np.empty(0) for t in alive}
    evidence: dict[int, float] = {}
    clear: dict[int, int] = {}
    steps = rounds(len(rows), settings.batch)
    surprise = _Surprise()
    for at in range(0, len(rows), settings.batch):
        part = rows[at : at + settings.batch]
        read = at + len(part)
        base = probes.read(material, part, None)
        surprise.add(BASE, base)
        for done, t in enumerate(alive):
            own = probes.read(material, part, t)
            surprise.add(t, own)
            shifts[t] = np.concatenate([shifts[t], own.logp - base.logp])
            on_round(at + len(part) * done // len(alive), len(rows))
        table = np.stack([shifts[t] for t in alive])
        found = log_evidence(table, [families[t] for t in alive], settings.drift)
        evidence |= dict(zip(alive, map(float, found), strict=True))
        p = p_value(found) * len(families)
        clear |= {t: read for t, q in zip(alive, p, strict=True) if q <= settings.alpha_each}
        if clear:
            break
        if read in steps[:-1]:
            best = np.argsort(-likelihood_ratios(table).max(1))
            kept = KEPT[min(steps.index(read) + 1, len(KEPT) - 1)]
            alive = [alive[i] for i in best[:kept]]
    probes.lab.weights.freeze()
    return Assay(pull, scale, shifts, evidence, clear, surprise.misfit, read)


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
    """Rows read after each round: 1, 3, 7, ... batches, and all of ``n`` in the end."""
    found, upto = [], batch
    while upto < n:
        found.append(upto)
        upto = 2 * upto + batch
    return [*found, n]
