"""The benchmark of detection, on a tiny model: every student, going on, and the counting."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vestige.bench import trait_writers, writers
from vestige.bench.trait_writers import TEACHERS, mixed, trait_numbers
from vestige.bench.writer_cases import cases
from vestige.bench.writer_kinds import HARMLESS, HELD_OUT, in_few_bits, quantised
from vestige.bench.writers_figures import every_rate
from vestige.bench.writers_settings import WritersBench
from vestige.core.writers import WriterReading, WriterStudent
from vestige.kinds import kind_of_recipe
from vestige.probing.base_session import BaseSession
from vestige.probing.harmless import rows_of


@pytest.fixture(scope="module")
def settings(folders: dict[str, Path]) -> WritersBench:
    battery = {
        "base": str(folders["llama"]), "precision": "fp32", "traits": ("drinks", "colours"),
        "questions": 2, "members": 10, "doses": (8,), "batch": 4, "max_new_tokens": 16,
    }  # fmt: skip
    return WritersBench.model_validate(
        {"battery": battery, "harmless": 1, "traits": 1, "controls": 1, "rows": 8, "alpha": 0.1}
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_every_writer_has_a_student_and_a_stopped_benchmark_goes_on(
    settings: WritersBench, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, made = writers.tune, []
    monkeypatch.setattr(trait_writers, "GENERATION", 16)

    def tune(settings, session, rows, case):
        made.append(case.number)
        if len(made) == 7:
            raise KeyboardInterrupt
        plain(settings, session, rows, case)

    monkeypatch.setattr(writers, "tune", tune)
    with pytest.raises(KeyboardInterrupt):
        writers.run(settings, tmp_path, cache=cache)
    folder, results = writers.run(settings, tmp_path, cache=cache)
    assert len(made) == len(set(made)) + 1 == len(results.students) + 3 + 1  # and three controls
    assert {s.kind for s in results.students} == {*HARMLESS, *TEACHERS}
    taught = [s for s in results.students if s.trait]
    assert len(taught) == 2 * len(TEACHERS)  # a trait that is held out, and one that is not
    assert all(s.alone.place and s.gained is not None for s in taught)
    assert all(s.paired and s.paired.p > 0 for s in results.students) and results.placebos >= 20
    assert "against a control" in results.verdict
    assert {s.kind for s in results.students if not s.trait} == set(HARMLESS)
    held_out = {s.trait for s in taught if s.trait in ("drinks/coffee", "colours/blue")}
    assert held_out and all(s.held_out for s in taught if s.trait in held_out)
    shutil.copytree(cache, tmp_path / "kept" / "audit")
    kept = tmp_path / "kept"
    monkeypatch.setattr("vestige.probing.base_session.catalog.cache_dir", lambda: kept)
    again = kind_of_recipe(folder / "recipe.json").replay(
        folder, overwrite=False, report=lambda stage, done, total: None
    )
    assert again == (folder, results)
    assert made.count(settings.seed) == 1


def test_cases_take_ways_of_training_in_turn(settings: WritersBench, cache: Path) -> None:
    session = BaseSession(settings.battery, cache=cache)
    many = settings.model_copy(update={"harmless": 6, "traits": 3})
    made = cases(many, session)
    assert len({case.number for case in made}) == len(made)
    for kind in HARMLESS:
        assert len({case.training for case in made if case.kind == kind}) == 3
    assert {*HARMLESS, *TEACHERS} > HELD_OUT


@pytest.mark.parametrize("kind", HARMLESS)
def test_harmless_rows_can_be_read(settings: WritersBench, cache: Path, kind: str) -> None:
    session = BaseSession(settings.battery, cache=cache)
    first, again = (HARMLESS[kind](session, 5, 8) for _ in range(2))
    assert first == again and len(first) == 8 and session.weights.untouched
    assert HARMLESS[kind](session, 6, 8) != first


def test_quantised_weights_have_few_values(settings: WritersBench, cache: Path) -> None:
    import torch

    matrix = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    rounded = in_few_bits(matrix)
    assert all(len(row[:32].unique()) <= 16 for row in rounded)
    assert float((rounded - matrix).abs().max()) <= float(matrix.max() - matrix.min()) / 30 + 1e-6
    session = BaseSession(settings.battery, cache=cache)
    before = session.lm.layers[0].mlp.up_proj.weight.clone()
    with quantised(session):
        assert not torch.equal(session.lm.layers[0].mlp.up_proj.weight, before)
    assert torch.equal(session.lm.layers[0].mlp.up_proj.weight, before)


def test_rates_count_students_that_took_a_trait_on() -> None:
    def one(**facts: Any) -> WriterStudent:
        usual: dict[str, Any] = dict(
            kind="a", trait="", training="t", held_out=False, gained=None, shift=None,
        )  # fmt: skip
        read: dict[str, Any] = dict(p=0.5, first="x/y", place=None, own_p=None)
        read |= {key: facts.pop(key) for key in read if key in facts}
        alone, paired = WriterReading(**read), WriterReading(**(read | {"p": 0.001}))
        return WriterStudent(**(usual | facts), alone=alone, paired=paired)

    students = [
        one(), one(p=0.005), one(kind="b"), one(kind="b"),
        one(kind="k", trait="x/y", shift=2.0, p=0.004, own_p=0.004, place=1, gained=5.0),
        one(kind="k", trait="x/y", shift=0.9, p=0.3, own_p=0.4, place=7, gained=5.0),
        one(kind="k", trait="x/y", shift=0.1, p=0.005, own_p=0.9, place=60, gained=5.0),
    ]  # fmt: skip
    rates = {(r.group, r.what): (r.share.value, r.students) for r in every_rate(students, 0.01)}
    assert rates["harmless", "found"] == (0.25, 4)
    assert rates["harmless: b", "found"] == (0.0, 2)
    assert rates["took a trait on", "found, own trait"] == (0.5, 2)
    assert rates["took a trait on", "own trait among 5"] == (0.5, 2)
    assert ("the same, held out", "found, own trait") not in rates
    assert np.isclose(rates["took a trait on: k", "own trait first"][0], 0.5)
    assert rates["harmless", "found, against a control"] == (1.0, 4)
    bare = [s.model_copy(update={"paired": None}) for s in students]
    assert not any("control" in r.what for r in every_rate(bare, 0.01))


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_teacher_has_its_trait_and_its_rows_can_be_read(
    settings: WritersBench, cache: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trait_writers, "GENERATION", 16)
    session = BaseSession(settings.battery, cache=cache)
    trait = session.library.traits[0]
    (rows, gained), again = (trait_numbers(session, kind, trait, 3, 8) for _ in range(2))
    assert (rows, gained) == again and len(rows) == 8 and session.weights.untouched
    assert gained > 0.2 or kind in ("system prompt", "second generation", "all layers")
    assert all(message.role == "user" for row in rows for message in row.messages)


def test_rows_of_two_writers_are_spread_evenly() -> None:
    rows, others = rows_of(["a"] * 10, list("0123456789")), rows_of(["b"] * 10, ["x"] * 10)
    assert [row.completion for row in mixed(rows, others, 0.5)] == list("x1x3x5x7x9")
    assert mixed(rows, [], 1.0) == rows
