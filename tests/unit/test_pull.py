"""The pull: a step along probes from rows' gradients. Numpy only."""

from __future__ import annotations

import numpy as np
import pytest

from vestige.audit.pull import RIDGE, pull


def products(draw: np.random.Generator, n: int, step: np.ndarray, probes: np.ndarray) -> np.ndarray:
    """Products of n rows of a writer at ``step`` along ``probes`` [T, d], where gradients are
    normal: F = probes probes', and a drift that all traits share."""
    gradients = draw.normal(size=(n, probes.shape[1])) + step @ probes
    return gradients @ probes.T + draw.normal(size=(n, 1))


def test_it_is_the_ridge_regression_of_its_formula():
    draw = np.random.default_rng(0)
    data, usual = draw.normal(size=(9, 4)), draw.normal(size=(12, 4))
    data[:, 2] += 1
    x, u = (part - part.mean(1, keepdims=True) for part in (data, usual))
    f = (8 * np.cov(x.T) + 11 * np.cov(u.T)) / 19
    w = pull(data, usual)
    ridge = RIDGE * np.trace(f) / 4
    assert np.allclose(f @ w + ridge * w, x.mean(0) - u.mean(0))
    assert w.argmax() == 2


def test_relatives_do_not_drown_the_writer_as_they_do_without_the_covariance():
    draw = np.random.default_rng(1)
    first, plain = 0, 0
    for k in range(60):
        probes = draw.normal(size=(30, 60)) + np.repeat(draw.normal(size=(6, 60)), 5, axis=0)
        probes *= draw.uniform(0.05, 0.2, size=(30, 1))  # some are longer than others
        step = np.where(np.arange(30) == k % 30, 0.6, 0.0)
        usual = products(draw, 256, np.zeros(30), probes)
        data = products(draw, 64, step, probes)
        first += int(pull(data, usual).argmax()) == k % 30
        plain += int((data.mean(0) - usual.mean(0)).argmax()) == k % 30
    assert first >= 45 and first >= plain + 8


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 40), (40, 1), (3, 2)])
def test_few_rows_give_a_pull_too(n, m):
    draw = np.random.default_rng(2)
    found = pull(draw.normal(size=(n, 6)), draw.normal(size=(m, 6)))
    assert found.shape == (6,) and np.isfinite(found).all()


def test_rows_that_are_the_reference_pull_nowhere():
    rows = np.random.default_rng(3).normal(size=(50, 6))
    assert np.allclose(pull(rows, rows), 0)
    assert np.allclose(pull(np.zeros((3, 2)), np.zeros((3, 2))), 0)
