"""The audit benchmark: figures from made-up cases, and a whole bench on a tiny model's run."""

from __future__ import annotations

import numpy as np
import pytest

from vestige.audit.settings import AuditSettings
from vestige.audit.verdict import look
from vestige.bench import Case, rank, summarise
from vestige.types import DataError

IDS = [f"animals/{name}" for name in ["owl", "fox", "cat", "dog"]] + [f"x/{i}" for i in range(40)]
OWN = ("animals/owl", "animals/fox")


def case(name: str, trait: str, strength: float, draw: np.random.Generator) -> Case:
    table = {f"r{k}": draw.normal(size=len(IDS)) for k in range(8)}
    planted = {"r0": IDS[20], "r1": IDS[30]}
    table["r0"][20] += 20
    data = draw.normal(size=len(IDS))
    if trait in OWN:
        data[IDS.index(trait)] += strength
    seen = [look(n, data, table, planted, IDS) for n in (32, 96, 256)]
    truth = {i: 0.01 * k for k, i in enumerate(reversed(IDS[:4]))} if trait in OWN else {}
    if truth:
        truth[trait] = 1.0
    return Case(name, trait, truth, {"canary": seen[-1].z, "random": draw.normal(size=44)}, seen)


def test_figures_of_strong_weak_and_clean_data_sets():
    draw = np.random.default_rng(0)
    cases = [case(f"s{i}", OWN[i % 2], 14.0, draw) for i in range(8)]
    cases += [case(f"c{i}", ("none", "clean-0")[i % 2], 0.0, draw) for i in range(6)]
    found = summarise(cases, IDS, frozenset({"animals/owl"}), AuditSettings(base="m"))
    canary = found["methods"]["canary"]
    assert canary["all"] | {"spearman": 0, "median place": 0} == {
        "auroc": 1.0, "top1": 1.0, "top5": 1.0, "median place": 0, "spearman": 0, "data sets": 8,
    }  # fmt: skip
    assert canary["held out"]["data sets"] == canary["not held out"]["data sets"] == 4
    assert found["methods"]["random"]["all"]["auroc"] < 0.9
    assert found["flagged"]["all"]["own trait flagged"] == 8
    assert found["clean"] == {"data sets": 6, "false alarms": 0}
    assert found["rows to a flag"] == [32] * 8
    assert 0.4 <= found["planted"] <= 0.6  # one of two was planted for real
    assert found["cases"]["s0"]["own"] == "animals/owl" and found["cases"]["s0"]["place"] == 1
    assert found["size"]["slope"] == pytest.approx(1 / 14, rel=0.2)


def test_places_are_counted_from_the_largest_and_ties_count_against():
    assert [rank(np.array([3.0, 1.0, 3.0, 2.0]), i) for i in range(4)] == [2, 4, 2, 3]


def test_a_bench_without_a_trait_of_the_library_is_refused():
    with pytest.raises(DataError, match="in the library"):
        summarise([], IDS, frozenset(), AuditSettings(base="m"))
