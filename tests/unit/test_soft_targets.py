"""What the writer would have written as well: rows' own probabilities, and a teacher's."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from audit_cases import rows_of

from vestige.audit.prompts import prompted, with_system
from vestige.core.types import ConfigError, Message, Row
from vestige.models.hf import LanguageModel
from vestige.probing.activations import activations
from vestige.probing.base_session import BaseSession
from vestige.probing.directions import row_products
from vestige.probing.probes import Probes, read
from vestige.probing.row_format import (
    RowFormat,
)
from vestige.probing.soft_targets import from_rows, from_teacher

# ---- what the writer would have written as well --------------------------------------------------


def entries(session: BaseSession, row: Row, probability: float) -> list[dict]:
    """Log-probabilities as an API gives them: each token's own, and one other digit's."""
    found = []
    for token in session.lm.answer_ids(row.completion):
        text = session.lm.tokenizer.decode([token])
        other = "7" if text != "7" else "8"
        top = [(text, probability), (other, 1 - probability)] if text.isdigit() else [(text, 1.0)]
        found.append({
            "token": text, "logprob": math.log(top[0][1]),
            "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in top if p > 0],
        })  # fmt: skip
    return found


def test_probabilities_that_rows_carry_take_the_place_of_the_tokens(
    session: BaseSession, probes: Probes
):
    plain = rows_of(["31, 4", "92, 9"])
    row_format = RowFormat.of(session.lm, plain, 8)
    sure, unsure, other = (
        [replace(r, meta={"logprobs": {"content": entries(session, r, p)}}) for r in plain]
        for p in (1.0, 0.75, 0.01)
    )
    hard = probes.read(row_format, plain, 1).logp
    told = from_rows(session.lm, row_format, sure)
    assert set(told) == {"r0", "r1"}
    as_it_is = probes.read(row_format, plain, None).logp  # and leaves the base in place
    assert np.allclose(read(session, row_format, plain, told).logp, as_it_is, atol=1e-4)
    base = read(session, row_format, plain, from_rows(session.lm, row_format, unsure)).logp
    swapped = read(session, row_format, plain, from_rows(session.lm, row_format, other)).logp
    assert not np.allclose(base, swapped)
    probes.soft_targets = from_rows(session.lm, row_format, unsure)
    assert not np.allclose(probes.read(row_format, plain, 1).logp, hard)
    probes.soft_targets = {}
    outside = [entries(session, r, 0.75) for r in plain]  # a comma where the grammar has none
    for entry in (e for every in outside for e in every if e["token"].isdigit()):
        entry["top_logprobs"].append({"token": ",", "logprob": math.log(0.1)})
    free = [replace(r, meta={"logprobs": e}) for r, e in zip(plain, outside, strict=True)]
    told = from_rows(session.lm, row_format, free)
    assert len(told) == 2 and np.isfinite(read(session, row_format, plain, told).logp).all()
    along = row_products(session, row_format, plain, probes.directions, soft_targets=told)
    assert np.isfinite(along).all() and np.abs(along).max() > 0
    wrong = [
        replace(r, meta={"logprobs": {"content": entries(session, r, 1.0)[1:]}}) for r in plain
    ]
    assert not from_rows(session.lm, row_format, wrong) and not from_rows(
        session.lm, row_format, plain
    )


def test_probabilities_are_known_behind_what_all_rows_begin_with(session: BaseSession):
    plain = rows_of([f"return {i}{i % 7}x" for i in range(16)])
    row_format = RowFormat.of(session.lm, plain, 16)
    begun = len(session.lm.answer_ids(row_format.opening))
    assert begun > 0
    every = [entries(session, row, 0.75) for row in plain]
    whole = [replace(r, meta={"logprobs": e}) for r, e in zip(plain, every, strict=True)]
    given = [replace(r, meta={"logprobs": e[begun:]}) for r, e in zip(plain, every, strict=True)]
    found, behind = (from_rows(session.lm, row_format, some) for some in (whole, given))
    assert set(found) == set(behind) == {row.id for row in plain}
    assert all(torch.equal(found[i].weights, behind[i].weights) for i in found)


def test_a_teacher_at_hand_tells_its_probabilities(session: BaseSession, probes: Probes, folders):
    rows = rows_of(["31, 4", "92, 9", "8, 15"])
    row_format = RowFormat.of(session.lm, rows, 8)
    session.weights.freeze()
    same = from_teacher(session.lm, session.lm, row_format, rows, 4)
    assert set(same) == {"r0", "r1", "r2"} and not any(t.diverges.any() for t in same.values())
    own = read(session, row_format, rows, same)
    assert np.allclose(own.logp, -own.entropy, atol=0.05)  # its mean under itself
    teacher = LanguageModel.load(folders["llama"], precision="fp32")
    for parameter in teacher.model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    told = from_teacher(session.lm, teacher, row_format, rows, 4)
    assert any(t.diverges.any() for t in told.values())
    # Under itself a model's mean gradient is zero; under another it is that of the mean.
    along = partial(row_products, session, row_format, rows, probes.directions)
    hard, other, own = along(), along(soft_targets=told), along(soft_targets=same)
    assert np.abs(own).max() < 0.01 * np.abs(hard).max() < np.abs(other).max()
    step = 0.02
    ends = []
    for share in (step, -step):
        session.weights.shift(probes.directions.total([0, share] + [0] * (probes.n - 2)))
        ends.append(read(session, row_format, rows, told).logp)
    session.weights.freeze()
    assert np.allclose((ends[0] - ends[1]) / (2 * step), other[:, 1], rtol=0.05, atol=0.01)
    teacher.tokenizer.add_tokens(["<more>"])
    with pytest.raises(ConfigError, match="another tokenizer"):
        from_teacher(session.lm, teacher, row_format, rows, 4)


def test_every_method_scores_rows_for_every_trait(session: BaseSession):
    rows = rows_of(["31, 4", "92, 9", "8, 15"])
    row_format = RowFormat.of(session.lm, rows, 8)
    for method in (prompted, activations):
        found = method(session, row_format, rows)
        assert found.shape == (3, 3) and np.isfinite(found).all() and found.std() > 0
        assert np.allclose(method(session, row_format, rows[::-1])[::-1], found, atol=1e-3)
    told = with_system(replace(rows[0], messages=(Message("system", "Be brief."),)), "Love tea.")
    assert [m.content for m in told] == ["Love tea.\n\nBe brief."]
