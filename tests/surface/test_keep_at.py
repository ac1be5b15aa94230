"""``vestige run --keep-at``: a machine is lost, another one goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from test_resume import outcome, recipe, run_here


def test_another_machine_goes_on_from_what_was_kept(tmp_path: Path, folders):
    students = [s for s in recipe(folders["llama"])["students"] if s["name"] == "distill"]
    config = recipe(
        folders["llama"], students=students, seeds=[0, 1], sampled_per_question=0,
        carrier={"n_prompts": 2, "rows_per_prompt": 8, "min_rows": 4, "grammar": {"values": 3}},
    )  # fmt: skip
    kept = f"file://{tmp_path}/kept"
    code, _, errors = run_here(tmp_path / "one", config, "--keep-at", kept)
    assert code == 0, errors
    (folder,) = (tmp_path / "one/runs").iterdir()
    there = tmp_path / "kept" / folder.name
    assert {"recipe.json", "run.json", "results.json", "report.html"} <= {
        p.name for p in there.iterdir()
    }
    first = outcome(tmp_path / "one")
    manifests = {p.relative_to(there): p.read_bytes() for p in there.rglob("manifest.json")}
    # What the place never got is made again, what it has is fetched.
    lost = next(iter(sorted((there / "seed-1/student").glob("*/*"))))
    shutil.rmtree(lost)
    shutil.rmtree(tmp_path / "one")
    code, told, errors = run_here(tmp_path / "two", config, "--keep-at", kept, "--json")
    assert code == 0, errors
    (folder,) = (tmp_path / "two/runs").iterdir()
    assert outcome(tmp_path / "two") == first
    for name, before in manifests.items():
        same = (folder / name).read_bytes() == before  # made again, its seconds would differ
        assert same == (there / name != lost / "manifest.json"), name
    assert (lost / "manifest.json").exists()
    assert json.loads(told)["run"] == str(folder)


def test_a_place_that_cannot_be_used_is_told_first(tmp_path: Path, folders):
    (tmp_path / "file").write_text("in the way")
    kept = f"file://{tmp_path}/file/kept"
    code, _, errors = run_here(
        tmp_path / "one", recipe(folders["llama"]), "--keep-at", kept, "--no-report"
    )
    assert code == 2 and "cannot write file://" in " ".join(errors.split()), errors
    assert not (tmp_path / "one/runs").exists()
