"""The doctor's known answers on the bundled model, and what it says when they are not met."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vestige.doctor import bundled_model, installation
from vestige.doctor.bundled_model import BundledModel
from vestige.doctor.checks import Check, done

pytestmark = pytest.mark.model
NAMES = ("bundled model", "chat rendering", "loss mask", "exact evaluation")


@pytest.fixture(scope="module")
def bundled() -> BundledModel:
    return BundledModel()


def checked(name: str, bundled: BundledModel) -> Check:
    return done(name, installation.CHECKS[name], bundled)


@pytest.mark.parametrize("name", NAMES)
def test_known_answers(bundled, name):
    assert checked(name, bundled).status == "ok", checked(name, bundled)


def test_faults_are_seen(bundled, monkeypatch):
    lm = bundled.lm
    monkeypatch.setattr(lm, "template", replace(lm.template, text="X" + lm.template.text))
    assert checked("chat rendering", bundled).status == "wrong"
    monkeypatch.undo()
    monkeypatch.setitem(bundled_model.LOGPROBS, "owl", -8.0)
    check = checked("exact evaluation", bundled)
    assert check.status == "wrong" and "log P(owl) is -8.807" in check.seen
    monkeypatch.setattr(bundled_model, "ANSWER_IDS", bundled_model.ANSWER_IDS[:-1])
    assert checked("loss mask", bundled).status == "wrong"
