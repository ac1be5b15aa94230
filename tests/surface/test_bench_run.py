"""The audit benchmark on a tiny model's run, and again from what it kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vestige.audit.settings import AuditSettings
from vestige.bench import METHODS, bench_audit
from vestige.core.types import ConfigError, DataError
from vestige.experiment.recipe import load_recipe
from vestige.experiment.run import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.usefixtures("threads_again")
def test_a_bench_audits_a_run_and_goes_on_where_it_stopped(folders, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path / "cache"))
    layers = "trainable.layers=1,3"
    changes = [f"model={folders['llama']}", "precision=fp32", f"students.optimisation.{layers}",
               f"teacher.optimisation.{layers}"]  # fmt: skip
    recipe = load_recipe(ROOT / "recipes/animals_numbers.py", changes, "smoke")
    folder, _ = run(recipe, tmp_path, workers=1)
    torch.set_num_threads(1)
    settings = AuditSettings(
        base=str(folders["llama"]), precision="fp32", traits=("animals",), questions=2,
        planted=2, base_written=2, looks=(0.5, 1), rows=16, batch=4,
    )  # fmt: skip
    made: list[str] = []
    people = tmp_path / "people.jsonl"
    records = [{"prompt": f"Line {i}?", "completion": f"It is the {i}th."} for i in range(20)]
    people.write_text("".join(json.dumps(record) + "\n" for record in records))
    wanted = {"clean": 1, "methods": METHODS, "known_clean": [people]}
    found = bench_audit([folder], settings, tmp_path / "bench", **wanted, report=made.append)
    sets = len(recipe.seeds) * len(recipe.traits)
    assert len(found["cases"]) == sets and found["clean"]["data sets"] == len(recipe.seeds) + 1
    assert made and all(np.isfinite(c["measured"]) for c in found["cases"].values())
    again: list[str] = []
    kept = bench_audit([folder], settings, tmp_path / "bench", **wanted, report=again.append)
    assert kept == found and not [name for name in again if not name.startswith("probe")]
    assert {"audit", "likelihood", "pull", "random", "combined", *METHODS} <= set(found["methods"])
    half = bench_audit([folder], settings, tmp_path / "bench", clean=1, share=0.5)
    assert all(name.endswith("-0.5") for name in half["cases"])
    assert {name.removesuffix("-0.5") for name in half["cases"]} == set(found["cases"])
    assert half["misfit"] != {f"{name}-0.5": found["misfit"][name] for name in found["cases"]}
    assert {"expected", "canary", "together"} == set(found["sizes"])
    told = bench_audit([folder], settings, tmp_path / "bench", clean=1, told=True)
    assert {name.removesuffix("-told") for name in told["cases"]} == set(found["cases"])
    for name in found["cases"]:
        run_seed, _, data = name.rpartition("-")
        plain, with_told = (
            next((tmp_path / "bench").glob(f"{run_seed}-verdict-{data}{end}-{'?' * 12}.json"))
            for end in ("", "-told")
        )
        assert json.loads(plain.read_text())["pull"] != json.loads(with_told.read_text())["pull"]
    with pytest.raises(ConfigError, match="one writer"):
        bench_audit([folder], settings, tmp_path / "bench", told=True, share=0.5)
    making = next((tmp_path / "bench").glob("*-making.json"))
    making.write_text('{"rows": "those of another machine"}')
    with pytest.raises(DataError, match="another making"):
        bench_audit([folder], settings, tmp_path / "bench", clean=1)
