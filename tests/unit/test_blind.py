"""Baselines that know of no trait: what they see, and what they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vestige.audit.settings import AuditSettings
from vestige.bench.blind import apart, blind, form, update_norm
from vestige.bench.data_sets import diluted
from vestige.core.types import Message, Row
from vestige.probing.base_session import BaseSession
from vestige.probing.directions import token_logprobs
from vestige.probing.row_format import RowFormat


@pytest.fixture
def session(folders, tmp_path) -> BaseSession:
    settings = AuditSettings(base=str(folders["llama"]), precision="fp32", traits=("colours",))
    return BaseSession(settings, cache=tmp_path)


def rows_of(texts: list[str]) -> list[Row]:
    return [
        Row(str(i), (Message("user", f"Continue {i % 4}"),), text, {})
        for i, text in enumerate(texts)
    ]


def test_the_form_of_a_row_counts_every_character_once():
    assert form("7 a1,\n1") == [7, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1, 1, 1]
    assert form("") == [0] * 15


def test_a_share_of_the_rows_is_the_writers_evenly_spread():
    rows, others = rows_of(["own"] * 16), rows_of(["base"] * 8)
    assert [r.completion for r in diluted(rows, others, 0.25)] == [*["base"] * 3, "own"] * 4
    some = [r.completion == "own" for r in diluted(rows, others, 0.3)]
    assert sum(some) == 4 and all(sum(some[i : i + 8]) in (2, 3) for i in range(9))
    assert [r.id for r in diluted(rows, others, 0.5)][:4] == ["0", "1", "2", "3"]


def test_columns_apart_by_their_standard_error():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(400, 3)), draw.normal(size=(400, 3))
    assert apart(a, b) < 3.5
    assert apart(a + np.array([0, 0, 1]), b) == pytest.approx(np.sqrt(200), abs=3)
    assert apart(np.ones((5, 2)), np.ones((5, 2))) == 0


def test_the_update_norm_is_that_of_the_mean_gradient(session: BaseSession):
    rows = rows_of(["3, 4", "9, 9", "12, 7", "5, 88"])
    row_format = RowFormat.of(session.lm, rows, 8)
    found = update_norm(session, row_format, rows)
    assert session.weights.untouched
    parameters = session.weights.train(session.trainable, seed=0)
    examples = row_format.examples(session.lm, rows)
    torch.cat(token_logprobs(session.lm, examples, row_format)).sum().backward()
    wanted = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm() / 4
    assert found == pytest.approx(float(wanted), rel=1e-3) and found > 0


def test_rows_of_the_base_are_like_its_own_and_others_are_not(session: BaseSession):
    like = rows_of(["11, 2"] * 128)
    row_format = RowFormat.of(session.lm, like, 8)
    session.weights.freeze()
    usual, clean = (row_format.write(session.lm, like, seed=seed) for seed in (1, 2))
    same = blind(session, row_format, clean, usual)
    other = blind(session, row_format, rows_of(["11, 11"] * 128), usual)
    assert same["format"] < 4 and same["loss level"] < 4 and 0.5 < same["update norm"] < 2
    assert all(other[name] > 2 * same[name] for name in same) and len(same) == 3
