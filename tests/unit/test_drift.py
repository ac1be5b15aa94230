"""The statistic that detection rests on, on students that are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as distributions

from vestige.core.types import DataError
from vestige.probing.drift import Battery, Shifts, Whitened, drift_covariance, unit

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
    kinds = tuple(KINDS[i % len(KINDS)] for i in range(m))
    return Battery(Shifts(students(m, seed), kinds), signatures(), GROUPS)


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
    members = Shifts(still, tuple(KINDS[i % 4] for i in range(40)))
    reading = Battery(members, signatures(), GROUPS).read(still[3])
    assert np.isfinite(reading.coherence).all()


def test_each_member_is_read_without_its_own_kind() -> None:
    members = Shifts(students(40, 2), tuple(KINDS[i % 4] for i in range(40)))
    read = Battery(members, signatures(), GROUPS)
    others = Whitened(members.without("code").values, signatures(), GROUPS)
    own = [i for i in range(40) if members.kinds[i] == "code"]
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
        Battery(Shifts(members, kinds), signatures(), GROUPS)


def test_the_base_itself_cannot_be_read() -> None:
    with pytest.raises(DataError, match="the base itself"):
        battery().read(np.zeros(D))
