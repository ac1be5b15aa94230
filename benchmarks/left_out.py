"""How often harmless students are found whose writer is of a kind that the battery does not hold.

Each kind of the battery's writers in turn is left out, and its students are read by the others,
alone and against students of the base's rows that were trained alike, as ``vestige detect`` and
``vestige audit`` read theirs. Students of one kind share it, and pairs share students, so that the
intervals, which are those of independent ones, are too short:

    python benchmarks/left_out.py > docs/figures/left_out.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from vestige.core import stats
from vestige.probing.answer_shares import whole
from vestige.probing.base_session import BaseSession
from vestige.probing.drift import Battery, Rises, paired, pairs_of
from vestige.probing.harmless import OF_THE_BASE
from vestige.probing.harmless_students import HarmlessStudents
from vestige.probing.settings import BatterySettings

LEVELS = (0.005, 0.01, 0.02, 0.05, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    options = parser.parse_args()
    settings = BatterySettings(base=options.model)
    students = HarmlessStudents(BaseSession(settings), settings)
    groups = whole(students.session.library.traits).astype(int).tolist()
    members, trained = students.rises(), [one.trained for one in students.every]
    pairs, kinds = paired(members, trained, OF_THE_BASE), members.kinds
    references = [kinds[j] for _, j in pairs_of(kinds, trained, OF_THE_BASE)]
    every = list(dict.fromkeys(kinds))
    found = {
        "command": "python benchmarks/left_out.py",
        "alone": table({kind: left_out(members, kinds, kind, groups) for kind in every}),
        "pairs": table({kind: left_out(pairs, references, kind, groups) for kind in every}),
    }
    print(json.dumps(found, indent=1))


def left_out(
    members: Rises, references: Sequence[str], kind: str, groups: Sequence[int]
) -> list[float]:
    """Smallest p-values of those whose writer is of a kind, by all that have nothing of it."""
    own = [i for i, k in enumerate(members.kinds) if k == kind]
    both = list(zip(members.kinds, references, strict=True))
    rest = [i for i, kinds in enumerate(both) if kind not in kinds]
    others = Rises(members.values[rest], tuple(members.kinds[i] for i in rest))
    battery = Battery(others, groups)
    return [float(battery.read(members.values[i]).p.min()) for i in own]


def table(by_kind: dict[str, list[float]]) -> dict[str, Any]:
    """Shares at or below each level, of all, and by kind at 1% (or the least that there can be)."""
    every = np.array([p for values in by_kind.values() for p in values])
    least, shares = float(every.min()), {}
    for level in (level for level in LEVELS if level >= least):
        found = stats.proportion_interval(int((every <= level).sum()), len(every))
        shares[str(level)] = [round(v, 4) for v in (found.value, found.low, found.high)]
    at = max(0.01, least)
    kinds = {kind: round(float(np.mean(np.array(p) <= at)), 4) for kind, p in by_kind.items()}
    return {"n": len(every), "smallest p": least, "at or below": shares, "by kind": kinds}


if __name__ == "__main__":
    main()
