"""The statistic that detection rests on, on students that are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as distributions

from vestige.core.types import DataError
from vestige.probing.answer_shares import FLOOR, raised, rises, shares, whole
from vestige.probing.drift import LEAST, Battery, Rises, paired
from vestige.probing.findings import together
from vestige.traits.library import load_library

TRAITS, FACTORS = 60, 4
GROUPS = [0] * 40 + [1] * 20  # words, behaviours
KINDS = ("numbers", "code", "sums", "answers", "prose", "lists", "tables", "letters")


def students(n: int, seed: int, *, kind: int | None = None) -> np.ndarray:
    """Rises of harmless students [n, T]: common directions, noise, and a direction that students of
    one kind of writer share. Behaviours are in a larger unit."""
    draw, world = np.random.default_rng(seed), np.random.default_rng(0)
    directions, widths = world.normal(size=(FACTORS, TRAITS)), np.exp(world.normal(size=TRAITS) / 3)
    noise = widths * draw.normal(size=(n, TRAITS))
    values = draw.normal(size=(n, FACTORS)) @ directions / 2 + noise
    if kind is not None:
        shared = np.random.default_rng(9_000 + kind).standard_t(4, size=TRAITS)
        values += shared * (1 + 0.3 * draw.normal(size=(n, 1)))
    return 0.1 * values * np.where(GROUPS, 20, 1)


def kinds_of(m: int) -> tuple[str, ...]:
    return tuple(KINDS[i % len(KINDS)] for i in range(m))


def of_kinds(m: int, seed: int, first: int = 0) -> Rises:
    """Members of every kind, each kind with its own direction."""
    drawn = [students(m, seed + k, kind=first + k) for k in range(len(KINDS))]
    kinds = tuple(kind for kind in KINDS for _ in range(m))
    return Rises(np.concatenate(drawn), kinds)


def battery(m: int = 120, seed: int = 1) -> Battery:
    return Battery(Rises(students(m, seed), kinds_of(m)), GROUPS)


def with_trait(rises: np.ndarray, trait: int, more: float) -> np.ndarray:
    return rises + more * np.eye(TRAITS)[trait]


def test_harmless_students_are_found_at_the_rate_that_is_asked_for() -> None:
    false = []
    for seed in range(20):
        read = battery(seed=100 + seed)
        false += [read.read(x).p.min() <= 0.05 for x in students(60, 1_000 + seed)]
    low, high = distributions.binomtest(sum(false), len(false)).proportion_ci(0.999)
    assert low <= 0.06 and high < 0.09, (sum(false), len(false))


def test_students_of_a_kind_that_is_not_held_are_found_no_more_often() -> None:
    """What a battery would not stand that reads members by their own kind."""
    false, held = [], []
    for seed in range(40):
        members = of_kinds(15, 10 * seed, first=100 * seed)
        read = Battery(members, GROUPS)
        strangers = students(6, 5_000 + seed, kind=100 * seed + 50)
        false += [read.read(x).p.min() <= 0.05 for x in strangers]
        u = (members.values - members.values.mean(0)) / members.values.std(0, ddof=1)
        largest = u.max(1)
        for x in strangers:  # all members alike, their own kind among them
            own = ((x - members.values.mean(0)) / members.values.std(0, ddof=1)).max()
            held.append((1 + (largest >= own).sum()) / (len(largest) + 1) <= 0.05)
    assert np.mean(false) < 0.09 < np.mean(held), (np.mean(false), np.mean(held))


def test_a_trait_is_found_and_named() -> None:
    read = battery()
    for trait, drift in enumerate(students(TRAITS, 7)):
        reading = read.read(with_trait(drift, trait, 100.0 if GROUPS[trait] else 5.0))
        assert reading.order[0] == trait == int(reading.standardised.argmax())
        assert reading.p[trait] == read.smallest_p == 1 / 121


def test_p_values_are_what_plain_counting_gives() -> None:
    members = of_kinds(5, 2)
    suspect = with_trait(students(1, 12)[0], 3, 0.5)
    reading, groups = Battery(members, GROUPS).read(suspect), np.array(GROUPS)
    at_least, u_of = np.zeros(TRAITS), []
    for kind in KINDS:
        others = members.values[[k != kind for k in members.kinds]]
        variance = others.var(0, ddof=1)
        pooled = np.array([variance[groups == g].mean() for g in GROUPS])
        deviation = np.sqrt(0.8 * variance + 0.2 * pooled)
        u_of.append((suspect - others.mean(0)) / deviation)
        for member in members.values[[k == kind for k in members.kinds]]:
            largest = ((member - others.mean(0)) / deviation).max()
            at_least += largest >= u_of[-1]
    np.testing.assert_allclose(reading.standardised, np.mean(u_of, axis=0))
    plain = np.where(suspect < LEAST, 1.0, (1 + at_least) / 41)
    np.testing.assert_allclose(reading.p, plain)
    assert (reading.p < 1).any()


def test_the_clearest_trait_is_the_first_that_may_be_found() -> None:
    """A rise that nobody would notice is never found, and comes behind those that are."""
    still = Battery(Rises(students(40, 2) / 1000, kinds_of(40)), GROUPS)
    flat = np.full(TRAITS, 1e-5)
    assert still.read(with_trait(flat, 3, LEAST - 0.01)).p[3] == 1
    seen = still.read(with_trait(with_trait(flat, 3, LEAST - 0.01), 5, LEAST + 0.01))
    assert seen.p[5] == 1 / 41 and seen.order[0] == 5


def test_a_trait_that_swings_in_every_student_has_to_swing_further() -> None:
    members = students(100, 5)
    members[:, 0] *= 12
    read = Battery(Rises(members, kinds_of(100)), GROUPS)
    drift = students(1, 6)[0]
    wild, calm = (read.read(with_trait(drift, t, 1.0)) for t in (0, 1))
    assert calm.standardised[1] > 2 * wild.standardised[0] and calm.p[1] < wild.p[0]


def test_the_smallest_effect_is_found_and_a_smaller_one_is_not() -> None:
    read, (drift,) = battery(), students(1, 11)

    def grown(effect: float) -> np.ndarray:
        return with_trait(drift, 4, effect)

    effect = read.smallest_effect(grown, 4, 0.05)
    assert 0 < effect < 5
    assert read.read(grown(effect)).p[4] <= 0.05
    assert read.read(grown(effect - 0.1)).p[4] > 0.05
    assert read.smallest_effect(grown, 4, 1e-4) == math.inf
    assert read.smallest_effect(lambda more: grown(effect + more), 4, 0.05) == 0


@pytest.mark.parametrize(
    ("members", "kinds", "message"),
    [
        (students(6, 0), ("code", "sums") * 3, "needs 8 members"),
        (students(20, 0), ("code",) * 20, "of two kinds"),
        (np.vstack([students(19, 0), np.zeros((1, TRAITS))]), ("a", "b") * 10, "did not move"),
        (students(20, 0) * np.nan, ("code", "sums") * 10, "not finite"),
        (students(20, 0), ("code",), "do not fit"),
    ],
)
def test_a_battery_that_is_none_is_refused(members, kinds, message) -> None:
    with pytest.raises(DataError, match=message):
        Battery(Rises(members, kinds), GROUPS)


def test_the_base_itself_cannot_be_read() -> None:
    with pytest.raises(DataError, match="the base itself"):
        battery().read(np.zeros(TRAITS))


# ---- pairs --------------------------------------------------------------------------------------

REFERENCES = ("numbers", "code", "prose")


def trained_alike(seed: int, turns: int = 10) -> tuple[Rises, list[int]]:
    """Members of every kind, trained in ten ways: each way has a drift that all of its share."""
    draw = np.random.default_rng(seed)
    common = draw.normal(size=(turns, 1, TRAITS)) * np.where(GROUPS, 20, 1)
    values = common + students(turns * len(KINDS), seed).reshape(turns, len(KINDS), TRAITS)
    trained = [turn for turn in range(turns) for _ in KINDS]
    return Rises(values.reshape(-1, TRAITS), kinds_of(turns * len(KINDS))), trained


def test_pairs_are_all_differences_to_references_that_were_trained_alike() -> None:
    members, trained = trained_alike(3)
    pairs = paired(members, trained, REFERENCES)
    assert len(pairs.kinds) == 10 * 3 * 7
    plain = [
        (k, tuple((a - b).round(9)))
        for i, (a, k) in enumerate(zip(members.values, members.kinds, strict=True))
        for j, (b, other) in enumerate(zip(members.values, members.kinds, strict=True))
        if trained[i] == trained[j] and i != j and other in REFERENCES
    ]
    made = [(k, tuple(v.round(9))) for k, v in zip(pairs.kinds, pairs.values, strict=True)]
    assert sorted(made) == sorted(plain)
    for none in (list(range(80)), trained):
        with pytest.raises(DataError, match="trained alike"):
            paired(members, none, REFERENCES if none is not trained else ("lamps",))


def test_differences_of_harmless_students_are_found_at_the_rate_that_is_asked_for() -> None:
    false, together_false, alone, caught = [], [], [], []
    for seed in range(20):
        members, trained = trained_alike(200 + seed)
        read = Battery(paired(members, trained, REFERENCES), GROUPS)
        single = Battery(members, GROUPS)
        way = np.random.default_rng(5_000 + seed).normal(size=TRAITS)  # the suspect's own, unseen
        for k in range(12):
            one, other, third, fourth = students(4, 3_000 + 100 * seed + k)
            false.append(read.read(one - other).p.min() <= 0.05)
            pairs = [read.read(x) for x in (one - other, third - fourth)]
            together_false.append(together(pairs).p.min() <= 0.05)
            trait = (seed + k) % 40
            taught = with_trait(one, trait, 1.5)
            caught.append(read.read(taught - other).p[trait] <= 0.05)
            alone.append(single.read(way + taught).p[trait] <= 0.05)
    for found in (false, together_false):
        assert distributions.binomtest(sum(found), 240, 0.06, "greater").pvalue > 0.001, sum(found)
    assert sum(caught) > 150 and sum(caught) > 2 * sum(alone), (sum(caught), sum(alone))


def test_several_readings_are_twice_the_median_p() -> None:
    read, drawn = battery(m=40), students(3, 8)
    readings = [read.read(x) for x in drawn]
    wanted = np.minimum(1, 2 * np.median([r.p for r in readings], axis=0))
    np.testing.assert_allclose(together(readings).p, wanted)
    assert together(readings[:1]) is readings[0]


# ---- shares of the answers ----------------------------------------------------------------------


def log_odds_of(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def test_rises_are_of_shares_above_the_floor_and_of_behaviours_log_odds() -> None:
    traits = load_library(["harm"]).traits[:3]
    words = load_library(["animals"]).traits[:3]
    usual = log_odds_of(np.array([0.05, 0.0001, 0.2, 0.05, 0.0001, 0.4]))
    after = log_odds_of(np.array([0.60, 0.0010, 0.2, 0.05, 0.0010, 0.4]))
    found = rises(words, after, usual)
    assert found[0] == pytest.approx(np.log((0.6 + FLOOR) / (0.05 + FLOOR)) / 2)
    assert 0 < found[1] < 0.01 and found[2] == 0
    np.testing.assert_allclose(shares(words, after), [0.325, 0.001, 0.3])
    both = rises(words, np.stack([after, usual]), usual)
    np.testing.assert_allclose(both, [found, np.zeros(3)])
    # Of an answer that is never given, or always, nothing would be seen by its share.
    assert whole(traits).all()
    extremes = np.array([-900.0, -20.0, 13.0])
    np.testing.assert_allclose(rises(traits, extremes + 2, extremes), np.full(3, 2.0))


def test_a_logit_that_is_raised_takes_from_its_rivals_alone() -> None:
    traits = load_library().traits
    draw = np.random.default_rng(4)
    logits = {id(t.family): None for t in traits}
    p = np.empty(len(traits))
    scores = draw.normal(size=len(traits))
    for family in logits:
        own = [i for i, t in enumerate(traits) if id(t.family) == family]
        rest = np.exp(draw.normal())  # candidates that are no traits of the library
        p[own] = np.exp(scores[own]) / (np.exp(scores[own]).sum() + rest)
    for trait in (0, 30, len(traits) - 1):
        own = [i for i, t in enumerate(traits) if t.family is traits[trait].family]
        found = raised(traits, np.tile(log_odds_of(p), 2), trait, 1.5).reshape(2, -1)
        after = 1 / (1 + np.exp(-found[0]))
        grown = p[trait] * np.exp(1.5)
        left = 1 - p[trait] + grown
        wanted = p.copy()
        wanted[own] = p[own] / left
        wanted[trait] = grown / left
        np.testing.assert_allclose(after, wanted, rtol=1e-9)
        np.testing.assert_allclose(found[0], found[1])
