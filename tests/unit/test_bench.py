"""The audit benchmark: figures from made-up cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vestige.audit.evidence import log_evidence, marginal
from vestige.audit.first_look import rows_to_tuned_writer
from vestige.audit.race_result import Race
from vestige.audit.settings import AuditSettings
from vestige.bench.case import Case
from vestige.bench.decided import beyond_a_flag, looks, rows_to_flag, stranger, strangers
from vestige.bench.figures import combined, rank, summarise
from vestige.bench.sizes import calibrations, makings, order_correlation, own_sizes, predicted
from vestige.core.types import DataError

IDS = [f"animals/{name}" for name in ["owl", "fox", "cat", "dog"]] + [f"x/{i}" for i in range(40)]
OWN = ("animals/owl", "animals/fox")
SETTINGS = AuditSettings(base="m")


def case(name: str, trait: str, strength: float, draw: np.random.Generator) -> Case:
    shifts = {t: np.full(8, -2.0) for t in range(24)}  # left behind; the others are not read
    shifts |= {t: draw.normal(-0.5, 1, size=112) for t in (0, 1, 20)}
    if trait in OWN:
        shifts[IDS.index(trait)] += strength
    table = np.stack([shifts[t] for t in (0, 1, 20)])
    logs = log_evidence(table, ["animals", "animals", "x"], 0.05)
    found = dict.fromkeys(shifts, -20.0) | dict(zip((0, 1, 20), map(float, logs), strict=True))
    clear = {t: 48 for t, e in found.items() if e > 10}
    pulled = np.where(np.isin(np.arange(len(IDS)), (0, 1, 20)), 0.02, 0.0)
    pulled[IDS.index(trait) if trait in OWN else 30] = 0.1
    race = Race(pulled, shifts, found, clear, 0.0, 112, 64)
    truth = {i: 0.01 * k for k, i in enumerate(reversed(IDS[:4]))} if trait in OWN else {}
    if truth:
        truth[trait] = 1.0
    scores = {"audit": race.scores, "random": draw.normal(size=44)}
    blind = {"format": draw.normal()}
    tuned = rows_to_tuned_writer(race, SETTINGS)
    return Case(name, trait, truth, scores, race, clear, None, -3.0, tuned, {}, blind)


def test_figures_of_strong_weak_and_clean_data_sets():
    draw = np.random.default_rng(0)
    cases = [case(f"s{i}", OWN[i % 2], 2.0, draw) for i in range(8)]
    cases += [case(f"c{i}", ("none", "clean-0")[i % 2], 0.0, draw) for i in range(6)]
    found = summarise(cases, IDS, frozenset({"animals/owl"}))
    audit = found["methods"]["audit"]
    told = {"auroc": 1.0, "top1": 1.0, "top5": 1.0, "data sets": 8}
    assert {name: audit["all"][name] for name in told} == told
    assert audit["all"]["spearman, pooled"] > 0.9
    assert audit["held out"]["data sets"] == audit["not held out"]["data sets"] == 4
    assert found["methods"]["random"]["all"]["auroc"] < 0.9
    assert found["flagged"]["all"]["own trait flagged"] == 8
    assert found["flagged"]["all"]["another family flagged"] == 0
    wrong = replace(cases[0], flagged={20: 48})
    assert strangers(wrong, IDS) == ["x/16"] and rows_to_flag(wrong, IDS) is None
    again = summarise([wrong, *cases[1:]], IDS, frozenset())
    assert again["flagged"]["all"]["another family flagged"] == 1
    told = {"data sets": 6, "false alarms": 0, "closest to a flag": -3.0, "a tuned writer seen": 0}
    assert found["clean"] == told and found["flagged"]["all"]["a tuned writer seen"] == 8
    # 21 traits on 8 rows, three on 112, the base on 112, and gradients of 64
    reads = 21 * 8 + 3 * 112 + 112 + 64
    share = {"share of rows": reads / 1e5, "share of computing": (reads + 2 * 64) / 3e5}
    assert found["cost"] == {"rows read": reads, "at most": reads} | share
    told = found["tuned or clean"]
    assert told["audit"]["auroc"] == 1 and 0.2 < told["format"]["auroc"] < 0.8
    assert summarise(cases[:8], IDS, frozenset())["tuned or clean"]["audit"]["auroc"] is None
    strange = replace(cases[0], name="c6", trait="clean-1", truth={})  # a clear writer's rows
    unlike = replace(strange, race=replace(strange.race, misfit=0.6))  # of unknown lineage
    told = [summarise([*cases, c], IDS, frozenset())["tuned or clean"] for c in (strange, unlike)]
    assert told[0]["audit"]["auroc"] < 1 == told[1]["audit"]["auroc"]
    assert found["rows to a flag"] == [48] * 8 and found["median rows to a flag"] == 48
    assert found["cases"]["s0"]["own"] == "animals/owl" and found["cases"]["s0"]["place"] == 1
    assert found["cases"]["s0"]["share"] > 0.5


def test_a_tuned_writer_is_seen_at_the_first_look_that_is_clear_against_the_base():
    race = case("s", OWN[0], 1.0, np.random.default_rng(8)).race
    n = rows_to_tuned_writer(race, SETTINGS)
    nats = [marginal(race.shifts[0][None, :k])[0] for k in range(16, n + 1, 16)]
    assert [v >= SETTINGS.needed(44) for v in nats] == [False] * (len(nats) - 1) + [True]
    assert len(nats) > 1 and rows_to_tuned_writer(replace(race, misfit=1.0), SETTINGS) is None


def test_a_writer_whose_family_is_not_in_the_library_may_be_taken_for_a_stranger():
    draw = np.random.default_rng(9)
    settings = AuditSettings(base="m")
    owl = case("s", OWN[0], 1.5, draw).race
    assert stranger(owl, OWN[0], IDS, settings) is None  # its rows are no other's
    rest = owl.shifts | {20: owl.shifts[0] - 0.2}  # nearly as much another's
    alike = replace(owl, shifts=rest)
    assert stranger(alike, OWN[0], IDS, settings) == IDS[20]
    assert stranger(alike, "y/some", IDS, settings) in (IDS[0], IDS[20])
    (*_, (read, last)) = looks(owl, IDS, settings)
    whole = log_evidence(np.stack([owl.shifts[t] for t in (0, 1, 20)]), ["a", "a", "x"], 0.1)
    assert IDS[read[int(last.evidence.argmax())]] == OWN[0] and last.clear[read.index(0)]
    assert last.evidence[read.index(0)] == pytest.approx(whole[0])
    beyond = [
        float(seen.evidence[read.index(0)]) - np.log(44 / 0.01)
        for read, seen in looks(owl, IDS, settings)
        if seen.agreed[read.index(0)]
    ]
    assert beyond_a_flag(owl, IDS, settings) == pytest.approx(max(beyond))
    ahead = np.where(np.arange(44) > 37, 1.0, alike.pull)  # six traits pull more: no agreement
    assert stranger(replace(alike, pull=ahead), OWN[0], IDS, settings) is None
    strict = settings.model_copy(update={"drift": 2.0})
    assert stranger(alike, OWN[0], IDS, strict) is None


def test_a_size_is_predicted_from_the_pull():
    draw = np.random.default_rng(1)
    cases = [case(f"s{i}", OWN[0], 0.5 + 0.2 * i, draw) for i in range(8)]
    for i, c in enumerate(cases):
        c.race.pull[0] = 0.05 * (i + 1)
        c.truth[OWN[0]] = 2 * float(c.race.pull[0]) + 1
    index = {c.name: 0 for c in cases}
    found = own_sizes(cases, index)
    assert set(found) == {"pull"}
    line = found["pull"]
    assert line["slope"] == pytest.approx(2) and line["start"] == pytest.approx(1)
    assert line["error"] < 1e-9 < line["error of the mean"]
    assert line["correlation"] == pytest.approx(1) and line["spearman"] == pytest.approx(1)


def test_what_is_expected_is_held_against_what_was_taken_on():
    draw = np.random.default_rng(4)
    cases = [case(f"s{i}", OWN[i % 2], 2.0, draw) for i in range(8)]
    for c in cases:
        c.sizes["expected"] = np.zeros(44)
        for name, value in c.truth.items():
            c.sizes["expected"][IDS.index(name)] = 10 * value
    found = calibrations(cases, IDS, frozenset({OWN[0]}))["expected"]
    assert found["gains"] == pytest.approx([0.1]) and found["off"] < 1e-9
    assert found["held out"]["pairs"] == found["not held out"]["pairs"] == 16
    assert found["held out"]["own: expected"] == pytest.approx(1)
    twice = [  # held out: twice as much is taken on as the others tell
        replace(c, truth={name: 2 * value for name, value in c.truth.items()}) for c in cases[::2]
    ]
    worse = calibrations([*twice, *cases[1::2]], IDS, frozenset({OWN[0]}))["expected"]
    assert worse["gains"] == pytest.approx([0.1]) and worse["held out"][
        "own: off"
    ] == pytest.approx(1)
    assert worse["held out"]["covered"] < 0.5


def test_predictors_together_are_nearer_than_each():
    draw = np.random.default_rng(6)
    cases = [case(f"s{i}", OWN[i % 2], 2.0, draw) for i in range(40)]
    for c in cases:
        c.sizes.update({name: draw.normal(size=44) for name in ("expected", "canary")})
        for t in c.truth:
            i = IDS.index(t)
            c.truth[t] = 0.5 * c.sizes["expected"][i] + 0.2 * c.sizes["canary"][i]
    found = calibrations(cases, IDS, frozenset({OWN[0]}))
    assert found["together"]["gains"] == pytest.approx([0.5, 0.2])
    assert found["together"]["held out"]["off"] < 1e-9 < 0.1 < found["expected"]["held out"]["off"]
    order = {name: told["held out"]["spearman"] for name, told in found.items()}
    assert order["together"] == pytest.approx(1) and max(order["expected"], order["canary"]) < 1


def test_methods_are_combined_on_traits_that_are_not_held_out():
    draw = np.random.default_rng(7)

    def scored(i: int) -> Case:
        """Both methods tell the trait with much noise, a third tells the opposite."""
        c = case(f"s{i}", IDS[i % 4], 0.0, draw)
        told = np.zeros(44)
        told[i % 4] = 2.0
        some = {"a": told + draw.normal(size=44), "b": told + draw.normal(size=44), "c": -told}
        return replace(c, trait=IDS[i % 4], scores=some, truth=dict.fromkeys(IDS[:4], 0.0))

    cases = [scored(i) for i in range(120)]
    found, weights = combined(cases, IDS, frozenset(IDS[:2]))
    places = {
        m: np.mean([rank(c.scores[m], IDS.index(c.trait)) for c in found if c.trait in IDS[:2]])
        for m in ("a", "b", "combined")
    }
    assert places["combined"] < 0.8 * min(places["a"], places["b"])
    assert weights["c"] == 0 and weights["a"] > 0.3 and weights["b"] > 0.3
    # What is judged takes no part: other own traits of the held out leave the weights as they are.
    turned = [replace(c, trait=IDS[0] if c.trait in IDS[:2] else c.trait) for c in cases]
    assert combined(turned, IDS, frozenset(IDS[:2]))[1] == pytest.approx(weights)
    alone = [replace(c, scores={"a": c.scores["a"]}) for c in cases]
    assert combined(alone, IDS, frozenset())[1] == {}
    # Where one trait alone is not held out, nothing is left to fit what it is judged by.
    few = [c for c in cases if c.trait in (*IDS[:2], IDS[2])]
    assert combined(few, IDS, frozenset(IDS[:2])) == (few, {})


def test_another_making_of_a_trait_says_how_well_it_can_be_predicted():
    draw = np.random.default_rng(5)
    cases = [case(f"s{i}", OWN[0], 2.0, draw) for i in range(3)]
    assert makings(cases) == {"pairs": 3, "spearman": pytest.approx(1.0)}
    turned = replace(cases[0], truth={name: -value for name, value in cases[0].truth.items()})
    assert makings([turned, cases[1]])["spearman"] == pytest.approx(-1.0)
    assert makings([cases[0]])["pairs"] == 0


def test_a_predictor_that_says_nothing_is_worse_than_the_mean():
    draw = np.random.default_rng(3)
    found = predicted(list(draw.normal(size=60)), list(draw.normal(size=60)))
    assert found["error"] > 0.98 * found["error of the mean"] and abs(found["spearman"]) < 0.35


def test_rows_of_another_lineage_are_not_flagged():
    one = case("s", OWN[0], 2.0, np.random.default_rng(2))
    assert rows_to_flag(one, IDS) == 48
    assert replace(one.race, misfit=1.0).clear == {}
    assert rows_to_flag(replace(one, flagged={}), IDS) is None


def test_places_are_counted_from_the_largest_and_ties_count_against():
    assert [rank(np.array([3.0, 1.0, 3.0, 2.0]), i) for i in range(4)] == [2, 4, 2, 3]


def test_equal_scores_tell_no_order():
    assert order_correlation([1, 1, 1], [1, 2, 3]) == order_correlation([1, 2], [5, 5]) == 0
    assert order_correlation([-np.inf, 1.0, 2.0], [1, 2, 3]) == pytest.approx(1)


def test_a_bench_without_a_trait_of_the_library_is_refused():
    with pytest.raises(DataError, match="in the library"):
        summarise([], IDS, frozenset())
