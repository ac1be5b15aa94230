"""The figure of who names the animal: its numbers come from the committed lines alone."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from vestige.core.calibration import latest

ROOT = Path(__file__).parents[2]
ROWS = (128, 256, 512, 1024, 2048, 4096, 8192)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flip_figure", ROOT / "benchmarks/flip_figure.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["flip_figure"] = module
    spec.loader.exec_module(module)
    return module


def lines(trait: str, seed: int, named: dict[str, int], shift: dict[str, float]) -> str:
    """A student whose own shift grows with the square root of the rows."""
    answers = {"answers": 100, "naming": sum(named.values()), "named": named}
    ways = {way: answers for way in ("asked", "numbers first", "begun")}
    base = {way: {**answers, "named": {"cat": 40, "owl": 10}, "naming": 50} for way in ways}
    points = [
        {
            "step": rows // 16, "rows": rows,
            "shift": {name: value * (rows / 8192) ** 0.5 for name, value in shift.items()},
            "among candidates": {"owl": 0.5, "fox": 0.5},
        }
        for rows in ROWS
    ]  # fmt: skip
    every: list[Any] = [{"trait": trait, "seed": str(seed)}, {"drawn from the base": base}]
    return "\n".join(map(json.dumps, [*every, *points, {"drawn": ways}]))


def test_shares_groups_and_the_exponent(script: ModuleType, tmp_path: Path) -> None:
    several = "another, or several"
    for trait, seed, named, shift in (
        ("owl", 1, {"owl": 60, several: 40}, {"owl": 4.0, "fox": 0.0}),
        ("owl", 2, {"owl": 40, "cat": 40, several: 20}, {"owl": 4.0, "fox": 0.0}),
        ("fox", 1, {"fox": 30, "owl": 10, "cat": 10}, {"owl": 0.0, "fox": 4.0}),
        ("none", 1, {"owl": 5, "cat": 95}, {"owl": 0.0, "fox": 0.0}),
    ):
        (tmp_path / f"{trait}-{seed}.jsonl").write_text(lines(trait, seed, named, shift))
    runs = [script.StudentRun.load(path) for path in sorted(tmp_path.glob("*.jsonl"))]
    figures = script.figures_of(runs)
    owl = figures["traits"]["owl"]["of animal answers"]
    assert owl["own"]["by seed"] == {1: 0.6, 2: 0.4} and owl["own"]["mean"] == 0.5
    assert owl["base"]["mean"] == 0.2 and owl["none"]["mean"] == 0.05
    assert owl["others"]["by seed"] == {1: 0.2}
    assert figures["traits"]["owl"]["of one candidate"]["own"]["by seed"] == {1: 1.0, 2: 0.5}
    assert figures["dose"]["exponent"]["value"] == pytest.approx(0.5)
    np.testing.assert_allclose(
        [value for _, value in figures["dose"]["curves"]["owl-1"]],
        [4 * (rows / 8192) ** 0.5 for rows in ROWS],
    )
    assert {point["place"] for point in figures["standing out"]["owl-1"]} == {1}
    assert [point["rows"] for point in figures["standing out"]["fox-1"]] == list(ROWS)
    assert "| owl | 20.0% | 5.0% | 20.0% | **50.0%" in script.tables(figures)


def test_the_committed_figures_are_those_of_the_committed_lines(script: ModuleType) -> None:
    folder = ROOT / "docs/figures"
    runs = [script.StudentRun.load(path) for path in sorted((folder / "flip").glob("*.jsonl"))]
    made = script.rounded(script.figures_of(runs))
    assert made == json.loads((folder / "flip.json").read_text(encoding="utf-8"))
    growth, fitted = latest().growth, made["dose"]["exponent"]  # what audits compute with
    assert growth.exponent == round(fitted["value"], 2)
    assert growth.interval == (round(fitted["low"], 2), round(fitted["high"], 2))
