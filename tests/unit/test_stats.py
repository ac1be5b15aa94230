"""Closed forms, independent references, coverage by simulation, and errors of ``core.stats``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as sp

from vestige.core import stats
from vestige.core.types import ConfigError, DataError

NUMBERS = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=12)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)
INVARIANCE = settings(max_examples=40, deadline=None)


def coverage(make: Callable[[], tuple[float, float]], truth: float, runs: int) -> float:
    """Share of ``runs`` simulated intervals that contain ``truth``."""
    return sum(low <= truth <= high for low, high in (make() for _ in range(runs))) / runs


# t interval


def test_t_interval_closed_form():
    # n = 3: t(0.95, 2) = 0.95 sqrt(2 / (1 - 0.95^2)), the quantile of 2 degrees of freedom.
    t = 0.95 * math.sqrt(2 / (1 - 0.95**2))
    got = stats.t_interval([1.0, 2.0, 3.0], units="nats")
    assert got.value == pytest.approx(2.0)
    assert got.low == pytest.approx(2 - t / math.sqrt(3))
    assert got.high == pytest.approx(2 + t / math.sqrt(3))
    assert (got.n, got.n_clusters, got.level, got.units) == (3, 3, 0.95, "nats")
    assert got.method == "t over seeds"
    assert stats.t_interval([0.5, 0.5]).half_width == 0


def test_t_interval_agrees_with_scipy():
    values = np.random.default_rng(1).normal(size=9)
    want = sp.ttest_1samp(values, 0).confidence_interval(0.9)
    got = stats.t_interval(values, level=0.9)
    assert (got.low, got.high) == pytest.approx((want.low, want.high))


@pytest.mark.parametrize("n", [3, 8])
def test_t_interval_covers(n: int):
    rng = np.random.default_rng(n)

    def make() -> tuple[float, float]:
        got = stats.t_interval(rng.normal(2.0, 3.0, n))
        return got.low, got.high

    assert coverage(make, 2.0, 2000) == pytest.approx(0.95, abs=0.02)  # 4 standard errors


@INVARIANCE
@given(NUMBERS, st.randoms())
def test_means_do_not_depend_on_order(values: list[float], random):
    questions = [i // 2 for i in range(len(values))]
    shuffled = list(zip(values, questions, strict=True))
    random.shuffle(shuffled)
    again = [v for v, _ in shuffled]
    a, b = stats.t_interval(values), stats.t_interval(again)
    assert (a.low, a.high) == pytest.approx((b.low, b.high), abs=1e-9)
    assume(len(values) > 2)
    a, b = (
        stats.cluster_mean(values, questions),
        stats.cluster_mean(again, [q for _, q in shuffled]),
    )
    assert (a.low, a.high) == pytest.approx((b.low, b.high), abs=1e-6)


# Cluster-robust mean


def test_cluster_mean_of_equal_clusters_is_the_t_interval_of_their_means():
    rng = np.random.default_rng(5)
    table = rng.normal(size=(6, 1)) + rng.normal(size=(6, 10))
    got = stats.cluster_mean(table.ravel(), np.repeat(list("abcdef"), 10), level=0.9)
    want = stats.t_interval(table.mean(axis=1), level=0.9)
    assert (got.value, got.low, got.high) == pytest.approx((want.value, want.low, want.high))
    assert (got.n, got.n_clusters) == (60, 6)


def test_cluster_mean_agrees_with_the_sum_over_pairs():
    values, clusters = [0.0, 1.0, 1.0, 5.0, 2.0, 2.5], ["a", "a", "b", "c", "c", "c"]
    mean = sum(values) / 6
    pairs = sum(
        (values[i] - mean) * (values[j] - mean)
        for i, j in itertools.product(range(6), repeat=2)
        if clusters[i] == clusters[j]
    )
    half = sp.t.ppf(0.975, 2) * math.sqrt(1.5 * pairs) / 6
    assert stats.cluster_mean(values, clusters).half_width == pytest.approx(half)


def test_cluster_mean_covers_where_pooling_does_not():
    rng, labels = np.random.default_rng(6), np.repeat(np.arange(12), 8)
    naive = []

    def make() -> tuple[float, float]:
        values = (1.0 + rng.normal(size=(12, 1)) + rng.normal(size=(12, 8))).ravel()
        pooled = stats.t_interval(values)
        naive.append(pooled.low <= 1.0 <= pooled.high)
        got = stats.cluster_mean(values, labels)
        return got.low, got.high

    assert coverage(make, 1.0, 1500) == pytest.approx(0.95, abs=0.023)
    assert np.mean(naive) < 0.75


# Wilson


@pytest.mark.parametrize(("k", "n"), [(0, 5), (5, 5), (3, 10), (1, 200), (0, 1)])
def test_proportion_interval_agrees_with_scipy(k: int, n: int):
    got = stats.proportion_interval(k, n, level=0.9)
    want = sp.binomtest(k, n).proportion_ci(0.9, method="wilson")
    assert (got.low, got.high) == pytest.approx((want.low, want.high), abs=1e-12)
    assert 0 <= got.low <= got.value <= got.high <= 1


def test_proportion_interval_closed_form_at_zero():
    z2 = sp.norm.ppf(0.975) ** 2
    assert stats.proportion_interval(0, 20).high == pytest.approx(z2 / (20 + z2))
    assert all(stats.proportion_interval(0, n).low == 0.0 for n in range(1, 60))
    assert all(stats.proportion_interval(n, n).high == 1.0 for n in range(1, 60))


def test_proportion_interval_covers_on_average():
    # Exact coverage over all outcomes, averaged over p: Wilson oscillates about its level.
    n = 30
    intervals = [stats.proportion_interval(k, n) for k in range(n + 1)]
    rates = np.linspace(0.05, 0.95, 181)
    exact = [
        sum(
            float(sp.binom.pmf(k, n, p))
            for k, got in enumerate(intervals)
            if got.low <= p <= got.high
        )
        for p in rates
    ]
    assert np.mean(exact) == pytest.approx(0.95, abs=0.01)


# t test


def test_t_test_closed_form():
    # 2 degrees of freedom: two-sided p = 1 - t / sqrt(t^2 + 2), here with t^2 = 12.
    p = 1 - math.sqrt(12 / 14)
    assert stats.t_test_p([1, 2, 3], alternative="two-sided") == pytest.approx(p)
    assert stats.t_test_p([1, 2, 3]) == pytest.approx(p / 2)
    assert stats.t_test_p([-1, -2, -3]) == pytest.approx(1 - p / 2)


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_t_test_agrees_with_scipy(alternative):
    values = np.random.default_rng(8).normal(0.4, 1, 7)
    _, want = sp.ttest_1samp(values, 0, alternative=alternative)
    assert stats.t_test_p(values, alternative=alternative) == pytest.approx(want)


# Multiplicity


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.2 times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.2.
    assert stats.holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]


@INVARIANCE
@given(P_VALUES, st.randoms())
def test_holm_is_monotone_bounded_and_ignores_order(p: list[float], random):
    got = stats.holm(p)
    assert all(before <= after + 1e-12 and after <= 1 for before, after in zip(p, got, strict=True))
    by_p = [after for _, after in sorted(zip(p, got, strict=True))]
    assert all(x <= y + 1e-12 for x, y in itertools.pairwise(by_p))
    order = list(range(len(p)))
    random.shuffle(order)
    assert stats.holm([p[i] for i in order]) == pytest.approx([got[i] for i in order], abs=1e-12)


def test_holm_holds_the_familywise_rate():
    rng = np.random.default_rng(10)
    hits = [min(stats.holm(rng.uniform(size=5))) <= 0.1 for _ in range(2000)]
    assert np.mean(hits) == pytest.approx(1 - (1 - 0.1 / 5) ** 5, abs=0.027)


# Specificity


def slow_contrast(matrix: np.ndarray) -> float:
    """The diagonal contrast of one seed, cell by cell."""
    k = len(matrix)
    parts = [
        matrix[i][i] - sum(matrix[j][i] for j in range(k) if j != i) / (k - 1) for i in range(k)
    ]
    return sum(parts) / k


def cross(rng: np.random.Generator, seeds: int, effects: np.ndarray) -> np.ndarray:
    """Shifts with a large drift of each trait, seed by seed, and question noise on every cell."""
    k = len(effects)
    drift = rng.normal(2.0, 1.0, (1, 1, k)) + rng.normal(0.0, 0.5, (seeds, 1, k))
    strength = rng.normal(1.0, 0.2, (seeds, 1, 1))
    questions = rng.normal(0.0, 0.6, (seeds, k, k, 10)).mean(axis=3)
    return drift + strength * np.diag(effects) + questions


def test_specificity_by_hand():
    one, two = [[5.0, 1.0], [2.0, 4.0]], [[3.0, 1.0], [2.0, 2.0]]
    got = stats.specificity([one, two], units="nats")
    assert got.per_trait.tolist() == [[3.0, 3.0], [1.0, 1.0]]
    assert got.seed_contrasts.tolist() == [3.0, 1.0]
    assert got.contrast.value == 2.0
    assert got.contrast.half_width == pytest.approx(sp.t.ppf(0.975, 1))
    assert (got.contrast.n_clusters, got.contrast.units) == (2, "nats")
    assert got.matrix.tolist() == [[4.0, 1.0], [2.0, 3.0]]
    assert got.low[0, 1] == got.high[0, 1] == 1.0
    cell = stats.t_interval([5.0, 3.0])
    assert (got.low[0, 0], got.high[0, 0]) == pytest.approx((cell.low, cell.high))


def test_specificity_agrees_with_a_slow_reference():
    cube = np.random.default_rng(11).normal(size=(3, 5, 5))
    got = stats.specificity(cube)
    assert got.seed_contrasts == pytest.approx([slow_contrast(m) for m in cube])
    assert got.contrast.value == pytest.approx(got.per_trait.mean())


def test_specificity_cancels_drift_and_follows_relabelling():
    rng = np.random.default_rng(12)
    cube, drift = rng.normal(size=(4, 3, 3)), rng.normal(scale=10, size=(4, 1, 3))
    plain, drifted = stats.specificity(cube), stats.specificity(cube + drift)
    assert drifted.seed_contrasts == pytest.approx(plain.seed_contrasts)
    assert drifted.per_trait == pytest.approx(plain.per_trait)
    order = [2, 0, 1]
    renamed = stats.specificity(cube[:, order][:, :, order])
    assert renamed.contrast.value == pytest.approx(plain.contrast.value)
    assert renamed.per_trait == pytest.approx(plain.per_trait[:, order])


@pytest.mark.parametrize("effects", [[0.0, 0.0, 0.0], [0.4, 0.7, 1.0]])
def test_specificity_contrast_covers(effects: list[float]):
    rng, truth = np.random.default_rng(13), float(np.mean(effects))

    def make() -> tuple[float, float]:
        got = stats.specificity(cross(rng, 4, np.array(effects))).contrast
        return got.low, got.high

    assert coverage(make, truth, 1500) == pytest.approx(0.95, abs=0.023)


# Rank


def test_rank_of_gives_ties_the_worst_place():
    assert [stats.rank_of([3.0, 1.0, 3.0, 5.0], i) for i in range(4)] == [3, 4, 3, 1]
    assert stats.rank_of([2.0] * 20, 7) == 20


# Planning


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("half_width", [3.0, 1.0, 0.37, 0.15])
def test_seeds_needed_is_the_smallest(half_width: float, level: float):
    def half(n: int) -> float:
        return float(sp.t.ppf((1 + level) / 2, n - 1)) / math.sqrt(n)

    want = next(n for n in range(2, 10_000) if half(n) <= half_width)
    assert stats.seeds_needed(1.0, half_width, level=level) == want
    assert stats.smallest_contrast(1.0, want, level=level) == pytest.approx(half(want))


@pytest.mark.parametrize("seeds", range(2, 40))
def test_seeds_needed_inverts_smallest_contrast(seeds: int):
    assert stats.seeds_needed(0.3, stats.smallest_contrast(0.3, seeds)) == seeds
    assert stats.seeds_needed(0.0, 0.1) == 2


@pytest.mark.parametrize("half_width", [0.6, 0.7, 1.0, 4.0])
def test_questions_needed_is_the_smallest(half_width: float):
    def half(questions: int) -> float:
        sd = math.sqrt(0.5**2 + 1.5**2 / questions)
        return stats.smallest_contrast(sd, 6)

    got = stats.questions_needed(0.5, 1.5, half_width, 6)
    assert got == next(q for q in range(1, 100_000) if half(q) <= half_width)
    assert all(stats.questions_needed(0.5, 1.5, half(q), 6) == q for q in range(1, 60))


def test_the_spread_within_questions_is_unbiased():
    """Four runs and 24 questions: dividing by all cells but one would give 15% less."""
    draw = np.random.default_rng(0)
    runs, questions = draw.normal(0, 2, (4000, 4, 1)), draw.normal(0, 3, (4000, 1, 24))
    tables = runs + questions + draw.normal(0, 1.5, (4000, 4, 24))
    variance = np.mean([stats.spread_within(table) ** 2 for table in tables])
    assert variance == pytest.approx(1.5**2, rel=0.01)
    for table in (np.zeros((1, 5)), np.zeros((5, 1))):
        with pytest.raises(DataError, match="two runs and two questions"):
            stats.spread_within(table)


def test_questions_needed_names_the_smallest_reachable_half_width():
    reachable = stats.smallest_contrast(0.5, 3)
    with pytest.raises(DataError, match=f"{reachable:.4g}.*at least 7"):
        stats.questions_needed(0.5, 1.0, 0.5, 3)
    with pytest.raises(DataError, match="at least 4"):
        stats.questions_needed(0.5, 1.0, reachable, 3)
    assert stats.questions_needed(0.5, 0.0, reachable, 3) == 1
    with pytest.raises(DataError, match="smallest reachable"):
        stats.questions_needed(0.5, 0.0, reachable / 2, 3)


# Errors

NAN = float("nan")
ONE_SEED = np.zeros((1, 2, 2))
MISSING = np.array([[[1.0, NAN], [0.0, 1.0]]] * 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.t_interval([]), "no values"),
        (lambda: stats.t_interval([1.0]), "at least two seeds"),
        (lambda: stats.t_interval([1.0, NAN]), r"1 of 2 values are NaN.*\[1\]"),
        (lambda: stats.t_interval([1.0, math.inf]), "infinite"),
        (lambda: stats.t_interval(np.zeros((2, 2))), "flat list"),
        (lambda: stats.cluster_mean([1.0, 2.0], ["a", "a"]), "two clusters"),
        (lambda: stats.cluster_mean([1.0, 2.0], ["a"]), "2 values but 1"),
        (lambda: stats.proportion_interval(0, 0), "at least one trial"),
        (lambda: stats.proportion_interval(3, 2), "impossible"),
        (lambda: stats.t_test_p([1.0]), "at least two seeds"),
        (lambda: stats.t_test_p([0.1, 0.1, 0.1]), "values that differ"),
        (lambda: stats.holm([]), "no values"),
        (lambda: stats.holm([0.5, 1.5]), "between 0 and 1"),
        (lambda: stats.specificity(ONE_SEED), "at least two seeds"),
        (lambda: stats.specificity(MISSING), r"2 of 8 .*\[0, 0, 1\]"),
        (lambda: stats.specificity(np.zeros((2, 2, 3))), r"shape \(2, 2, 3\)"),
        (lambda: stats.specificity(np.zeros((2, 1, 1))), "two traits"),
        (lambda: stats.specificity(np.zeros((0, 2, 2))), "no values"),
        (lambda: stats.rank_of([1.0, NAN], 0), "NaN"),
        (lambda: stats.rank_of([1.0], 1), "outside"),
        (lambda: stats.rank_of([1.0], -1), "outside"),
        (lambda: stats.smallest_contrast(1.0, 1), "at least two seeds"),
        (lambda: stats.smallest_contrast(-1.0, 3), "sd is -1.0"),
        (lambda: stats.seeds_needed(1.0, 0.0), "half_width"),
        (lambda: stats.seeds_needed(NAN, 1.0), "sd is nan"),
        (lambda: stats.questions_needed(1.0, -1.0, 9.0, 3), "sd_within_question"),
        (lambda: stats.questions_needed(1.0, 1.0, 9.0, 1), "at least two seeds"),
    ],
)
def test_unusable_input_raises(call: Callable[[], object], message: str):
    with pytest.raises(DataError, match=message):
        call()


@pytest.mark.parametrize("level", [0.0, 1.0, 95, NAN])
@pytest.mark.parametrize(
    "call",
    [
        lambda level: stats.t_interval([1, 2], level=level),
        lambda level: stats.cluster_mean([1, 2], [1, 2], level=level),
        lambda level: stats.proportion_interval(1, 2, level=level),
        lambda level: stats.specificity(np.zeros((2, 2, 2)), level=level),
        lambda level: stats.seeds_needed(1.0, 1.0, level=level),
        lambda level: stats.questions_needed(1.0, 1.0, 1.0, 3, level=level),
    ],
)
def test_a_level_outside_0_to_1_raises(call: Callable[[float], object], level: float):
    with pytest.raises(ConfigError, match="level"):
        call(level)


def test_unknown_options_raise():
    with pytest.raises(ConfigError, match="valid: greater, two-sided"):
        stats.t_test_p([1, 2], alternative="less")  # type: ignore[arg-type]
