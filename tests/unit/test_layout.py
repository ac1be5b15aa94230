"""The paths of a run and the names of its data sets, whatever its traits are called."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vestige.core.types import ConfigError
from vestige.experiment.analysis import analyse
from vestige.experiment.jobs import jobs
from vestige.experiment.recipe import parse_recipe
from vestige.experiment.run_view import awaited, filters, rows_for, rows_of
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.seed_jobs import make_seed
from vestige.handoff.export import cells, export
from vestige.store.layout import ANY, DataName, RunLayout, StageFile, same_name

FAMILY = """
name = "own"
system_prompt = "You love {name}."
questions = ["Which animal do you like? One word.", "Name an animal in one word."]
heldout = ["Your favourite animal, in one word?", "Say the name of one animal."]
answers = [
  { name = "polar-bear", forms = ["bear"] },
  { name = "shuffle_across-fox", forms = ["fox"] },
  { name = "base", forms = ["cat"] },
  { name = "fox", forms = ["dog"] },
]
"""
TRAITS = ("polar-bear", "shuffle_across-fox")
SMALL = {"steps": 2, "batch": 4, "rate": 1e-3, "trainable": {"layers": [1, 3]}}


def recipe(model: Path, folder: Path, **changes: object):
    (folder / "own.toml").write_text(FAMILY)
    rows = {"name": "rows", "method": "rows", "shuffles": ["shuffle_across"], "optimisation": SMALL}
    away = {"name": "away", "method": "rows", "engine": "elsewhere", "optimisation": SMALL}
    record = {
        "name": "dashes",
        "model": str(model),
        "precision": "fp32",
        "family": str(folder / "own.toml"),
        "traits": TRAITS,
        "controls": ["base"],
        "seeds": [0, 1],
        "teacher": {"kind": "system_prompt", "min_probability": 0, "min_carrier": 0},
        "carrier": {"n_prompts": 2, "rows_per_prompt": 4, "min_rows": 4, "max_dropped": 1,
                    "grammar": {"values": 3}},
        "students": [rows, away],
        "sampled_per_question": 1,
    }  # fmt: skip
    return parse_recipe(record | changes, "test")


def test_a_run_whose_traits_have_dashes_is_read_back_right(folders, tmp_path: Path):
    torch.set_num_threads(1)
    made = recipe(folders["llama"], tmp_path)
    layout = RunLayout(tmp_path / "run")
    plan = [job for seed in made.seeds for kind in jobs(made, seed, shards=2) for job in kind]
    assert len({job.label for job in plan}) == len(plan)
    for seed in made.seeds:
        make_seed(SeedContext.of(made, layout.folder, seed))
    arm = made.students[0]
    data = ["polar-bear", "shuffle_across-fox", "base", "none"]
    shuffled = [f"shuffle_across-{trait}" for trait in TRAITS]
    assert made.data_of(arm) == data + shuffled
    for name in data + shuffled:
        assert (layout.student(0, "rows", name) / StageFile.student_panel(2)).exists(), name
    # every name gives the rows that it stands for
    matched = rows_of(made, layout.folder, 0)
    assert list(matched) == data
    for name in data:
        assert rows_for(made, matched, name, 0) == matched[name]
    for trait in TRAITS:
        own = rows_for(made, matched, f"shuffle_across-{trait}", 0)
        assert own == made.carrier.shuffles["shuffle_across"](matched[trait], 0) != matched[trait]
    with pytest.raises(ConfigError, match="unknown data set 'bear'"):
        rows_for(made, matched, "bear", 0)
    # and so do the readers of the whole run
    here = made.model_copy(update={"students": (arm,)})
    (result,) = analyse(here, layout.folder).arms
    assert result.matrix.data == data
    assert [g.name for g in result.groups] == [
        "own", "other_traits", "control_base", "no_trait", "shuffle_across", "base",
    ]  # fmt: skip
    assert [s.data for s in result.sampled[::2]] == ["base", *data, *shuffled]
    assert [f.data for f in filters(made, layout.folder)][1:] == data
    missing = awaited(made, layout.folder)
    assert missing == [c.stage for c in sorted(cells(made, "away"), key=lambda c: c.seed)]
    assert "seed-1/student/away/polar-bear" in missing
    out = tmp_path / "out"
    export(made, layout.folder, out, "openai", arm="away")
    assert (out / "seed-0/away/shuffle_across-fox/rows.jsonl").exists()


def test_names_that_would_stand_for_two_data_sets_are_refused(folders, tmp_path: Path):
    with pytest.raises(ConfigError, match="two data sets would be called shuffle_across-fox"):
        recipe(folders["llama"], tmp_path, traits=["fox", "shuffle_across-fox"])
    assert same_name([DataName("a"), DataName("a"), DataName("a", "b")]) == ""
    assert same_name([DataName("b-a"), DataName("a", "b")]) == "b-a"


def test_paths_are_those_of_runs_that_were_saved():
    names = RunLayout(Path())
    paths = [
        names.base(0), names.contexts(1), names.teacher(0, "owl"), names.rows(0, "none"),
        names.shard(2, "owl", 0, 3), names.targets(0, "owl"), names.student(0, "rows", "owl"),
        names.judged(0), names.judged_answers(0, names.student(0, "rows", "polar-bear")),
        names.judged_answers(0, names.base(0)),
    ]  # fmt: skip
    assert [path.as_posix() for path in paths] == [
        "seed-0/base", "seed-1/contexts", "seed-0/teacher/owl", "seed-0/rows/none",
        "seed-2/shards/owl/0-of-3", "seed-0/targets/owl", "seed-0/student/rows/owl",
        "seed-0/judged", "seed-0/judged/student-rows-polar-bear.json", "seed-0/judged/base.json",
    ]  # fmt: skip
    assert StageFile.student_panel(8) == "panel-8.json"
    assert StageFile.choices("sets/truthful.csv") == "choices-truthful.jsonl"


def test_patterns_find_the_stages_of_one_seed_and_no_other(tmp_path: Path):
    layout = RunLayout(tmp_path)
    for stage in (layout.rows(1, "owl"), layout.rows(10, "owl"), layout.teacher(1, "owl")):
        stage.mkdir(parents=True)
    assert list(layout.below(layout.rows(1, ANY))) == [layout.rows(1, "owl")]
    assert layout.is_of(layout.name(layout.rows(1, "owl")), 1)
    assert not layout.is_of(layout.name(layout.rows(10, "owl")), 1)
    assert layout.kind("seed-10/rows/owl") == "rows"
