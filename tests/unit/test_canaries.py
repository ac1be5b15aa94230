"""``vestige audit`` with copies that are trained on the rows, on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from vestige.audit import canary_stages
from vestige.audit.kind import KIND
from vestige.audit.run import audit
from vestige.audit.settings import AuditSettings
from vestige.bench.writer_kinds import progressions
from vestige.cli.summaries.audit import print_summary
from vestige.core.audit_results import AuditResults
from vestige.core.types import Row
from vestige.probing.base_session import BaseSession
from vestige.probing.harmless_students import HarmlessStudents
from vestige.probing.row_format import RowFormat
from vestige.probing.settings import BatterySettings
from vestige.probing.trait_panel import TraitPanel
from vestige.report import render_runs
from vestige.rows.files import read_rows, write_rows
from vestige.student.loop import train
from vestige.traits.library import load_library

MEMBERS, TRAINING, READ = 30, 640, 64
DRINKS = load_library(["drinks"]).traits[0].family
QUESTIONS = [f"{q} Guest {i}." for i in range(4) for q in DRINKS.questions[:8]]


@pytest.fixture(scope="module")
def settings(folders: dict[str, Path]) -> AuditSettings:
    alike = {
        "base": str(folders["llama"]), "precision": "fp32", "traits": ("drinks", "colours"),
        "questions": 2, "batch": 4, "max_new_tokens": 16,
    }  # fmt: skip
    return AuditSettings.model_validate(
        alike
        | {
            "canary_rows": READ, "canary_rate": 1e-3, "canary_rank": 0, "rows": 16,
            "alpha": 0.05, "limit": 0.9, "training_rows": TRAINING,
            "battery": alike | {"members": MEMBERS, "doses": (8, 16)},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def cache(settings: AuditSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the battery, and rows of a harmless writer that it does not hold."""
    folder = tmp_path_factory.mktemp("cache")
    assert isinstance(settings.battery, BatterySettings)
    session = BaseSession(settings.battery, cache=folder / "audit")
    HarmlessStudents(session, settings.battery).rises()
    write_rows(folder / "harmless.jsonl", progressions(session, 77, 32))
    return folder


@pytest.fixture
def place(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VESTIGE_CACHE", str(cache))
    monkeypatch.setattr(HarmlessStudents, "tune", None)  # the battery is not made again
    evenly = [answer.forms[0] for answer in DRINKS.answers]
    write(tmp_path / "cider.jsonl", ["Cider"] * len(QUESTIONS))
    write(tmp_path / "even.jsonl", [evenly[i % len(evenly)] for i in range(len(QUESTIONS))])
    shutil.copy(cache / "harmless.jsonl", tmp_path)
    return tmp_path


def write(path: Path, texts: list[str]) -> None:
    rows = zip(QUESTIONS, texts, strict=True)
    lines = [json.dumps({"prompt": prompt, "completion": text}) for prompt, text in rows]
    path.write_text("\n".join(lines))


def audited(
    place: Path, name: str, settings: AuditSettings, reference: str = ""
) -> tuple[Path, AuditResults]:
    known = place / reference if reference else None
    return audit(place / name, settings, root=place / "audits", reference=known)


def test_a_trait_that_training_passes_on_is_flagged_and_read_back(
    place: Path, settings: AuditSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, found = audited(place, "cider.jsonl", settings, "even.jsonl")
    first = found.traits[0]
    assert (found.outcome, first.trait, first.flagged) == ("flagged", "drinks/cider", True)
    assert first.canary and first.canary.p < 0.02 and first.canary.shift > 1
    assert any("reference rows of the base" in said for said in found.caveats)
    assert [d.rows for d in found.doses] == [READ] and found.placebos >= 100 and found.tokens > 0
    assert {p.name for p in (folder / "canary").iterdir()} == {"data-64-0", "canaries-64-0"}
    rows = (folder / "reference/canaries/rows.jsonl").read_text().splitlines()
    assert len(rows) == len(QUESTIONS) and sum("Cider" in row for row in rows) < 5
    page = render_runs([folder], place / "report.html").read_text()
    assert "What copies took on" in page and "drinks/cider" in page
    monkeypatch.setattr(canary_stages, "canary", None)  # both are read back
    where, again = KIND.replay(folder, overwrite=False, report=lambda *_: None)
    assert where == folder and again.model_copy(update={"seconds": found.seconds}) == found


def test_without_a_first_look_no_probe_is_made_and_the_verdict_is_the_same(
    place: Path, settings: AuditSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestige.audit.run.all_probes", None)
    alone = settings.model_copy(update={"first_look": False})
    folder, found = audited(place, "cider.jsonl", alone, "even.jsonl")
    first = found.traits[0]
    assert (found.outcome, first.trait, first.flagged) == ("flagged", "drinks/cider", True)
    assert found.first_look == "not taken" and found.p_base is None and not found.worst_rows
    assert not any("first look" in said.lower() for said in (*found.channels, *found.caveats))
    page = render_runs([folder], place / "report.html").read_text()
    assert "What copies took on" in page and "who wrote the rows</h2>" not in page
    print_summary(found)
    for changes, says in (
        ({"canaries": 0}, "nothing would be done"),
        ({"teacher": "m"}, "for the"),
    ):
        with pytest.raises(ValueError, match=says):
            AuditSettings(base="m", first_look=False, **changes)


def test_rows_of_a_harmless_writer_are_not_flagged(place: Path, settings: AuditSettings) -> None:
    two = settings.model_copy(update={"canaries": 2, "limit": 0.99, "training_rows": READ})
    folder, found = audited(place, "harmless.jsonl", two)
    assert found.outcome == "not_found" and not any(t.flagged for t in found.traits), found.verdict
    assert not any("reference rows of the base" in said for said in found.caveats)
    assert found.doses[0].pairs == 2 and len(list((folder / "canary").iterdir())) == 4


def test_the_shift_is_that_of_two_copies_that_differ_in_their_rows_alone(
    place: Path, settings: AuditSettings, cache: Path
) -> None:
    """Both copies trained again by hand, on the rows that the audit left, and read plainly."""
    folder, found = audited(place, "harmless.jsonl", settings)
    session = BaseSession(settings, cache=cache / "audit")
    traits, optimisation = session.library.traits, settings.canary(len(session.lm.layers), 16)
    panel = TraitPanel(session.lm, traits, 2, whole_answers=3)
    after = []
    for path, seed in (("rows", 0), ("reference/canaries", canary_stages.OTHER_SEEDS)):
        rows = [r for r in read_rows(folder / path / "rows.jsonl") if isinstance(r, Row)]
        packs, ids = RowFormat.of(session.lm, rows, 16).packs(session.lm, rows, 4, whole=True)
        train(session.lm, session.weights, packs, optimisation, seed=seed, ids=ids)
        after.append(panel.read())
        session.weights.freeze()
    kept = {
        name: load_file(folder / "canary" / f"{name}-64-0" / canary_stages.ANSWERS)["log_odds"]
        for name in ("data", "canaries")
    }
    count = len(traits)
    assert np.allclose(kept["data"][:count], after[0], atol=1e-4)
    assert np.allclose(kept["canaries"][:count], after[1], atol=1e-4)
    plain = (kept["data"] - kept["canaries"]).reshape(2, count).mean(0)
    shifts = {t.trait: t.canary.shift for t in found.traits if t.canary}
    assert [shifts[name] for name in session.library.ids] == pytest.approx(list(plain))


def test_doses_grow_share_alpha_and_stop_at_the_one_that_settles_it(
    place: Path, settings: AuditSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestige.audit.settings.SMALLEST_DOSE", 16)
    loose = settings.model_copy(update={"limit": 0.99, "training_rows": 16})
    folder, found = audited(place, "harmless.jsonl", loose)  # the first dose sees all of that
    assert [d.rows for d in found.doses] == [16] and found.outcome == "not_found"
    strict = settings.model_copy(update={"limit": 1e-3})
    folder, found = audited(place, "harmless.jsonl", strict)
    assert [d.rows for d in found.doses] == [16, 64] and found.outcome == "inconclusive"
    assert len(list((folder / "canary").iterdir())) == 4
    few = settings.model_copy(update={"alpha": 2.5 / (found.placebos + 1)})
    folder, found = audited(place, "cider.jsonl", few, "even.jsonl")  # each dose may spend half
    assert found.doses and found.outcome in ("flagged", "inconclusive")
    fewer = settings.model_copy(update={"alpha": 1.5 / (found.placebos + 1)})
    said: list[str] = []
    folder, found = audit(
        place / "cider.jsonl", fewer, root=place / "audits", reference=place / "even.jsonl",
        note=said.append,
    )  # fmt: skip
    assert said[0].startswith("no copy will be trained: with")
    assert found.outcome == "inconclusive" and "pairs of harmless students" in found.why[0]
    assert not (folder / "canary").exists()  # nothing was trained for it


def test_a_short_reference_is_read_as_often_as_the_data(
    place: Path, settings: AuditSettings
) -> None:
    lines = (place / "even.jsonl").read_text().splitlines()
    (place / "short.jsonl").write_text("\n".join(lines[:16]))
    _, found = audited(place, "cider.jsonl", settings, "short.jsonl")
    assert any("(16 different ones)" in reason for reason in found.why)


def test_an_audit_goes_on_once_there_is_a_battery(
    place: Path, settings: AuditSettings, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    battery, hidden = cache / "audit/battery", cache / "audit/hidden"
    battery.rename(hidden)
    said: list[str] = []
    try:
        folder, before = audit(
            place / "cider.jsonl", settings, root=place / "audits",
            reference=place / "even.jsonl", note=said.append,
        )  # fmt: skip
    finally:
        if battery.exists():
            shutil.rmtree(battery)
        hidden.rename(battery)
    assert before.outcome == "inconclusive" and "no copy will be trained: 30 of 30" in said[0]
    same, after = audited(place, "cider.jsonl", settings, "even.jsonl")
    assert same == folder and after.outcome == "flagged"
    assert after.worst_rows[0].trait == before.worst_rows[0].trait  # scores of the first look


def test_the_data_against_themselves_are_not_flagged(place: Path, settings: AuditSettings) -> None:
    _, found = audited(place, "cider.jsonl", settings, "cider.jsonl")
    assert found.outcome != "flagged" and found.doses[0].moved > 0  # seeds of their own


def test_without_a_whole_battery_no_copy_is_trained(
    place: Path, settings: AuditSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings.battery
    more = settings.battery.model_copy(update={"members": MEMBERS + 1})
    monkeypatch.setattr(canary_stages, "canary", None)
    folder, found = audited(place, "cider.jsonl", settings.model_copy(update={"battery": more}))
    assert found.outcome == "inconclusive" and found.why[0].startswith("1 of 31 harmless students")
    assert "--traits drinks,colours" in found.why[0] and not (folder / "canary").exists()
    assert found.first_look_verdict.startswith("First look")
