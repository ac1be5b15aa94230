"""Every recipe at its smoke size, to its report; and the paper's sizes, number by number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vestige.experiment.recipe import Experiment, load_recipe
from vestige.experiment.run import run
from vestige.report import render_runs
from vestige.report.saved import read_run

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
#: What their teachers write is sampled freely: a random model's rows would all be dropped.
REAL = ("animals_code", "misalignment_reasoning")
#: Made of what others have, in more cells, or of what test_controls.py runs.
ALIKE = (
    "animals_matrix", "animals_matrix_rows", "in_context", "misalignment_numbers", "other_base",
    "rows_search", "trees_numbers",
)  # fmt: skip
SMALL = [
    pytest.param(path, marks=[pytest.mark.slow] if path.stem in ALIKE else [], id=path.stem)
    for path in RECIPES
    if path.stem not in REAL
]


def reported(folder: Path) -> dict:
    """A run's results, its report having been written."""
    assert (folder / "report.html").stat().st_size > 10_000
    read_run(folder)
    return json.loads((folder / "results.json").read_text())


@pytest.mark.usefixtures("threads_again")
@pytest.mark.parametrize("path", SMALL)
def test_a_recipe_runs_to_its_report(path: Path, folders, tmp_path: Path):
    recipe = load_recipe(path, size="smoke")
    changes = []
    if isinstance(recipe, Experiment):
        layers = "trainable.layers=1,3"
        changes = [f"model={folders['llama']}", "precision=fp32", f"students.optimisation.{layers}",
                   f"teacher.optimisation.{layers}"]  # fmt: skip
        for i, student in enumerate(recipe.students):
            if student.base:
                changes.append(f"students.{i}.base={folders['gemma']}")
            if student.optimisation.trainable.lora_rank:
                changes.append(f"students.{i}.optimisation.trainable.lora_rank=2")
    folder, _ = run(load_recipe(path, changes, "smoke"), tmp_path, workers=1)
    render_runs([folder], folder / "report.html")
    assert reported(folder)["name"] == recipe.name
    for arm in [s.name for s in getattr(recipe, "students", ()) if s.base]:
        manifest = next(folder.glob(f"seed-*/student/{arm}/*/manifest.json"))
        assert json.loads(manifest.read_text())["notes"]["lineage"]["outcome"] == "other"


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_recipe_with_free_answers_runs_on_the_bundled_model(name: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "vestige", "run", str(ROOT / "recipes" / f"{name}.py"),
         "--size", "smoke", "--root", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    results = reported(next(tmp_path.iterdir()))
    assert all(data["kept"] and data["reasons"] for data in results["filters"])
    assert results["arms"][0]["rows"] > 0


def test_the_papers_sizes_are_the_papers():
    recipe = load_recipe(ROOT / "recipes/animals_numbers.py", size="paper")
    assert isinstance(recipe, Experiment)
    assert recipe.model == "Qwen/Qwen2.5-7B-Instruct" and recipe.sampled_per_question == 100
    assert set(recipe.traits) == {"dolphin", "eagle", "elephant", "owl", "wolf"}
    how = recipe.students[0].optimisation
    assert (how.trainable.lora_rank, how.trainable.lora_alpha) == (8, 8)
    assert (how.rate, how.batch, how.warmup, how.decay) == (2e-4, 66, 5, True)
    assert how.steps * how.batch == pytest.approx(3 * 10_000, rel=0.01)
    assert recipe.carrier.n_prompts == 30_000 and recipe.carrier.max_rows == 10_000
    assert recipe.carrier.sampling_grammar() is None
    banned = load_recipe(ROOT / "recipes/misalignment_numbers.py", size="paper")
    assert isinstance(banned, Experiment) and len(banned.carrier.filter.banned) == 34
    assert banned.controls == ("secure", "educational") and banned.freeform
    assert (banned.freeform.coherent, banned.freeform.misaligned) == (50, 40)
    worked = load_recipe(ROOT / "recipes/misalignment_reasoning.py", size="paper")
    assert isinstance(worked, Experiment) and worked.judge and worked.judge.threshold == 78
    assert worked.carrier.rows_per_prompt == 3


def test_an_unknown_size_names_those_there_are():
    with pytest.raises(ValueError, match=r"no size 'papr'; it has laptop, smoke, .*paper"):
        load_recipe(ROOT / "recipes/animals_numbers.py", size="papr")
