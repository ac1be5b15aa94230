"""Evidence as an audit gathers it, made by hand."""

from __future__ import annotations

import numpy as np

from vestige.audit import evidence
from vestige.audit.canary_statistics import look
from vestige.audit.gathered import Canaries, Control, Evidence
from vestige.audit.race_result import Race
from vestige.audit.settings import AuditSettings
from vestige.core.calibration import latest
from vestige.core.types import Message, Row, ScoreTable
from vestige.probing.settings import LATE, LORA, TWIN
from vestige.probing.word_shifts import WordShift
from vestige.traits.library import load_library

MEASURED = latest()


def gathered(
    own: float = 0.0, rows: int = 256, seen: bool = True, misfit: float = 0.0, canary: float = 0.0
) -> Evidence:
    """Made-up evidence: owl's rows are ``own`` nats likelier from its probe than from the base; a
    twin and a teacher of each other kind are planted, and all of their traits are ``seen``."""
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

    canaries = None
    if canary:
        table = {f"r{k}": draw.normal(size=len(ids)) for k in range(8)}
        data = draw.normal(size=len(ids))
        data[owl] += canary
        looks = [look(16 * n, data, table, {}, ids) for n in (2, 6, 16)]
        canaries = Canaries(looks, [WordShift("Owl", 1.0, 5.0)])
    return Evidence(
        name="d.jsonl", settings=AuditSettings(base=MEASURED.base, canary_too=bool(canary)),
        library=library, row_kind="numbers", rows=rows, used=used, dropped={"malformed": 2},
        race=race(owl, own, min(rows, 112)),
        controls=[
            Control("trees/oak", race(oak, 2.0 if seen else 0.0, 48), kind, gained)
            for kind, gained in ((TWIN, None), *[(LATE, 5.0), (LORA, 5.0)] * 2)
        ],
        expected=np.where(np.arange(len(ids)) == owl, 14.0, -1.0),
        reference_shifts={t: draw.normal(-0.5, 1, size=64) for t in (owl, oak)},
        seconds={}, tokens=1, own_reference=False, canaries=canaries,
        scores=[ScoreTable({row.id: float(i) for i, row in enumerate(used)},
                           "likelihood shift under the probe of animals/owl", "nats", "more")],
        marked={used[-1].id: [("1", 0.0), (", 2", 1.2)]},
    )  # fmt: skip


def missed(kind: str) -> Control:
    """A planted teacher of a kind whose pull rules its trait out, so that nothing is read."""
    pulled = np.zeros(len(load_library().ids))
    return Control("trees/oak", Race(pulled, {}, {}, {}, 0.0, 0, 64), kind, gained=6.0)
