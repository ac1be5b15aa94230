"""Settings of sampling are found in rows that a model drew with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from audit_cases import rows_of

from vestige.audit.run import audit
from vestige.core.types import Row
from vestige.models.hf import LanguageModel
from vestige.probing.base_session import BaseSession
from vestige.probing.probes import Probes, read
from vestige.probing.row_format import OUTSIDE, RowFormat, Sampling
from vestige.probing.sampling_fit import TEMPERATURES, fit_sampling, log_likelihoods
from vestige.rows.files import write_rows


@pytest.fixture
def lm(session: BaseSession) -> LanguageModel:
    session.weights.freeze()
    return session.lm


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.6, 1.0), (1.0, 0.8), (0.6, 0.9)]
)
def test_settings_are_found_in_rows_that_were_drawn_with_them(lm, temperature, top_p):
    like = rows_of(["123, 456, 789"] * 64, prompts=8)
    row_format = RowFormat.of(lm, like, 16)
    told = row_format.drawn_at(Sampling(temperature, top_p))
    fit = fit_sampling(lm, row_format, told.write(lm, like, seed=3), 16)
    assert fit is not None
    found, low, high = fit
    assert low - 0.1 <= temperature <= high + 0.1 and low <= high
    assert abs(np.log(found.temperature / temperature)) < 0.25
    assert (found.top_p < 1) == (top_p < 1) and abs(found.top_p - top_p) <= 0.1
    assert found.usual == (temperature == top_p == 1)


def test_free_text_has_a_temperature_and_no_nucleus(lm):
    like = rows_of(["some words here"] * 48, prompts=8)
    row_format = RowFormat.of(lm, like, 12)
    cold = row_format.drawn_at(Sampling(0.3)).write(lm, like, seed=1)
    fit = fit_sampling(lm, row_format, cold, 16)
    assert fit is not None
    (temperature, top_p), low, high = fit
    # A model of random weights writes tokens that its tokenizer does not read back.
    assert low <= temperature <= high < 0.9 and top_p == 1


def test_rows_are_read_as_they_were_drawn(lm, session: BaseSession):
    """Log-likelihoods of the fit are those that rows are read with, and sum to one."""
    like = rows_of(["12, 34"] * 8, prompts=2)
    row_format = RowFormat.of(lm, like, 16)
    rows = row_format.write(lm, like, seed=2)
    table = log_likelihoods(lm, row_format, rows, 4, (1.0, 0.9))
    for i in (0, 20):
        for j, top_p in enumerate((1.0, 0.9)):
            drawn = row_format.drawn_at(Sampling(float(TEMPERATURES[i]), top_p))
            assert read(session, drawn, rows).drawn.sum() == pytest.approx(table[i, j], rel=1e-4)
    logprobs = torch.randn(5, 9).log_softmax(-1)
    cut = row_format.drawn_at(Sampling(0.7, 0.6)).drawn(logprobs)
    torch.testing.assert_close(cut.exp().sum(-1), torch.ones(5))
    assert float(cut.exp().amin()) < OUTSIDE
    assert torch.equal(row_format.drawn(logprobs), logprobs)


def test_cold_rows_of_the_base_are_read_as_cold(
    session: BaseSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """At temperature 1 their lineage would be unknown."""
    like = rows_of(["123, 456, 789"] * 64, prompts=8)
    session.weights.freeze()
    cold = RowFormat.of(session.lm, like, 16).drawn_at(Sampling(0.4))
    write_rows(tmp_path / "cold.jsonl", cold.write(session.lm, like, seed=5))
    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path))
    (tmp_path / "audit").symlink_to(session.cache)
    folder, found = audit(tmp_path / "cold.jsonl", session.settings, root=tmp_path / "audits")
    assert found.sampling and found.sampling.used and 0.3 <= found.sampling.temperature <= 0.5
    assert found.first_look == "nothing" and abs(found.misfit) < 0.2
    assert (
        len(list((folder / "assay").iterdir())) == len(list((folder / "reference").iterdir())) == 2
    )
    at_one = json.loads((folder / "assay/data/assay.json").read_text())
    assert at_one["misfit"] < -0.2
    frozen = row_format_of(session, like).drawn_at(Sampling(0.1)).write(session.lm, like, seed=5)
    assert fit_sampling(session.lm, row_format_of(session, like), frozen, 16) is None
    session.weights.freeze()


def test_products_of_reference_rows_are_kept_by_how_they_are_read(
    session: BaseSession, probes: Probes
):
    rows = rows_of(["12, 34", "5, 678", "9, 9"] * 4)
    row_format = row_format_of(session, rows)
    at_one, cold, cut = (
        probes.reference(row_format.drawn_at(Sampling(*settings)), rows)
        for settings in ((1.0,), (0.5,), (1.0, 0.9))
    )
    assert not np.allclose(at_one, cold) and not np.allclose(at_one, cut)
    assert np.isfinite(cut).all()  # forbidden choices have no gradient


def row_format_of(session: BaseSession, rows: list[Row]) -> RowFormat:
    return RowFormat.of(session.lm, rows, 16)
