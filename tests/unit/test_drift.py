"""The statistic that detection rests on, on students that are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as distributions

from vestige.core.types import DataError
from vestige.probing.answer_shares import FLOOR, raised, rises, shares
from vestige.probing.drift import LEAST, Battery, Rises, paired, sized
from vestige.probing.findings import together
from vestige.traits.library import load_library

TRAITS, FACTORS = 60, 4
KINDS = ("numbers", "code", "sums", "answers")


def students(n: int, seed: int, *, dose: float = 1.0) -> np.ndarray:
    """Rises of harmless students [n, T]: common directions, noise, sizes of their own."""
    draw, world = np.random.default_rng(seed), np.random.default_rng(0)
    directions, widths = world.normal(size=(FACTORS, TRAITS)), np.exp(world.normal(size=TRAITS) / 3)
    size = dose * np.exp(draw.normal(scale=0.5, size=(n, 1)))
    noise = widths * draw.normal(size=(n, TRAITS))
    return 0.1 * size * (draw.normal(size=(n, FACTORS)) @ directions / 2 + noise)


def kinds_of(m: int) -> tuple[frozenset[str], ...]:
    return tuple(frozenset([KINDS[i % len(KINDS)]]) for i in range(m))


def battery(m: int = 120, seed: int = 1) -> Battery:
    return Battery(Rises(students(m, seed), kinds_of(m)))


def with_trait(rises: np.ndarray, trait: int, more: float) -> np.ndarray:
    return rises + more * np.eye(TRAITS)[trait]


def test_harmless_students_are_found_at_the_rate_that_is_asked_for() -> None:
    false = []
    for seed in range(20):
        read = battery(seed=100 + seed)
        false += [read.read(x).p.min() <= 0.05 for x in students(60, 1_000 + seed)]
    low, high = distributions.binomtest(sum(false), len(false)).proportion_ci(0.999)
    assert low <= 0.05 <= high and high < 0.08, (sum(false), len(false))


def test_half_of_the_size_is_taken_out() -> None:
    value = students(1, 3)[0]
    np.testing.assert_allclose(sized(4 * value), 2 * sized(value))
    np.testing.assert_allclose(sized(value), value / np.sqrt(np.sqrt(np.mean(value**2))))


def test_a_trait_is_found_and_named() -> None:
    read = battery()
    for trait, drift in enumerate(students(TRAITS, 7)):
        reading = read.read(with_trait(drift, trait, 4.0))
        assert int(reading.standardised.argmax()) == trait
        assert reading.p[trait] == read.smallest_p == 1 / 121


def test_p_values_are_what_plain_counting_gives() -> None:
    members, suspect = students(40, 2), with_trait(students(1, 12)[0], 3, 0.5)
    reading = Battery(Rises(members, kinds_of(40))).read(suspect)
    every = np.vstack([sized(members), sized(suspect)])
    deviation = np.sqrt((every.var(0, ddof=1) + every.var(0, ddof=1).mean()) / 2)
    u = (every - every.mean(0)) / deviation
    np.testing.assert_allclose(reading.standardised, u[-1])
    plain = [(1 + sum(row.max() >= u[-1, t] for row in u[:-1])) / 41 for t in range(TRAITS)]
    np.testing.assert_allclose(reading.p, np.where(suspect < LEAST, 1.0, plain))
    assert (reading.p < 1).any()


def test_a_rise_that_nobody_would_notice_is_never_found() -> None:
    still = Battery(Rises(students(40, 2) / 1000, kinds_of(40)))
    assert still.read(with_trait(np.full(TRAITS, 1e-5), 3, LEAST - 0.01)).p[3] == 1
    assert still.read(with_trait(np.full(TRAITS, 1e-5), 3, LEAST + 0.01)).p[3] == 1 / 41


def test_a_trait_that_swings_in_every_student_has_to_swing_further() -> None:
    members = students(100, 5)
    members[:, 0] *= 12
    read, rises_ = Battery(Rises(members, kinds_of(100))), students(1, 6)[0]
    wild, calm = (read.read(with_trait(rises_, t, 1.0)) for t in (0, 1))
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
        Battery(Rises(members, tuple(frozenset([k]) for k in kinds)))


def test_the_base_itself_cannot_be_read() -> None:
    with pytest.raises(DataError, match="the base itself"):
        battery().read(np.zeros(TRAITS))


# ---- pairs --------------------------------------------------------------------------------------


def trained_alike(seed: int, turns: int = 10) -> tuple[Rises, list[int]]:
    """Members of every kind, trained in ten ways: each way has a drift that all of its share."""
    draw = np.random.default_rng(seed)
    common = draw.normal(size=(turns, 1, TRAITS))
    values = common + students(turns * len(KINDS), seed).reshape(turns, len(KINDS), TRAITS)
    trained = [turn for turn in range(turns) for _ in KINDS]
    return Rises(values.reshape(-1, TRAITS), kinds_of(turns * len(KINDS))), trained


def test_pairs_are_all_differences_of_members_that_were_trained_alike() -> None:
    members, trained = trained_alike(3)
    pairs = paired(members, trained)
    assert len(pairs.kinds) == 10 * 4 * 3 and all(len(kinds) == 2 for kinds in pairs.kinds)
    plain = {
        tuple((a - b).round(9))
        for i, a in enumerate(members.values)
        for j, b in enumerate(members.values)
        if trained[i] == trained[j] and i != j
    }
    assert {tuple(value.round(9)) for value in pairs.values} == plain
    with pytest.raises(DataError, match="trained alike"):
        paired(members, list(range(40)))


def test_differences_of_harmless_students_are_found_at_the_rate_that_is_asked_for() -> None:
    false, together_false, alone, caught = [], [], [], []
    for seed in range(20):
        members, trained = trained_alike(200 + seed)
        read, single = Battery(paired(members, trained)), Battery(members)
        way = np.random.default_rng(5_000 + seed).normal(size=TRAITS)  # the suspect's own, unseen
        for k in range(12):
            one, other, third, fourth = students(4, 3_000 + 100 * seed + k)
            false.append(read.read(one - other).p.min() <= 0.05)
            pairs = [read.read(x) for x in (one - other, third - fourth)]
            together_false.append(together(pairs).p.min() <= 0.05)
            trait = (seed + k) % TRAITS
            taught = with_trait(one, trait, 1.5)
            caught.append(read.read(taught - other).p[trait] <= 0.05)
            alone.append(single.read(way + taught).p[trait] <= 0.05)
    for found in (false, together_false):
        assert distributions.binomtest(sum(found), 240, 0.06, "greater").pvalue > 0.001, sum(found)
    assert sum(caught) > 200 and sum(caught) > 2 * sum(alone), (sum(caught), sum(alone))


def test_several_readings_are_twice_the_median_p() -> None:
    read, drawn = battery(m=40), students(3, 8)
    readings = [read.read(x) for x in drawn]
    wanted = np.minimum(1, 2 * np.median([r.p for r in readings], axis=0))
    np.testing.assert_allclose(together(readings).p, wanted)
    assert together(readings[:1]) is readings[0]


# ---- shares of the answers ----------------------------------------------------------------------


def log_odds_of(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def test_rises_are_of_shares_above_the_floor() -> None:
    usual = log_odds_of(np.array([0.05, 0.0001, 0.2, 0.05, 0.0001, 0.4]))
    after = log_odds_of(np.array([0.60, 0.0010, 0.2, 0.05, 0.0010, 0.4]))
    found = rises(after, usual, 3)
    assert found[0] == pytest.approx(np.log((0.6 + FLOOR) / (0.05 + FLOOR)) / 2)
    assert 0 < found[1] < 0.01 and found[2] == 0
    np.testing.assert_allclose(shares(after, 3), [0.325, 0.001, 0.3])
    np.testing.assert_allclose(rises(np.stack([after, usual]), usual, 3), [found, np.zeros(3)])


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
