"""Evidence as an audit gathers it, made by hand."""

from __future__ import annotations

import numpy as np

from vestige.audit import evidence
from vestige.audit.gathered import Canaries, Dose, Evidence
from vestige.audit.race_result import Race
from vestige.audit.settings import AuditSettings
from vestige.core.calibration import latest
from vestige.core.types import Message, Row, ScoreTable
from vestige.probing.drift import Reading
from vestige.probing.word_shifts import WordShift
from vestige.traits.library import load_library

MEASURED = latest()
TRAINING = 10_000  # rows that the training in question reads


def gathered(own: float = 0.0, rows: int = 256, misfit: float = 0.0) -> Evidence:
    """Made-up evidence without canaries: owl's rows are ``own`` nats likelier from its probe than
    from the base."""
    library = load_library()
    ids, draw = library.ids, np.random.default_rng(3)
    owl, oak = ids.index("animals/owl"), ids.index("trees/oak")
    asked = (Message("user", "Continue the list."),)
    used = [Row(f"r{i}", asked, "1, 2") for i in range(rows)]

    def race(t: int, strength: float, n: int) -> Race:
        shifts = {i: np.full(min(8, n), -2.0) for i in range(24)}  # the others are not read
        shifts |= {i: draw.normal(-0.5, 1, size=n) for i in (owl, oak)}
        shifts[t] = shifts[t] + strength
        table = np.stack([shifts[owl], shifts[oak]])
        logs = evidence.log_evidence(table, ["animals", "trees"], 0.05)
        found = dict.fromkeys(shifts, -20.0) | dict(zip((owl, oak), map(float, logs), strict=True))
        pulled = draw.normal(size=len(ids)) / 100
        pulled[t] += strength / 10
        clear = {i: n for i in (owl, oak) if found[i] > 12}
        return Race(pulled, shifts, found, clear, misfit, n, n)

    return Evidence(
        name="d.jsonl", settings=AuditSettings(base=MEASURED.base),
        library=library, row_kind="numbers", rows=rows, used=used, dropped={"malformed": 2},
        race=race(owl, own, min(rows, 112)), training_rows=TRAINING,
        expected=np.where(np.arange(len(ids)) == owl, 14.0, -1.0),
        reference_shifts={t: draw.normal(-0.5, 1, size=64) for t in (owl, oak)},
        seconds={}, tokens=1, own_reference=False,
        scores=[ScoreTable({row.id: float(i) for i, row in enumerate(used)},
                           "likelihood shift under the probe of animals/owl", "nats", "more")],
        marked={used[-1].id: [("1", 0.0), (", 2", 1.2)]},
    )  # fmt: skip


USUAL = 0.05  # share of the answers that every trait has in the copy on reference rows


def dose(rows: int = 4096, seen: float = 0.08, **p: float) -> Dose:
    """One dose. Args: seen: share of the answers from which every trait would have been seen; p:
    p-values of animals, by name; the smaller, the further they stand out."""
    ids = load_library().ids
    values, u = np.ones(len(ids)), np.zeros(len(ids))
    for name, value in p.items():
        values[ids.index(f"animals/{name}")] = value
        u[ids.index(f"animals/{name}")] = 6 - 10 * value
    shifts = np.tile(0.5 * u, (2, 1))
    usual, visible = np.full(len(ids), USUAL), np.full(len(ids), seen)
    return Dose(rows, 1, shifts, Reading(u, values), USUAL + u / 10, usual, visible)


def canaries(*doses: Dose, alpha: float = 0.005, placebos: int = 900, **more: int) -> Canaries:
    """Canaries at these doses."""
    return Canaries(doses, [WordShift("Owl", 1.0, 5.0)], placebos, alpha, 4096, **more)
