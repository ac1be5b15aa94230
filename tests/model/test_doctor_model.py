"""The doctor's known answers on the bundled model, and what it says when they are not met."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vestige.doctor import installation as doctor
from vestige.doctor.installation import Check, Patient

pytestmark = pytest.mark.model
NAMES = ("bundled model", "chat rendering", "loss mask", "exact evaluation")


@pytest.fixture(scope="module")
def patient() -> Patient:
    return Patient()


def found(name: str, patient: Patient) -> Check:
    return doctor.done(name, doctor.CHECKS[name], patient)


@pytest.mark.parametrize("name", NAMES)
def test_known_answers(patient, name):
    assert found(name, patient).status == "ok", found(name, patient)


def test_faults_are_seen(patient, monkeypatch):
    lm = patient.lm
    monkeypatch.setattr(lm, "template", replace(lm.template, text="X" + lm.template.text))
    assert found("chat rendering", patient).status == "wrong"
    monkeypatch.undo()
    monkeypatch.setitem(doctor.LOGPROBS, "owl", -8.0)
    check = found("exact evaluation", patient)
    assert check.status == "wrong" and "log P(owl) is -8.807" in check.seen
    monkeypatch.setattr(doctor, "ANSWER_IDS", doctor.ANSWER_IDS[:-1])
    assert found("loss mask", patient).status == "wrong"
