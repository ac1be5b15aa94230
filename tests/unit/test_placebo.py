"""The null from answers that nobody was taught."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestige.core.stats import placebo, placebo_p
from vestige.core.types import DataError


@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 10_000))
def test_it_is_the_share_of_all_combinations(teachers: int, untaught: int, seed: int):
    values = np.random.default_rng(seed).normal(size=(teachers, teachers + untaught))
    own, others = list(range(teachers)), list(range(teachers, teachers + untaught))
    observed = sum(values[i, i] for i in range(teachers))
    every = product(*[[i, *others] for i in range(teachers)])
    at_least = [sum(values[i, c] for i, c in enumerate(some)) >= observed - 1e-9 for some in every]
    assert placebo_p(values, own, others) == pytest.approx(np.mean(at_least))


def test_it_is_uniform_where_nothing_is_passed_on():
    draw = np.random.default_rng(0)
    p = [placebo_p(draw.normal(size=(2, 20)), [0, 1], range(2, 20)) for _ in range(2000)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.015)
    assert min(p) >= 1 / 19**2


def test_many_combinations_are_drawn(monkeypatch):
    draw = np.random.default_rng(1)
    values, own = draw.normal(size=(3, 20)), [0, 1, 2]
    exact = placebo_p(values, own, range(3, 20))
    monkeypatch.setattr(placebo, "MOST", 5000)
    assert placebo_p(values, own, range(3, 20)) == pytest.approx(exact, abs=0.03)
    values[[0, 1, 2], own] = 50
    assert placebo_p(values, own, range(3, 20)) <= 1 / 1000


def test_every_teacher_needs_its_own_answer_and_some_are_untaught():
    with pytest.raises(DataError, match="some must be taught by none"):
        placebo_p(np.zeros((2, 4)), [0, 1], [])
    with pytest.raises(DataError, match="every teacher needs its own answer"):
        placebo_p(np.zeros((2, 4)), [0], [2, 3])
    with pytest.raises(DataError, match="NaN"):
        placebo_p([[np.nan, 0.0]], [0], [1])
