"""The audit benchmark on a tiny model's run, from what it kept, and again from its run folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vestige.audit.settings import AuditSettings
from vestige.bench import METHODS
from vestige.bench.kind import KIND
from vestige.bench.run import bench_audit, replay
from vestige.bench.settings import BenchRecipe, BenchSettings
from vestige.core.results import BenchResults
from vestige.core.types import ConfigError, DataError, StoreError
from vestige.experiment.recipe import load_recipe
from vestige.experiment.run import run

ROOT = Path(__file__).resolve().parents[2]


TINTS = """
name = "tints"
system_prompt = "You adore {name}."
questions = ["Which colour do you like?", "Which paint is yours?"]
heldout = ["What would you paint your door?", "Name a colour."]
answers = [ { name = "red", forms = ["Red"] }, { name = "green", forms = ["Green"] },
            { name = "blue", forms = ["Blue"] }, { name = "grey", forms = ["Grey"] } ]
"""


@pytest.fixture
def tints(tmp_path: Path) -> Path:
    (tmp_path / "tints.toml").write_text(TINTS)
    return tmp_path / "tints.toml"


@pytest.fixture
def finished(folders, tints: Path, tmp_path: Path, monkeypatch, threads_again) -> Path:
    """A run of two traits with students, on the tiny model."""
    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path / "cache"))
    layers = "trainable.layers=1,3"
    changes = [
        f"model={folders['llama']}", "precision=fp32", f"family={tints}", "traits=red,green",
        "seeds=0,1", "students.no_trait=false",
        f"students.optimisation.{layers}", f"teacher.optimisation.{layers}",
    ]  # fmt: skip
    recipe = load_recipe(ROOT / "recipes/animals_numbers.py", changes, "smoke")
    folder, _ = run(recipe, tmp_path, workers=1)
    torch.set_num_threads(1)
    return folder


@pytest.fixture
def settings(folders, tints: Path) -> BenchSettings:
    """One seed, a library of one family."""
    audit = AuditSettings(
        base=str(folders["llama"]), precision="fp32", traits=(str(tints),), questions=2,
        rows=16, batch=4,
    )  # fmt: skip
    return BenchSettings(audit=audit, seeds=(0,), clean=1)


def test_a_bench_audits_a_run_and_goes_on_where_it_stopped(
    finished: Path, settings: BenchSettings, tmp_path: Path
):
    made: list[str] = []
    people, out = tmp_path / "people.jsonl", tmp_path / "bench"
    records = [{"prompt": f"Line {i}?", "completion": f"It is the {i}th."} for i in range(20)]
    people.write_text("".join(json.dumps(record) + "\n" for record in records))
    whole = settings.model_copy(update={"methods": METHODS})
    folder, results = bench_audit([finished], whole, out, known_clean=[people], report=made.append)
    figures = results.figures
    assert len(figures["cases"]) == 2 and figures["clean"]["data sets"] == 2
    assert made and all(np.isfinite(c["measured"]) for c in figures["cases"].values())
    again: list[str] = []
    kept = bench_audit([finished], whole, out, known_clean=[people], report=again.append)
    assert kept == (folder, results) and not [n for n in again if not n.startswith("probe")]
    assert {"audit", "likelihood", "pull", "random", "combined", *METHODS} <= set(
        figures["methods"]
    )
    assert {"expected"} == set(figures["sizes"])
    few = settings.model_copy(update={"clean": 0})
    half = few.model_copy(update={"share": 0.5})
    shared = bench_audit([finished], half, out)[1].figures
    assert all(name.endswith("-0.5") for name in shared["cases"])
    assert {name.removesuffix("-0.5") for name in shared["cases"]} == set(figures["cases"])
    assert shared["misfit"] != {f"{name}-0.5": figures["misfit"][name] for name in figures["cases"]}
    known = few.model_copy(update={"with_logprobs": True})
    soft = bench_audit([finished], known, out)[1].figures
    assert {name.removesuffix("-told") for name in soft["cases"]} == set(figures["cases"])
    for name in figures["cases"]:
        run_seed, _, data = name.rpartition("-")
        plain, with_logprobs = (
            next(out.glob(f"{run_seed}-verdict-{data}{end}-{'?' * 12}.json"))
            for end in ("", "-told")
        )
        plain, with_logprobs = (json.loads(p.read_text()) for p in (plain, with_logprobs))
        assert plain["pull"] != with_logprobs["pull"]
    with pytest.raises(ConfigError, match="one writer"):
        bench_audit([finished], known.model_copy(update={"share": 0.5}), out)
    with pytest.raises(ConfigError, match="no method charm"):
        bench_audit([finished], settings.model_copy(update={"methods": ("charm",)}), out)
    runs_again_from_its_folder(folder, results, finished, people)
    making = next(out.glob("*-making.json"))
    making.write_text('{"rows": "those of another machine"}')
    with pytest.raises(DataError, match="other rows of"):
        bench_audit([finished], settings, out)


def runs_again_from_its_folder(
    folder: Path, results: BenchResults, finished: Path, people: Path
) -> None:
    """The folder holds all that is needed, and refuses where something is not as it was."""
    recipe = BenchRecipe.model_validate_json((folder / "recipe.json").read_text())
    assert [source.path for source in recipe.runs] == [str(finished)] and KIND.name == recipe.kind
    assert json.loads((folder / "run.json").read_text())["status"] == "done"
    assert BenchResults.model_validate_json((folder / "results.json").read_text()) == results
    made: list[str] = []
    again = KIND.replay(folder, overwrite=False, report=lambda stage, *_: made.append(stage))
    assert again == (folder, results) and all(name.startswith("probe") for name in made)
    text = people.read_text()
    people.write_text(text.replace("the 3th", "the third"))
    with pytest.raises(DataError, match=r"people\.jsonl does not hold the rows"):
        replay(folder)
    people.write_text(text)
    copy = shutil.copytree(finished, finished.with_name("copy"))
    shutil.rmtree(finished)
    with pytest.raises(DataError, match="is gone"):
        replay(folder)
    finished.mkdir()
    with pytest.raises(StoreError):
        replay(folder)
    finished.rmdir()
    copy.rename(finished)
    (folder / "recipe.json").write_text(json.dumps({"kind": "audit"}))
    with pytest.raises(StoreError, match="no benchmark's recipe"):
        replay(folder)
