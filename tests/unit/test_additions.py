"""What docs/architecture.md says is added in one file and one line is."""

from __future__ import annotations

import json
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

import pytest
from typer.testing import CliRunner

from command import here as vestige
from vestige import carriers, kinds
from vestige.bench.settings import METHODS, SCORES
from vestige.carriers.base import Carrier
from vestige.carriers.filtering import Judge, PartJudge
from vestige.cli.main import app
from vestige.core.kinds import Kind, Report
from vestige.core.results import RunRecord
from vestige.core.settings import Settings
from vestige.core.types import ConfigError, Prompt, Row
from vestige.experiment.recipe import load_recipe
from vestige.rows.files import read_rows
from vestige.store import Run, atomic_write
from vestige.traits import families, trait
from vestige.traits.library import load_library

ROOT = Path(__file__).resolve().parents[2]


# ---- a carrier ----------------------------------------------------------------------------------


class Rolls:
    """Nothing but what a die shows."""

    def judge(self) -> Judge:
        part = self.judge_part()
        return lambda row: part(row.completion)

    def judge_part(self) -> PartJudge:
        return lambda text: None if set(text.split()) <= set("123456") else "no_die"


class DiceCarrier(Carrier):
    kind: Literal["dice"] = "dice"
    leaves = "rows of dice rolls"

    def make_prompts(self, seed: int) -> list[Prompt]:
        raise NotImplementedError

    def rules(self, words: Any = ()) -> Rolls:
        return Rolls()


def test_a_carrier_has_a_filter_command(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(carriers.CARRIERS, "dice", DiceCarrier)
    lines = [json.dumps({"prompt": "p", "completion": text}) for text in ("1 6", "7", "3")]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    assert "rows of dice rolls" in vestige("filter", "--help")
    out, dropped = tmp_path / "out.jsonl", tmp_path / "dropped.jsonl"
    told = vestige("filter", "dice", tmp_path / "in.jsonl", "--out", out, "--dropped", dropped)
    assert "2 of 3 rows kept" in told and "1  no_die" in told
    assert [row.completion for row in read_rows(out) if isinstance(row, Row)] == ["1 6", "3"]
    assert CliRunner().invoke(app, ["filter", "cards"]).exit_code == 2


def test_a_carrier_of_another_kind_is_given_as_a_whole():
    recipe = ROOT / "recipes/animals_numbers.py"
    with pytest.raises(ConfigError, match="keys of another kind of carrier: give it as a whole"):
        load_recipe(recipe, ["carrier.kind=code"])
    assert load_recipe(recipe, ['carrier={"kind": "code"}']).carrier.kind == "code"


# ---- a kind of run ------------------------------------------------------------------------------


class Count(Settings):
    kind: Literal["count"] = "count"
    name: str = "count"
    data: str


class CountResults(RunRecord):
    kind: Literal["count"] = "count"
    schema_version: int = 1
    name: str
    verdict: str
    rows: int


def run(settings: Count, root: Path, *, overwrite: bool, report: Report) -> tuple[Path, Any]:
    config = settings.model_dump(mode="json")
    with Run.open(root, settings.name, config, overwrite=overwrite) as opened:
        rows = len(list(read_rows(settings.data)))
        report("count", 0, 0)
        results = CountResults(name=settings.name, verdict=f"It has {rows} rows.", rows=rows)
        atomic_write(opened.folder / "results.json", results.model_dump_json())
        return opened.folder, results


KIND = Kind(name="count", settings=Count, record=CountResults, replay=run, run=run)


def test_a_kind_of_run_is_run_shown_and_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(kinds, "KINDS", (*kinds.KINDS, KIND))
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text(json.dumps({"prompt": "p", "completion": "c"}) + "\n")
    Path("count.json").write_text(json.dumps({"kind": "count", "data": "rows.jsonl"}))
    told = json.loads(vestige("run", "count.json", "name=mine", "--json"))
    assert told["rows"] == 1 and Path(told["run"]).name.startswith("mine-")
    assert "It has 1 rows." in vestige("show", told["run"])
    assert json.loads(vestige("run", f"{told['run']}/recipe.json", "--json"))["run"] == told["run"]
    with pytest.raises(ConfigError, match="unknown key 'nam'; did you mean name"):
        vestige("run", "count.json", "nam=x")
    with pytest.raises(ConfigError, match="of the kind 'count' takes no workers"):
        vestige("run", "count.json", "--workers", "2")
    with pytest.raises(ConfigError, match="has no size 'smoke'"):
        vestige("run", "count.json", "--size", "smoke")


# ---- the others ---------------------------------------------------------------------------------


def test_every_method_of_scoring_is_there():
    assert tuple(SCORES) == METHODS
    assert all(callable(resolve_name(name)) for name in SCORES.values())


def test_a_bundled_family_is_one_line_of_the_library():
    found = {t.family.name for t in load_library().traits}
    assert set(families()) <= found and "animals" in families()


def test_a_traits_family_may_be_a_file_next_to_it(tmp_path: Path):
    (tmp_path / "pets.toml").write_text((ROOT / "tests/pets.toml").read_text())
    (tmp_path / "mole.toml").write_text('family = "pets.toml"\nname = "mole"\n')
    assert trait(tmp_path / "mole.toml").family.name == "pets"
