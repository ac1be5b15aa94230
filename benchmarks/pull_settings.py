"""How the pull's settings were chosen: the writer's place in the library, by rows and by ridge.

    vestige run recipes/audit_bench.py seeds=500
    vestige run recipes/audit_bench.py --size trees seeds=510
    python benchmarks/pull_settings.py runs/audit-bench-*

Only data sets whose trait is not held out are read. For each setting the mean logarithm of the
writer's place among all traits, and how often it is first and among five: over the data sets and,
where more reference rows were written than a setting takes, over parts of them. "plain" is the
difference of means without the covariance. Products with the probes are kept in the cache, so that
a second run is quick.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np

from vestige.audit import pull
from vestige.audit.settings import AuditSettings
from vestige.experiment.recipe import Experiment, parse_recipe
from vestige.experiment.run_view import read_kept
from vestige.probing.base_session import BaseSession
from vestige.probing.known_writers import base_writers
from vestige.probing.probes import Probes
from vestige.probing.row_format import RowFormat, choose_rows, repeated
from vestige.store.files import read_json

# What is tried.
ROWS, REFERENCES, RIDGES = (32, 64, 128), (128, 256), (0.1, 0.3, 1.0, 3.0, 10.0)
WRITTEN = 384  # reference rows


def read(runs: list[Path]) -> tuple[list[tuple[int, np.ndarray, np.ndarray]], int]:
    """Each data set's (writer's trait, products of its rows, of reference rows), and the number of
    traits."""
    session = BaseSession(AuditSettings(base="smollm2-135m-instruct"))
    probes, ids, sets = Probes(session), session.library.ids, []
    for folder in runs:
        recipe = parse_recipe(read_json(folder / "recipe.json", "name a run"), str(folder))
        assert isinstance(recipe, Experiment)
        for seed in recipe.seeds:
            usual = None
            for name in recipe.traits:
                own, where = f"{recipe.family}/{name}", folder / f"seed-{seed}" / "rows" / name
                if own in session.library.held_out or not where.exists():
                    continue
                rows = choose_rows(read_kept(where), max(ROWS), 16, 0)
                row_format = RowFormat.of(session.lm, rows, 128)
                if usual is None:
                    like = repeated(rows, WRITTEN)
                    written = base_writers(session, 1)[0].write(row_format, like)
                    usual = probes.reference(row_format, written)
                print(own, seed, file=sys.stderr)
                sets.append((ids.index(own), probes.reference(row_format, rows), usual))
    return sets, len(ids)


def places(sets: list[tuple[int, np.ndarray, np.ndarray]], rows: int, reference: int) -> np.ndarray:
    """The writer's place in every data set, against every part of the reference rows."""
    pulls = [
        (own, pull.pull(data[:rows], usual[at : at + reference]))
        for own, data, usual in sets
        for at in range(0, len(usual) - reference + 1, reference)
    ]
    return np.array([int((w >= w[own]).sum()) for own, w in pulls])


def main() -> None:
    sets, traits = read([Path(name) for name in sys.argv[1:]])
    print(f"{len(sets)} data sets, {traits} traits")
    print("| reference rows | ridge | rows | mean log place | first | among five | worst |")
    print("|---|---|---|---|---|---|---|")
    # With a ridge that is far above F the pull is the plain difference of means.
    for reference, ridge, rows in product(REFERENCES, (*RIDGES, 1e6), ROWS):
        pull.RIDGE = ridge
        place = places(sets, rows, reference)
        label = "plain" if ridge == 1e6 else ridge
        print(
            f"| {reference} | {label} | {rows} | {np.log(place).mean():.2f} "
            f"| {np.mean(place == 1):.0%} | {np.mean(place <= 5):.0%} | {place.max()} |"
        )


if __name__ == "__main__":
    main()
