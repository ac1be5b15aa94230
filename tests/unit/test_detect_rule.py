"""From a detection's evidence to an outcome, and how a student's weights differ from its base's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from vestige.core.types import ConfigError, DataError
from vestige.detect.decision import Evidence, decide, found, relatives
from vestige.probing.drift import Reading
from vestige.probing.suspect import weight_change


def evidence(p: list[float], u: list[float], **changes) -> Evidence:
    traits = ["animals/owl", "animals/eagle", "trees/oak"]
    facts = dict(
        traits=traits, shifts=np.ones((2, 3)),
        reading=Reading(np.array(u), np.array(p)), shares=np.full(3, 0.2), usual=np.full(3, 0.1),
        smallest_shares=np.full(3, 0.3), members=100, placebos=100, same_start=True,
        unchanged=False, alpha=0.01, limit=0.5,
    )  # fmt: skip
    return Evidence(**(facts | changes))


def test_the_rule() -> None:
    clear = evidence([0.005, 0.3, 1.0], [6.0, 5.5, 0.0])
    assert decide(clear) == ("found", "found") and found(clear) == [0] and relatives(clear) == [1]
    apart = evidence([0.005, 0.3, 1.0], [6.0, 4.5, 5.9])
    assert relatives(apart) == []
    nothing = evidence([0.5, 0.3, 1.0], [1.0, 1.5, 0.0])
    assert decide(nothing) == ("not_found", "nothing") and relatives(nothing) == []
    for changes, reason in (
        ({"same_start": False}, "other_start"),
        ({"reading": None}, "other_start"),
        ({"placebos": 98}, "few_members"),
        ({"placebos": 98, "reading": None}, "few_members"),
        ({"smallest_shares": np.array([0.3, 0.6, np.inf])}, "blind"),
    ):
        blind = evidence([0.5, 0.3, 1.0], [1.0, 1.5, 0.0], **changes)
        assert decide(blind) == ("inconclusive", reason)
    # What was found was found, however little else would have been.
    assert (
        decide(evidence([0.01, 1, 1], [6, 0, 0], smallest_shares=np.full(3, np.inf)))[0] == "found"
    )
    assert decide(evidence([0.01, 1, 1], [6, 0, 0], unchanged=True)) == ("not_found", "unchanged")


def test_the_change_of_weights_is_measured(folders: dict[str, Path]) -> None:
    base, student = (
        AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=torch.float32) for _ in "ab"
    )
    assert weight_change(student, base).none
    with torch.no_grad():
        student.model.layers[1].mlp.up_proj.weight *= 1.5
        student.model.embed_tokens.weight += 0.1
    change = weight_change(student, base)
    assert change.layers == (1,) and change.outside == ("model.embed_tokens.weight",)
    matrices = {n: p for n, p in base.named_parameters() if p.ndim == 2 and ".layers." in n}
    total = sum(float((p.detach() ** 2).sum()) for p in matrices.values())
    moved = float((matrices["model.layers.1.mlp.up_proj.weight"].detach() ** 2).sum()) * 0.25
    assert change.relative == pytest.approx((moved / total) ** 0.5, rel=1e-5)
    assert change.same_start and 0.9 < change.cosine < 1


def test_weights_of_another_shape_are_refused(folders: dict[str, Path]) -> None:
    base = AutoModelForCausalLM.from_pretrained(folders["llama"])
    with pytest.raises((ConfigError, DataError), match="other tensors"):
        weight_change(torch.nn.Linear(2, 2), base)
