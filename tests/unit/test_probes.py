"""Directions and probes: exact products, what a probe has, how rows are read and races end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from audit_cases import rows_of

from vestige.audit import evidence
from vestige.audit.expected import expect, profile
from vestige.audit.first_look import AGREED
from vestige.audit.kind import KIND
from vestige.audit.race import rounds, run_race
from vestige.audit.race_result import Race
from vestige.audit.recipe import AuditRecipe
from vestige.audit.run import audit, replay
from vestige.audit.settings import AuditSettings
from vestige.core.calibration import latest
from vestige.core.types import DataError, StoreError
from vestige.models.hf import LanguageModel
from vestige.probing.base_session import BaseSession
from vestige.probing.directions import Directions, compress, row_products, token_logprobs
from vestige.probing.probes import Likelihood, Probes, token_shifts
from vestige.probing.row_format import (
    RowFormat,
)
from vestige.rows.files import write_rows

# ---- directions and probes ----------------------------------------------------------------------


def test_products_with_directions_are_those_of_the_whole_gradient(session: BaseSession):
    rows = rows_of(["3, 4", "9, 9", "12, 7"])
    row_format = RowFormat.of(session.lm, rows, 8)
    session.weights.freeze()
    draw = torch.Generator().manual_seed(0)
    names = [n for n, p in session.lm.layers.named_parameters() if p.ndim == 2]
    chosen = session.trainable.layer_range(len(session.lm.layers))
    names = [n for n in names if int(n.split(".")[0]) in chosen]
    shapes = dict(session.lm.layers.named_parameters())
    wholes = []
    for _ in range(2):
        wholes.append({})
        for n in names:
            u, v = (torch.randn(size, 2, generator=draw) for size in shapes[n].shape)
            wholes[-1][n] = u @ v.T  # of rank 2, so that nothing is lost
    directions = Directions.stack([compress(whole) for whole in wholes])
    total = directions.total([0.0, 2.0])
    for n in names:
        assert torch.allclose(total[n], 2 * wholes[1][n], atol=0.1)  # kept in half precision
    found = row_products(session, row_format, rows, directions)
    weights = session.weights.train(session.trainable, seed=0)
    for row, products in zip(rows, found, strict=True):
        token_logprobs(session.lm, row_format.examples(session.lm, [row]), row_format)[
            0
        ].sum().backward()
        gradients = {n: p.grad for n, p in session.lm.layers.named_parameters() if n in names}
        for whole, product in zip(wholes, products, strict=True):
            wanted = sum(float((gradients[n] * whole[n]).sum()) for n in names)
            assert product == pytest.approx(wanted, rel=0.03, abs=0.03 * np.abs(found).max())
        for weight in weights:
            weight.grad = None
    session.weights.freeze()


def test_a_probe_has_its_trait(session: BaseSession, probes: Probes):
    for t in range(3):
        session.weights.shift(probes.directions.total([float(i == t) for i in range(3)]))
        assert int((session.panel.read() - session.base).argmax()) == t
    session.weights.freeze()
    assert np.allclose(session.panel.read(), session.base, atol=1e-5)


def test_a_profile_is_the_slope_along_a_probe_beside_all_of_them(
    session: BaseSession, probes: Probes
):
    before = session.panel.read()
    profiles = np.array([profile(probes, t) for t in range(3)])
    assert np.allclose(session.panel.read(), before, atol=1e-5)
    assert (profiles.argmax(1) == np.arange(3)).all()  # each probe raises its own trait most
    for t in range(3):  # a difference quotient from the base says nearly the same
        steps = []
        for shares in ([0.02 * (i == t) for i in range(3)], [0.02 / 3] * 3):
            session.weights.shift(probes.directions.total(shares))
            steps.append((session.panel.read() - session.base) / 0.02)
        session.weights.freeze()
        assert np.allclose(profiles[t], steps[0] - steps[1], atol=0.3 * np.abs(profiles).max())
    assert len(list((session.cache / "profiles").iterdir())) == 4  # the mean once
    shifts = {0: np.full(16, 1.0), 1: np.full(16, 1.0), 2: np.full(16, -2.0)}
    race = Race(np.zeros(3), shifts, {0: 0.0, 1: 0.0, 2: 0.0}, {}, 0.0, 16, 16)
    seen: list[tuple[int, int]] = []
    found = expect(probes, race, lambda done, total: seen.append((done, total)))
    assert np.allclose(found, profiles[:2].mean(0), rtol=1e-3) and seen == [(1, 2), (2, 2)]


def test_rows_are_read_exactly_under_base_and_probe(session: BaseSession, probes: Probes):
    rows = rows_of(["3, 4", "9, 9", "12, 7", "5, 88"])
    row_format = RowFormat.of(session.lm, rows, 8)
    before = session.panel.read()
    for trait in (None, 1):
        found = probes.read(row_format, rows, trait)
        shares = [float(i == trait) for i in range(3)]
        session.weights.shift(probes.directions.total(shares))
        with torch.no_grad():
            examples = row_format.examples(session.lm, rows)
            wanted = [float(v.sum()) for v in token_logprobs(session.lm, examples, row_format)]
        session.weights.freeze()
        assert np.allclose(found.logp, wanted, atol=1e-3) and (found.entropy > 0).all()
        assert found.tokens >= 4 * 4
    assert np.allclose(session.panel.read(), before, atol=1e-5)
    base = probes.read(row_format, rows, None).logp
    tokens = token_shifts(probes, row_format, rows, 1)
    assert ["".join(text for text, _ in part) for part in tokens] == [r.completion for r in rows]
    assert np.allclose([sum(v for _, v in part) for part in tokens],
                       probes.read(row_format, rows, 1).logp - base, atol=1e-3)  # fmt: skip


@pytest.mark.parametrize("texts", [["3, 4", "12, 7", "5, 88"], ["red is", "a blue sky"]])
def test_a_gpu_reads_and_writes_more_rows_at_once_and_the_same(
    session: BaseSession, probes: Probes, monkeypatch, texts
):
    rows = rows_of(texts * 12, prompts=3)
    row_format = RowFormat.of(session.lm, rows, 8)
    assert row_format.wider(session.lm) == 1
    gpu = cast(LanguageModel, SimpleNamespace(device=torch.device("cuda")))
    assert row_format.wider(gpu) == (4 if row_format.automaton else 1)

    def all_of_it() -> list[Any]:
        session.weights.freeze()
        written = [row.completion for row in row_format.write(session.lm, rows, seed=5)]
        return [written, probes.read(row_format, rows, 1), probes.products(row_format, rows)]

    texts, read, products = all_of_it()
    calls = []
    monkeypatch.setattr(RowFormat, "wider", lambda row_format, lm: calls.append(1) or 4)
    again, wide, others = all_of_it()
    assert len(calls) == 3 and again == texts and wide.tokens == read.tokens
    for one, other in zip((*read[:3], products), (*wide[:3], others), strict=True):
        assert np.allclose(one, other, atol=1e-3)


def test_a_model_is_not_surprised_by_rows_of_its_own(session: BaseSession, probes: Probes):
    like = rows_of(["11, 2"] * 256, prompts=16)
    row_format = RowFormat.of(session.lm, like, 8)
    session.weights.freeze()
    own = probes.read(row_format, row_format.write(session.lm, like, seed=3), None)
    assert abs(float((-own.logp - own.entropy).sum())) / own.tokens < 0.1
    other = probes.read(row_format, rows_of(["11, 11"] * 64, prompts=16), None)
    assert abs(float((-other.logp - other.entropy).sum())) / other.tokens > 0.2


def test_rows_of_a_teacher_are_found_and_rows_of_the_base_are_not(
    session: BaseSession, probes: Probes
):
    like = rows_of(["1, 2"] * 120, prompts=8)
    row_format = RowFormat.of(session.lm, like, 8)
    session.weights.freeze()
    usual = probes.products(row_format, row_format.write(session.lm, like, seed=1))
    clean = row_format.write(session.lm, like, seed=2)
    found = run_race(probes, session.settings, row_format, clean, usual)
    assert not found.clear_at and found.rows == 120 and max(found.evidence.values()) < 3
    session.weights.shift(probes.directions.total([0.0, 1.0, 0.0]))
    told = row_format.write(session.lm, like, seed=4)
    session.weights.freeze()
    found = run_race(probes, session.settings, row_format, told, usual)
    assert found.last[0] == 1 and found.scores.argmax() == 1 and found.pull.argmax() == 1
    assert found.shifts[1].mean() > 0 and abs(found.misfit) < 0.2
    again = Race.from_json(json.loads(json.dumps(found.to_json())))
    assert again.last == found.last and np.array_equal(again.scores, found.scores)


def test_reading_stops_at_the_first_batch_that_is_clear(
    session: BaseSession, probes: Probes, monkeypatch
):
    monkeypatch.setattr(session, "settings", session.settings.model_copy(update={"drift": 0.0}))
    like = rows_of(["1, 2"] * 400, prompts=8)
    row_format = RowFormat.of(session.lm, like, 8)
    session.weights.freeze()
    usual = probes.products(row_format, row_format.write(session.lm, like, seed=1))
    session.weights.shift(probes.directions.total([0.0, 1.0, 0.0]))
    told = row_format.write(session.lm, like, seed=4)
    session.weights.freeze()
    found = run_race(probes, session.settings, row_format, told, usual)
    assert found.clear_at == {1: max(found.rows, found.pulled)} and found.rows < 400
    assert found.rows not in rounds(
        400, session.settings.batch
    )  # nobody waited for the round's end
    needed = math.log(3 / session.settings.alpha)
    after = range(session.settings.batch, found.rows + 1, session.settings.batch)
    clear = [
        evidence.log_evidence(found.shifts[1][None, :n], ["sips"], session.settings.drift)[0]
        >= needed
        for n in after
    ]
    assert clear == [n == found.rows for n in after]


def test_the_likeliest_traits_and_those_of_the_largest_pull_go_on(monkeypatch):
    """Sixty traits by hand: which are read on how many rows."""
    n, batch = 150, 16
    strengths = np.linspace(-1, 1, 60)
    pulls = np.linspace(1, 0, 60)  # the likeliest pull least
    asked: list[tuple[int | None, int]] = []
    pulled: list[int] = []

    class BaseSession:
        settings = AuditSettings(base="m", batch=batch)
        library = SimpleNamespace(
            traits=[SimpleNamespace(family=SimpleNamespace(name=f"f{t}")) for t in range(60)]
        )
        weights = SimpleNamespace(freeze=lambda: None)

    def read(row_format: object, rows: list[int], trait: int | None) -> Likelihood:
        asked.append((trait, len(rows)))
        value = np.full(len(rows), 0.0 if trait is None else 0.01 * strengths[trait])
        return Likelihood(value, value, -value, len(rows))

    def products(row_format: object, rows: list[int]) -> np.ndarray:
        pulled.append(len(rows))
        return np.tile(pulls, (len(rows), 1))

    probes = SimpleNamespace(session=BaseSession, read=read, products=products, n=60)
    monkeypatch.setattr("vestige.audit.race.pull", lambda data, usual: data.mean(0))

    def run(**more):
        return run_race(
            probes, BaseSession.settings, None, list(range(n)), np.zeros((4, 60)), **more
        )  # type: ignore[arg-type]

    found = run()
    lengths = {t: len(s) for t, s in found.shifts.items()}
    # 32 of the largest pull; the likeliest 12 of these (20 to 31) and 12 by pull; 8 and 8; 4 and 4.
    assert lengths == (
        {t: 150 for t in (0, 1, 2, 3, 28, 29, 30, 31)}
        | {t: 128 for t in (4, 5, 6, 7, 24, 25, 26, 27)}
        | {t: 64 for t in (8, 9, 10, 11, 20, 21, 22, 23)} | {t: 32 for t in range(12, 20)}
    )  # fmt: skip
    assert pulled == [64] and found.pulled == 64 and found.rows == n
    assert [rows for trait, rows in asked if trait is None] == [16] * 9 + [6]
    assert found.last == [31, 30, 29, 28, 3, 2, 1, 0] and found.scores.argmax() == 0
    assert (found.likelihoods > -np.inf).sum() == 8
    Race.from_json(json.loads(json.dumps(found.to_json())))
    pulls[40] = 2.0
    doubts: list[int] = []

    def stands(trait: int, shifts: np.ndarray) -> bool:
        doubts.append(len(shifts))
        return len(shifts) > 40

    strengths[40] = 300.0  # clear at once, but doubted until there are 48 rows
    sure = run(stands=stands)
    assert sure.clear_at == {40: 64} and doubts == [16, 32, 48] and sure.rows == 48
    strengths[20], strengths[40] = 300.0, 0.0  # likeliest by far, but many pull more
    found = run()
    assert found.clear_at == {} and AGREED < 20
    # All others are far behind it after 16 rows: of them the seven likeliest are read on.
    lengths = {t: len(shifts) for t, shifts in found.shifts.items()}
    assert sorted(t for t in lengths if lengths[t] == 150) == [20, *range(25, 31), 40]
    assert sorted(lengths.values()) == [16] * 24 + [150] * 8


def test_a_twins_rows_are_named_by_the_first_look_and_an_audit_is_read_back(
    session: BaseSession, probes: Probes, tmp_path: Path, monkeypatch
):
    like = rows_of(["12, 34, 56"] * 400, prompts=8)
    session.weights.shift(probes.directions.total([0.0, 1.0, 0.0]))
    written = RowFormat.of(session.lm, like, 16).write(session.lm, like, seed=4)
    write_rows(tmp_path / "told.jsonl", written)
    session.weights.freeze()
    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path))
    (tmp_path / "audit").symlink_to(session.cache)
    settings = session.settings.model_copy(update={"drift": 0.0, "rows": 400})
    folder, found = audit(tmp_path / "told.jsonl", settings, root=tmp_path / "audits")
    assert (found.outcome, found.first_look) == ("inconclusive", "twin"), found.verdict
    assert found.traits[0].named and not found.traits[0].flagged and found.rows_read < 400
    assert [p.name for p in (folder / "reference").iterdir()] == ["base"]
    assert found.traits[0].expected is None and not (folder / "expected").exists()  # not measured
    where, again = KIND.replay(folder, overwrite=False, report=lambda *_: None)
    assert where == folder and again.model_copy(update={"seconds": found.seconds}) == found
    record = (folder / "run.json").read_text()
    assert json.loads(record)["inputs"]["data"] == str(tmp_path / "told.jsonl")
    refuses_to_run_again_what_is_not_as_it_was(folder, tmp_path / "told.jsonl")
    measured = latest().model_copy(update={"base": settings.base})
    monkeypatch.setattr("vestige.core.calibration.calibrations", lambda: (measured,))
    _, found = audit(tmp_path / "told.jsonl", settings, root=tmp_path / "audits")
    assert found.traits[0].expected.value == max(t.expected.value for t in found.traits) > 0


def refuses_to_run_again_what_is_not_as_it_was(folder: Path, data: Path) -> None:
    recipe, record, rows = folder / "recipe.json", folder / "run.json", data.read_text()
    AuditRecipe.model_validate_json(recipe.read_text())
    before = {path: path.read_text() for path in (recipe, record)}
    data.write_text("".join(rows.splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match="does not hold the rows that were audited"):
        replay(folder)
    data.rename(data.with_suffix(".moved"))
    with pytest.raises(DataError, match="there is no file"):
        replay(folder)
    data.write_text(rows)
    recipe.write_text(before[recipe].replace(json.loads(before[recipe])["base"], "another"))
    with pytest.raises(StoreError, match=r"not as in recipe\.json: base"):
        replay(folder)
    recipe.write_text(before[recipe])
    old = {k: v for k, v in json.loads(before[record]).items() if k != "inputs"}
    record.write_text(json.dumps(old))
    with pytest.raises(StoreError, match="does not say where its data are"):
        replay(folder)
    record.write_text(before[record])
