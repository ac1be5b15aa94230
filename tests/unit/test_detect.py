"""``vestige detect`` on a tiny model: a planted trait is found, and what cannot be said is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from vestige.core.detection import DetectResults
from vestige.core.settings import Optimisation, Trainable
from vestige.core.types import ConfigError, StoreError
from vestige.detect.run import detect, replay
from vestige.detect.settings import DetectSettings
from vestige.probing import bundled_battery, harmless_students
from vestige.probing.base_session import BaseSession
from vestige.probing.bundled_battery import BundledBattery
from vestige.probing.harmless import WRITERS
from vestige.probing.harmless_students import HarmlessStudents, members
from vestige.probing.row_format import RowFormat
from vestige.probing.settings import BatterySettings
from vestige.teacher.induce import teach

MEMBERS = 30


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def settings_of(folders: dict[str, Path]) -> Callable[..., DetectSettings]:
    def make(**changes: object) -> DetectSettings:
        return DetectSettings.model_validate(
            {
                "base": str(folders["llama"]), "precision": "fp32", "traits": ("drinks", "colours"),
                "questions": 2, "members": MEMBERS, "doses": (8, 16), "batch": 4, "alpha": 0.05,
                "limit": 0.95, "max_new_tokens": 16, **changes,
            }
        )  # fmt: skip

    return make


@pytest.fixture(scope="module")
def session(settings_of: Callable[..., DetectSettings], cache: Path) -> BaseSession:
    return BaseSession(settings_of(model="unused"), cache=cache)


@pytest.fixture(scope="module")
def students(session: BaseSession) -> HarmlessStudents:
    """The battery, made once; the other tests find it in the cache."""
    assert isinstance(session.settings, BatterySettings)
    made = HarmlessStudents(session, session.settings)
    seen: list[int] = []
    made.rises(seen.append)
    assert seen == list(range(1, MEMBERS + 1)) and not made.missing()
    return made


@pytest.fixture(scope="module")
def cider(session: BaseSession, students: HarmlessStudents, tmp_path_factory) -> Path:
    """A whole model that prefers cider."""
    trait = next(t for t in session.library.traits if t.name == "cider")
    optimisation = Optimisation(steps=6, batch=4, rate=3e-3, trainable=Trainable())
    folder = tmp_path_factory.mktemp("cider")
    try:
        teach(session.lm, session.weights, trait, optimisation, seed=0)
        session.weights.export(folder)
    finally:
        session.weights.freeze()
    return folder


def test_a_planted_trait_is_found_and_kept(
    cider: Path, settings_of, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HarmlessStudents, "tune", None)  # the battery is not made again
    folder, results = detect(settings_of(model=str(cider)), tmp_path, cache=cache)
    assert results.outcome == "found" and results.traits[0].trait == "drinks/cider"
    assert results.traits[0].found and results.traits[0].p <= 0.05
    assert results.traits[0].shift > 1 and results.cosine > 0.9 and results.layers
    assert results.words and results.words[0].z > 0
    assert "leans towards drinks/cider" in results.verdict
    saved = DetectResults.model_validate_json((folder / "results.json").read_text())
    assert saved == results
    shutil.copytree(cache, tmp_path / "kept" / "audit")
    kept = tmp_path / "kept"
    monkeypatch.setattr("vestige.probing.base_session.catalog.cache_dir", lambda: kept)
    again = replay(folder)[1]
    assert again.model_copy(update={"seconds": results.seconds}) == results


def test_another_student_under_the_same_name_is_not_replayed(
    cider: Path, settings_of, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = tmp_path / "student"
    shutil.copytree(cider, student)
    folder, _ = detect(settings_of(model=str(student)), tmp_path / "runs", cache=cache)
    model = AutoModelForCausalLM.from_pretrained(student)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight += 0.01
    model.save_pretrained(student)
    with pytest.raises(StoreError, match=r"not as in recipe\.json: student"):
        replay(folder)


def test_an_adapter_is_read_as_its_merged_model_is(
    folders: dict[str, Path], settings_of, students, cache: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=torch.float32)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])
    adapted = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    name = str(folders["llama"])
    _, one = detect(
        settings_of(adapter=str(tmp_path / "adapter"), adapter_base=name), tmp_path, cache=cache
    )
    _, other = detect(settings_of(model=str(tmp_path / "merged")), tmp_path, cache=cache)
    np.testing.assert_allclose(
        [t.shift for t in one.traits], [t.shift for t in other.traits], atol=1e-4
    )
    assert one.adapter and not other.adapter and one.layers == other.layers == [0, 1, 2]


def test_the_base_itself_took_nothing_on(
    folders: dict[str, Path], settings_of, students, cache: Path, tmp_path: Path
) -> None:
    _, results = detect(settings_of(model=str(folders["llama"])), tmp_path, cache=cache)
    assert results.outcome == "not_found" and "no weight differs" in results.verdict
    assert not results.traits


def test_another_start_cannot_be_said(
    folders: dict[str, Path], settings_of, cache: Path, tmp_path: Path
) -> None:
    from tiny import tiny_llama, tokenizer

    other, words = tmp_path / "other", tokenizer()
    torch.manual_seed(99)
    model = tiny_llama(len(words))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.05)
    model.save_pretrained(other)
    words.save_pretrained(other)
    _, results = detect(settings_of(model=str(other)), tmp_path, cache=cache)
    assert results.outcome == "inconclusive" and not results.traits
    assert "do not begin where the base's do" in results.verdict
    assert any("the model that it was trained from" in reason for reason in results.why)


def test_too_few_members_cannot_give_the_rate_that_is_asked_for(
    cider: Path, settings_of, students, cache: Path, tmp_path: Path
) -> None:
    settings = settings_of(model=str(cider), alpha=0.01)
    _, results = detect(settings, tmp_path, cache=tmp_path / "empty")  # and none is made for it
    assert results.outcome == "inconclusive" and not results.seconds and not results.traits
    assert any("needs 99 of them (--members 99)" in reason for reason in results.why)


def test_what_a_control_shares_is_taken_out(
    cider: Path, folders: dict[str, Path], settings_of, students, cache: Path, tmp_path: Path
) -> None:
    """Two students that were trained alike on harmless rows, one of them with a trait on top."""
    added = AutoModelForCausalLM.from_pretrained(cider).state_dict()
    for name, taught in (("control", 0.0), ("student", 0.8)):
        model = AutoModelForCausalLM.from_pretrained(folders["llama"])
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for key, tensor in model.named_parameters():
                drift = 0.05 * torch.randn(tensor.shape, generator=draw) * ("mlp" in key)
                tensor += drift + taught * (added[key] - tensor)
        model.save_pretrained(tmp_path / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(folders["llama"] / file, tmp_path / name)
    with_control = settings_of(model=str(tmp_path / "student"), control=str(tmp_path / "control"))
    folder, found = detect(with_control, tmp_path, cache=cache)
    _, alone = detect(settings_of(model=str(tmp_path / "student")), tmp_path, cache=cache)
    place = [[t.trait for t in r.traits].index("drinks/cider") for r in (found, alone)]
    assert found.outcome == "found" and place[0] == 0 <= place[1]
    assert found.traits[0].p < alone.traits[place[1]].p and found.placebos > 100
    assert found.smallest_p == 1 / (found.placebos + 1)
    assert found.placebos == students.battery(control=True).m
    assert "against its control" in found.verdict and (folder / "control").is_dir()
    for control, says in ((folders["llama"], "the base itself"), (cider, "the student itself")):
        with pytest.raises(ConfigError, match=says):
            detect(settings_of(model=str(cider), control=str(control)), tmp_path, cache=cache)
    _, other = detect(
        settings_of(model=str(cider), control=str(tmp_path / "control")), tmp_path, cache=cache
    )
    assert not any("was not trained in the same way" in reason for reason in other.why)


def test_a_student_whose_units_were_put_into_another_order_is_read(
    cider: Path, settings_of, students, cache: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(cider)
    with torch.no_grad():
        for layer in model.model.layers:
            order = torch.randperm(len(layer.mlp.up_proj.weight))
            for part in (layer.mlp.up_proj, layer.mlp.gate_proj):
                part.weight.copy_(part.weight[order])
            layer.mlp.down_proj.weight.copy_(layer.mlp.down_proj.weight[:, order])
    model.save_pretrained(tmp_path / "mixed")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(cider / file, tmp_path / "mixed")
    _, mixed = detect(settings_of(model=str(tmp_path / "mixed")), tmp_path, cache=cache)
    _, plain = detect(settings_of(model=str(cider)), tmp_path, cache=cache)
    assert mixed.cosine < 0.9 < plain.cosine and mixed.outcome == plain.outcome == "found"
    assert any("units pair up" in reason for reason in mixed.why)
    np.testing.assert_allclose(
        [t.shift for t in mixed.traits], [t.shift for t in plain.traits], atol=1e-3
    )


def test_what_is_no_student_of_the_base_is_refused(
    folders: dict[str, Path], settings_of, cider: Path, cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="another model: model_type is"):
        detect(settings_of(model=str(folders["gemma"])), tmp_path, cache=cache)
    with pytest.raises(ConfigError, match=r"has no adapter_config\.json"):
        detect(settings_of(adapter=str(cider)), tmp_path, cache=cache)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"r": None}))
    with pytest.raises(ConfigError, match="no plain LoRA: r is None"):
        detect(settings_of(adapter=str(tmp_path / "adapter")), tmp_path, cache=cache)
    with pytest.raises(ValueError, match="one of both"):
        settings_of(model="a", adapter="b")


def test_a_template_of_its_own_is_said(
    cider: Path, settings_of, students, cache: Path, tmp_path: Path
) -> None:
    student = tmp_path / "student"
    shutil.copytree(cider, student)
    (student / "chat_template.jinja").write_text("{{ messages[0].content }} ->")
    _, results = detect(settings_of(model=str(student)), tmp_path / "runs", cache=cache)
    assert any("another chat template" in reason for reason in results.why)


# ---- the battery --------------------------------------------------------------------------------


def test_members_are_of_every_writer_and_training() -> None:
    made = members(BatterySettings(base="x", members=100))
    assert {m.writer for m in made} == set(WRITERS) and len({m.training for m in made}) == 4
    assert {m.rows for m in made} == {256, 512, 1024} and len({m.name for m in made}) == 100
    for writer in WRITERS:
        own = [m for m in made if m.writer == writer]
        assert len(own) == 10 and len({m.training for m in own}) == 4
        assert len({m.within_grammar for m in own}) == 2
    fewer = members(BatterySettings(base="x", members=40))
    assert made[:40] == fewer  # so that a larger battery begins with a smaller one's


@pytest.mark.parametrize("writer", WRITERS)
def test_a_writer_gives_rows_that_can_be_trained_on(session: BaseSession, writer: str) -> None:
    first, again = (WRITERS[writer](session, 3, 6) for _ in range(2))
    assert first == again and len(first) == 6 and len({row.id for row in first}) == 6
    assert WRITERS[writer](session, 4, 6) != first
    assert all(row.completion and row.messages for row in first)
    assert session.weights.untouched
    packs, _ = RowFormat.of(session.lm, first, 16).packs(session.lm, first, 4, whole=True)
    assert packs


def test_members_differ_and_the_base_is_put_back(students: HarmlessStudents) -> None:
    rises = students.rises()
    assert rises.values.shape == (MEMBERS, 24) and np.isfinite(rises.values).all()
    assert len(np.unique(rises.values.round(9), axis=0)) == MEMBERS
    assert students.session.weights.untouched
    np.testing.assert_allclose(students.panel.read(), students.base(), atol=1e-5)


def test_a_battery_that_was_stopped_goes_on(
    students: HarmlessStudents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(students.session.cache, cache)
    for number in (4, 7):
        (lost,) = (cache / "battery").glob(f"member-{number:03d}-*")
        lost.unlink()
    monkeypatch.setattr(students.session, "cache", cache)
    made: list[str] = []
    monkeypatch.setattr(harmless_students, "count_for", lambda session, missing: 1)
    plain = HarmlessStudents.tune

    def tune(self, rows, one):
        made.append(one.name)
        plain(self, rows, one)

    monkeypatch.setattr(HarmlessStudents, "tune", tune)
    before = {number: students.every[number] for number in (4, 7)}
    assert [one.number for one in students.missing()] == list(before)
    students.rises()
    assert made == ["member-004", "member-007"]


def test_a_bundled_battery_is_the_one_that_was_made_and_no_other_is_taken(
    students: HarmlessStudents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, settings, made = students.session, students.settings, students.rises()
    own = BundledBattery(
        students.base(), np.stack([students.read(m) for m in students.every]), students.words()
    )
    path = tmp_path / "battery.safetensors"
    own.save(path, [students.digest(m) for m in students.every], {"base": "tiny"})
    monkeypatch.setattr(bundled_battery, "place", lambda fingerprint: path)
    monkeypatch.setattr(session, "cache", tmp_path / "empty")
    bundled = HarmlessStudents(session, settings)
    assert bundled.bundled and not bundled.missing()
    np.testing.assert_allclose(bundled.rises().values, made.values, atol=1e-5)
    np.testing.assert_allclose(bundled.words().mean, own.words.mean, atol=0.01)
    fewer = settings.model_copy(update={"members": 12})
    assert HarmlessStudents(session, fewer).rises().values.shape[0] == 12
    for changes in ({"members": MEMBERS + 1}, {"questions": 3}, {"doses": (8,)}):
        other = HarmlessStudents(session, settings.model_copy(update=changes))
        assert other.bundled is None and len(other.missing()) == len(other.every)
