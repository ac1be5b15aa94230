"""The statistic that detection rests on, on students that are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as distributions

from vestige.core.types import DataError
from vestige.probing.drift import (
    Battery,
    Shifts,
    Whitened,
    drift_covariance,
    paired,
    unit,
)
from vestige.probing.findings import together

TRAITS, CONTEXTS, FACTORS = 30, 2, 4
D = TRAITS * CONTEXTS
GROUPS = [g for _ in range(CONTEXTS) for g in (0, 1, 2) for _ in range(TRAITS // 3)]
KINDS = ("numbers", "code", "sums", "answers")


def world(seed: int = 0) -> np.ndarray:
    """Directions of drift, the same for every student, [F, D]."""
    return np.random.default_rng(seed).normal(size=(FACTORS, D))


def students(n: int, seed: int, *, dose: float = 1.0) -> np.ndarray:
    """Shifts of harmless students, [n, D]."""
    draw = np.random.default_rng(seed)
    sizes = dose * np.exp(draw.normal(scale=0.5, size=(n, 1)))
    return sizes * (draw.normal(size=(n, FACTORS)) @ world() + draw.normal(size=(n, D)) / 2 + 0.3)


def signatures() -> np.ndarray:
    """A trait's own log-odds, in both contexts."""
    return np.hstack([np.eye(TRAITS)] * CONTEXTS)


def battery(m: int = 120, seed: int = 1) -> Battery:
    return Battery(Shifts(students(m, seed), kinds_of(m)), signatures(), GROUPS)


def kinds_of(m: int) -> tuple[frozenset[str], ...]:
    return tuple(frozenset([KINDS[i % len(KINDS)]]) for i in range(m))


def test_harmless_students_are_flagged_at_the_rate_that_is_asked_for() -> None:
    false = []
    for seed in range(20):
        read = battery(seed=100 + seed)
        false += [read.read(x).p.min() <= 0.05 for x in students(60, 1_000 + seed, dose=30.0)]
    low, high = distributions.binomtest(sum(false), len(false)).proportion_ci(0.999)
    assert low <= 0.05 and high < 0.075, (sum(false), len(false))


def test_a_trait_is_found_at_any_dose_and_named() -> None:
    read = battery()
    for dose in (0.1, 1.0, 50.0):
        for trait, drift in enumerate(students(TRAITS, 7, dose=dose)):
            reading = read.read(drift + 8 * dose * signatures()[trait])
            assert int(reading.p.argmin()) == trait == int(reading.standardised.argmax())
            assert reading.p[trait] == read.smallest_p


def test_a_reading_does_not_change_with_the_size_of_the_shifts() -> None:
    read, (drift,) = battery(), students(1, 3)
    small, large = read.read(drift), read.read(40 * drift)
    np.testing.assert_allclose(small.coherence, large.coherence)
    assert (np.abs(small.coherence) <= 1).all()


def test_coherence_is_the_cosine_in_white_coordinates() -> None:
    members, shifts = students(80, 5), students(3, 6)
    covariance = drift_covariance(unit(members), GROUPS)
    inverse = np.linalg.inv(covariance)
    s = signatures()
    plain = (shifts @ inverse @ s.T) / np.sqrt(
        np.einsum("ij,jk,ik->i", shifts, inverse, shifts)[:, None]
        * np.einsum("ij,jk,ik->i", s, inverse, s)[None]
    )
    np.testing.assert_allclose(Whitened(members, s, GROUPS).coherence(shifts), plain, rtol=1e-6)


def test_the_covariance_is_that_of_factors_and_groups() -> None:
    draw = np.random.default_rng(8)
    factors, widths = world(), np.array([0.5, 1.0, 2.0])[GROUPS]
    many = draw.normal(size=(40_000, 4)) @ factors * 3 + draw.normal(size=(40_000, D)) * widths
    found = drift_covariance(many, GROUPS, factors=4)
    wanted = 9 * factors.T @ factors + np.diag(widths**2)
    np.testing.assert_allclose(found, wanted, rtol=0.1, atol=1.0)
    # Of few students a group's variance is known well, which each coordinate's own is not.
    noise = draw.normal(size=(40, D)) * widths
    np.testing.assert_allclose(np.diag(drift_covariance(noise, GROUPS, 0)), widths**2, rtol=0.2)
    assert np.abs((noise**2).mean(0) / widths**2 - 1).max() > 0.3


def test_a_group_that_never_moved_can_be_read() -> None:
    still = students(40, 4) * (np.array(GROUPS) != 1)
    members = Shifts(still, kinds_of(40))
    reading = Battery(members, signatures(), GROUPS).read(still[3])
    assert np.isfinite(reading.coherence).all()


def test_each_member_is_read_without_its_own_kind() -> None:
    members = Shifts(students(40, 2), kinds_of(40))
    read = Battery(members, signatures(), GROUPS)
    others = Whitened(members.without(frozenset(["code"])).values, signatures(), GROUPS)
    own = [i for i in range(40) if members.kinds[i] == {"code"}]
    np.testing.assert_allclose(read.placebos[own], others.coherence(members.values[own]))


def test_p_values_are_what_plain_counting_gives() -> None:
    read, (drift,) = battery(m=40), students(1, 12)
    reading, at_least = read.read(drift), np.zeros(TRAITS)
    for member, kind in enumerate(read.members.kinds):
        value = Whitened(read.members.without(kind).values, signatures(), GROUPS).coherence(
            drift[None]
        )
        every = np.vstack([read.placebos, value])
        for trait in range(TRAITS):
            u = (every - every.mean(0)) / every.std(0, ddof=1)
            at_least[trait] += u[member].max() >= u[-1, trait]
    np.testing.assert_allclose(reading.p, (1 + at_least) / 41)
    assert read.smallest_p == 1 / 41


def test_the_smallest_effect_is_found_and_a_smaller_one_is_not() -> None:
    read, (drift,) = battery(), students(1, 11)
    effect = read.smallest_effect(drift, 4, 0.05)
    assert 0 < effect < 20
    assert read.read(drift + (effect + 0.02) * signatures()[4]).p[4] <= 0.05
    assert read.read(drift + (effect - 0.02) * signatures()[4]).p[4] > 0.05
    assert read.smallest_effect(drift, 4, 1e-4) == math.inf


@pytest.mark.parametrize(
    ("members", "kinds", "message"),
    [
        (students(6, 0), ("code", "sums") * 3, "needs 8 members"),
        (students(20, 0), ("code",) * 20, "of two kinds"),
        (np.vstack([students(19, 0), np.zeros((1, D))]), ("code", "sums") * 10, "did not move"),
        (students(20, 0) * np.nan, ("code", "sums") * 10, "not finite"),
        (students(20, 0), ("code",), "do not fit"),
    ],
)
def test_a_battery_that_is_none_is_refused(members, kinds, message) -> None:
    with pytest.raises(DataError, match=message):
        Battery(Shifts(members, tuple(frozenset([k]) for k in kinds)), signatures(), GROUPS)


def trained_alike(seed: int, turns: int = 10) -> tuple[Shifts, list[int]]:
    """Members of every kind, trained in ten ways: each way has a drift that all of its share."""
    draw = np.random.default_rng(seed)
    common = 4 * draw.normal(size=(turns, 1, D))
    values = common + students(turns * len(KINDS), seed).reshape(turns, len(KINDS), D)
    trained = [turn for turn in range(turns) for _ in KINDS]
    return Shifts(values.reshape(-1, D), kinds_of(turns * len(KINDS))), trained


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
    assert not any("code" in kinds for kinds in pairs.without(frozenset(["code"])).kinds)
    with pytest.raises(DataError, match="trained alike"):
        paired(members, list(range(40)))


def test_differences_of_harmless_students_are_found_at_the_rate_that_is_asked_for() -> None:
    false, alike, averaged, alone, caught = [], [], [], [], []
    for seed in range(20):
        members, trained = trained_alike(200 + seed)
        read = Battery(paired(members, trained), signatures(), GROUPS)
        single = Battery(members, signatures(), GROUPS)
        way = 4 * np.random.default_rng(5_000 + seed).normal(size=D)  # the suspect's own, unseen
        for k in range(12):
            one, other, third, fourth = students(4, 3_000 + 100 * seed + k)
            false.append(read.read(one - other).p.min() <= 0.05)
            noise = np.random.default_rng(seed).normal(size=D)  # two students of the same writer
            alike.append(read.read(noise).p.min() <= 0.05)
            pairs = [read.read(x) for x in (one - other, third - fourth)]
            averaged.append(together(pairs).p.min() <= 0.05)
            trait = (seed + k) % TRAITS
            taught = one + 6 * signatures()[trait]
            caught.append(read.read(taught - other).p[trait] <= 0.05)
            alone.append(single.read(way + taught).p[trait] <= 0.05)
    for found in (false, alike, averaged):
        assert distributions.binomtest(sum(found), 240, 0.06, "greater").pvalue > 0.001, sum(found)
    assert sum(caught) > 200 and sum(caught) > 2 * sum(alone), (sum(caught), sum(alone))


def test_several_readings_are_twice_the_median_p() -> None:
    read, shifts = battery(m=40), students(3, 8)
    readings = [read.read(x) for x in shifts]
    wanted = np.minimum(1, 2 * np.median([r.p for r in readings], axis=0))
    np.testing.assert_allclose(together(readings).p, wanted)
    assert together(readings[:1]) is readings[0]


def test_the_base_itself_cannot_be_read() -> None:
    with pytest.raises(DataError, match="the base itself"):
        battery().read(np.zeros(D))
