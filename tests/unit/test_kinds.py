"""The kinds of run: each is whole, and what earlier versions saved is still read."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

import vestige.report
from vestige.core.kinds import Kind
from vestige.core.run_files import read_results
from vestige.core.types import ConfigError, StoreError
from vestige.kinds import KINDS, find_kind, kind_of_recipe
from vestige.report import render_runs
from vestige.report.views import view_of

REPORT = Path(vestige.report.__file__).parent
SAVED = sorted((Path(__file__).parent / "saved_results").glob("*.json"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_is_whole(kind: Kind):
    assert kind.record.model_fields["kind"].default == kind.name
    if "kind" in kind.settings.model_fields:
        assert kind.settings.model_fields["kind"].default == kind.name
    if find_spec(summary := f"vestige.cli.summaries.{kind.name}"):
        assert import_module(summary).print_summary
    if kind.template:
        assert kind.template == kind.name and (REPORT / f"{kind.template}.html.j2").exists()
        assert view_of(kind.name).RECORD is kind.record


def test_kinds_have_names_of_their_own():
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    with pytest.raises(ConfigError, match=r"a.json: unknown kind of recipe 'audits'; did you mean"):
        find_kind("audits", "a.json")
    with pytest.raises(StoreError, match="no report on a run of the kind"):
        view_of("../audit")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{}", "transfer"),
        ('{"kind": "mlp"}', "mlp"),
        ('{"config": {"kind": "mlp"}}', "mlp"),
        ('{"kind": "audit"}', "audit"),
        ("{", "transfer"),
        ("[]", "transfer"),
    ],
)
def test_a_recipe_file_says_its_kind(tmp_path: Path, text: str, name: str):
    (tmp_path / "recipe.json").write_text(text)
    assert kind_of_recipe(tmp_path / "recipe.json").name == name


def test_python_recipes_are_experiments(tmp_path: Path):
    assert kind_of_recipe(tmp_path / "nowhere.py").name == "transfer"


def test_kinds_load_nothing_heavy():
    code = (
        "import sys, vestige.kinds; "
        "print(sorted({'torch', 'transformers', 'numpy', 'jinja2'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def with_known_keys(new: Any, saved: Any) -> Any:
    """``new`` without the fields, all of them empty, that were not yet there."""
    if isinstance(saved, list):
        return [with_known_keys(a, b) for a, b in zip(new, saved, strict=True)]
    if isinstance(saved, dict):
        assert not any(new[key] for key in new.keys() - saved.keys())
        return {key: with_known_keys(new[key], value) for key, value in saved.items()}
    return new


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_results_that_were_saved_before_are_read(path: Path, tmp_path: Path):
    saved = json.loads(path.read_text())
    results = read_results(path, lambda name: find_kind(name, str(path)).record)
    again = json.loads(results.model_dump_json())
    assert again["kind"] == saved["kind"]
    if path.stem.startswith("audit_schema"):  # another rule decided them
        assert (
            again["outcome"] == "inconclusive" and saved["verdict"] in again["first_look_verdict"]
        )
    else:
        assert with_known_keys(again, saved) == saved and again["verdict"] == saved["verdict"]
    (tmp_path / "results.json").write_bytes(path.read_bytes())
    for name in ("run.json", "recipe.json"):
        (tmp_path / name).write_text("{}")
    assert escape(saved["verdict"]) in render_runs([tmp_path], tmp_path / "page.html").read_text()
