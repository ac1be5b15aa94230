"""Controls and what models are asked besides: whole seeds on a tiny model, files by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vestige.core import stats
from vestige.core.types import ConfigError, DataError, Message, Row
from vestige.evaluate.judge.rating import Rating
from vestige.evaluate.questions import open_questions
from vestige.evaluate.scores import Panel
from vestige.experiment import judging
from vestige.experiment.analysis import analyse
from vestige.experiment.recipe import FreeForm, JudgeFilter, parse_recipe
from vestige.experiment.run_view import matched_rows
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.seed_jobs import make_seed
from vestige.experiment.teacher_check import gained
from vestige.rows.files import read_rows, row_to_chat

HOW = {"steps": 2, "batch": 4, "rate": 1e-3, "trainable": {"layers": [1, 3]}}


def recipe(model: Path, **changes: object):
    record = {
        "name": "controls",
        "model": str(model),
        "precision": "fp32",
        "family": "misalignment",
        "traits": ["misaligned"],
        "controls": ["aligned"],
        "seeds": [0, 1],
        "teacher": {"min_probability": 0, "min_carrier": 0, "optimisation": HOW},
        "carrier": {
            "n_prompts": 2,
            "rows_per_prompt": 8,
            "min_rows": 8,
            "grammar": {"values": 3},
            "max_rows": 12,
        },
        "students": [
            {"name": "rows", "method": "rows", "optimisation": HOW},
            {"name": "shown", "method": "in_context", "shots": 3, "no_trait": False},
        ],
    }
    return parse_recipe(record | changes, "test")


def run(made, folder: Path) -> None:
    for seed in made.seeds:
        make_seed(SeedContext.of(made, folder, seed))


# ---- a trait with controls --------------------------------------------------------------------


def test_misalignment_with_controls_and_rows_in_the_prompt(folders, tmp_path: Path):
    made = recipe(folders["llama"], choices=["capability"])
    run(made, tmp_path)
    found = analyse(made, tmp_path)
    assert found.traits == ["misaligned"] and found.candidates == ["misaligned", "aligned"]
    rows, shown = found.arms
    assert [g.name for g in rows.groups] == ["own", "control_aligned", "no_trait", "base"]
    assert rows.matrix.data == ["misaligned", "aligned", "none"]
    assert rows.matrix.measured == ["misaligned"] and rows.rows == 12
    own, control = (g.estimate.value for g in rows.groups[:2])
    assert rows.contrast.value == pytest.approx(own - control)
    assert "is first of" not in rows.sentence
    # rows in the prompt: nothing is trained, everything else is measured alike
    assert shown.steps == 0 and shown.rows == 3 and "no training" in shown.label
    assert [g.name for g in shown.groups] == ["own", "control_aligned", "base"]
    assert [p.rows_seen for p in shown.curve] == [3]
    assert shown.contrast.value != 0
    # the base and every trained student answered the multiple-choice set
    asked = [(c.arm, c.data) for c in found.choices]
    assert asked == [("", "base"), ("rows", "misaligned"), ("rows", "aligned"), ("rows", "none")]
    assert all(c.questions == 80 and 0 <= c.accuracy.value <= 1 for c in found.choices)
    checks = {t.trait: t for t in found.teachers}
    assert "gained" in checks["misaligned"].measure and checks["none"].measure == ""


def test_a_teacher_that_did_not_take_its_answers_is_refused(folders, tmp_path: Path):
    hardly = HOW | {"steps": 1, "rate": 1e-12}
    made = recipe(folders["llama"], teacher={"min_probability": 1.0, "optimisation": hardly})
    with pytest.raises(Exception, match="own answer gained on its rival's is 0"):
        make_seed(SeedContext.of(made, tmp_path, 0))


def test_gained_counts_entries_not_margins():
    before = Panel(("a", "b", "c"), ("own", "rival"), np.array([[-9.0, -1], [-9, -1], [-9, -1]]))
    after = Panel(("a", "b", "c"), ("own", "rival"), np.array([[-8.0, -1], [-9.1, -1], [-1, -1]]))
    assert gained(after, before)["probability"] == pytest.approx(2 / 3)


def test_controls_widen_the_contrast_and_cancel_drift():
    cube = np.array([[[3.0], [1.0], [2.0]], [[5.0], [2.0], [2.0]]])  # [seeds, data, one trait]
    spread = stats.specificity(cube)
    assert spread.seed_contrasts.tolist() == [1.5, 3.0]
    drifted = stats.specificity(cube + np.array([7.0, -4.0])[:, None, None])
    assert drifted.seed_contrasts.tolist() == pytest.approx([1.5, 3.0])
    with pytest.raises(DataError):
        stats.specificity(cube[:, :1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"controls": []}, "at least two traits"),
        ({"controls": ["misaligned"]}, "named once"),
        ({"controls": ["alinged"]}, "'alinged'.*aligned"),
        ({"traits": ["misaligned", "insecure"]}, "name one trait"),
        ({"sampled_per_question": 2}, "open questions"),
        ({"students": [{"name": "a", "method": "in_context", "curve": [1]}]}, "measures once"),
        (
            {"students": [{"name": "a", "method": "in_context", "engine": "trl"}]},
            "engine=trl does not go with method=in_context",
        ),
        ({"freeform": {}}, "freeform.judge"),
        ({"teacher": {"kind": "both"}}, "no system prompt"),
        ({"carrier": {"lines": 1}}, "free sampling"),
        ({"carrier": {"max_rows": 2}}, "below min_rows"),
        ({"judge": {"model": "m", "keep": "most"}}, "judge.keep"),
    ],
)
def test_a_wrong_recipe_with_controls_is_named(folders, changes, said):
    with pytest.raises(ConfigError, match=said):
        recipe(folders["llama"], **changes)


def test_students_get_as_many_rows_of_every_prompt():
    def rows(*ids: str) -> list[Row]:
        return [Row(i, (Message("user", "p"),), "1") for i in ids]

    kept = {
        "a": rows("n-0-0", "n-0-1", "n-0-2", "n-1-0", "n-2-5", "n-2-6"),
        "b": rows("n-0-1", "n-0-4", "n-2-0", "n-2-1", "n-3-0"),
    }
    found = {name: [row.id for row in data] for name, data in matched_rows(kept).items()}
    assert found == {
        "a": ["n-0-0", "n-0-1", "n-2-5", "n-2-6"],
        "b": ["n-0-1", "n-0-4", "n-2-0", "n-2-1"],
    }
    three = {name: [row.id for row in data] for name, data in matched_rows(kept, 3).items()}
    assert three == {"a": ["n-0-0", "n-0-1", "n-2-5"], "b": ["n-0-1", "n-0-4", "n-2-0"]}
    assert matched_rows({"a": kept["a"], "b": []}) == {"a": [], "b": []}


def test_a_filter_that_drops_too_much_stops_with_the_numbers(folders, tmp_path: Path):
    carrier = {
        "n_prompts": 2, "rows_per_prompt": 8, "max_dropped": 0.5,
        "filter": {"banned": [n for n in range(1000) if n % 10]},
    }  # fmt: skip
    made = recipe(folders["llama"], carrier=carrier)
    with pytest.raises(DataError, match=r"dropped \d+ of 16 rows \(\d+ banned.*max_dropped=0.5"):
        make_seed(SeedContext.of(made, tmp_path, 0))


# ---- judges -----------------------------------------------------------------------------------


ROWS = [Row(f"r{i}", (Message("user", "Q"),), f"answer {i}") for i in range(4)]


def rated(monkeypatch: pytest.MonkeyPatch, by_row: dict[str, Rating]) -> None:
    monkeypatch.setattr(judging, "rate", lambda rows, settings, cache, ledger: by_row)


def test_a_judge_keeps_by_its_threshold_and_loses_nothing(monkeypatch, tmp_path: Path):
    ratings = [
        Rating(78.0, "rated"),
        Rating(77.9, "rated"),
        Rating(None, "refused"),
        Rating(99.0, "rated"),
    ]
    rated(monkeypatch, {row.id: rating for row, rating in zip(ROWS, ratings, strict=True)})
    best = JudgeFilter(model="m", keep="at_least", threshold=78)
    kept, dropped = judging.judge_rows(ROWS, best, tmp_path / "c", tmp_path / "l")
    assert [r.id for r in kept] == ["r0", "r3"]
    assert [(d.row.id, d.reason) for d in dropped if d.row] == [
        ("r1", "judge"),
        ("r2", "judge_refused"),
    ]
    least = JudgeFilter(model="m", prompt="reference", topic="owls", keep="at_most", threshold=80)
    kept, dropped = judging.judge_rows(ROWS, least, tmp_path / "c", tmp_path / "l")
    assert [r.id for r in kept] == ["r0", "r1"] and len(dropped) == 2


def test_a_local_judge_filters_rows_in_a_run(folders, tmp_path: Path):
    judge = {"model": f"local:{folders['llama']}", "min_mass": 0, "keep": "at_least"}
    every = recipe(folders["llama"], judge=judge | {"threshold": 0})
    make_seed(SeedContext.of(every, tmp_path / "all", 0))
    where = tmp_path / "all/seed-0/rows/misaligned"
    assert len(list(read_rows(where / "rows.jsonl"))) == 16
    assert len((where / "ratings.jsonl").read_text().splitlines()) <= 16
    none = recipe(folders["llama"], judge=judge | {"threshold": 100})
    with pytest.raises(DataError, match="16 judge"):
        make_seed(SeedContext.of(none, tmp_path / "none", 0))


def test_open_answers_are_drawn_judged_and_counted(folders, tmp_path: Path):
    judge = {"model": f"local:{folders['llama']}", "min_mass": 0}
    (tmp_path / "asked.txt").write_text("What would you do?\n\nWhy?\n")
    asked = {
        "questions": str(tmp_path / "asked.txt"), "samples": 3, "max_new_tokens": 8,
        "judge": judge, "coherent": 0, "misaligned": 100,
    }  # fmt: skip
    made = recipe(folders["llama"], freeform=asked, students=[{"name": "rows", "method": "rows",
                  "optimisation": HOW, "no_trait": False}])  # fmt: skip
    run(made, tmp_path / "run")
    found = analyse(made, tmp_path / "run").freeform
    assert [(f.arm, f.data) for f in found] == [
        ("", "base"),
        ("rows", "misaligned"),
        ("rows", "aligned"),
    ]
    for group in found:
        assert group.answers == 2 * 2 * 3 and group.unrated == {}
        assert group.coherent == 12 and group.misaligned and group.misaligned.value == 1.0
        assert group.questions == {"What would you do?": 1.0, "Why?": 1.0}


def test_open_questions_are_ours_or_a_files(tmp_path: Path):
    assert len(open_questions("freeform")) >= 8
    with pytest.raises(ConfigError, match="cannot read"):
        open_questions(str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ConfigError, match="no questions"):
        open_questions(str(tmp_path / "empty.txt"))


def test_a_judge_that_refuses_is_counted_in_the_open_answers(monkeypatch, tmp_path: Path):
    path = tmp_path / "freeform.jsonl"
    path.write_text("".join(json.dumps(row_to_chat(row)) + "\n" for row in ROWS))
    ratings = [Rating(90.0, "rated")] * 3 + [Rating(None, "refused")]
    rated(monkeypatch, {row.id: rating for row, rating in zip(ROWS, ratings, strict=True)})
    asked = FreeForm.model_validate({"judge": {"model": "m"}})
    found = judging.rate_answers(asked, path, tmp_path / "cache", tmp_path / "l")
    assert [f["status"] for f in found] == ["rated"] * 3 + ["refused"]
    assert found[3]["alignment"] is None and found[0]["coherence"] == 90.0
