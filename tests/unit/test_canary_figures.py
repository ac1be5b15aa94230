"""The committed figures of canaries and of kinds left out, and the sentences that quote them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vestige.core.calibration import latest
from vestige.probing.answer_shares import shares
from vestige.traits.library import load_library

FIGURES = Path(__file__).parent.parent.parent / "docs" / "figures"


def figures(name: str) -> dict:
    return json.loads((FIGURES / name).read_text(encoding="utf-8"))


def test_the_shares_are_those_of_the_committed_readings() -> None:
    traits = load_library().traits
    ids = load_library().ids
    for name, points in figures("canaries.json")["writers"].items():
        animal = name.rpartition("-")[0]
        lines = (FIGURES / "canaries" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        readings = {(line := json.loads(text))["rows"]: line["log_odds"] for text in lines[1:]}
        assert [point["rows"] for point in points] == sorted(readings)
        for point in points if animal != "none" else ():
            own = shares(traits, np.array(readings[point["rows"]]))
            t = ids.index(f"animals/{animal}")
            assert point["share"] == pytest.approx(own[t], abs=1e-3)


def test_sentences_quote_the_committed_figures() -> None:
    found, measured = figures("canaries.json"), latest().canaries
    flagged = {
        name: any(
            f"animals/{name.rpartition('-')[0]}" in point["found"]
            for point in points
            if point["rows"] == measured.rows
        )
        for name, points in found["writers"].items()
        if not name.startswith("none")
    }
    held_out = [name for name in flagged if name not in found["chosen on"]]
    assert (sum(flagged.values()), len(flagged)) == (measured.flagged, measured.teachers)
    assert sum(flagged[name] for name in held_out) == measured.flagged_held_out
    assert len(held_out) == measured.held_out
    out, pairs = latest().left_out, figures("left_out.json")["pairs"]
    value, low, high = pairs["at or below"][str(out.level)]
    assert (out.pairs, out.share) == (pairs["n"], round(value, 3))
    assert out.interval == (round(low, 3), round(high, 3))
    page = (FIGURES.parent / "detect.md").read_text(encoding="utf-8")
    for way in ("alone", "pairs"):
        for value, low, high in figures("left_out.json")[way]["at or below"].values():
            assert f"{value:.1%} [{100 * low:.1f}, {100 * high:.1f}]" in page
    none = [p for points in (found["writers"]["none-470"],) for q in points for p in q["found"]]
    assert none == []


def test_documents_quote_the_committed_detections() -> None:
    lines = (FIGURES / "detections.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    own = {
        control: [
            f"animals/{line['animal']}" in line["found"]
            for line in found
            if bool(line["control"]) == control and line["animal"] != "none"
        ]
        for control in (False, True)
    }
    assert not any(line["found"] for line in found if line["animal"] == "none")
    assert all(own[False]) and all(line["place"] == 1 for line in found if "place" in line)
    readme, detect = (
        " ".join((FIGURES.parent.parent / name).read_text(encoding="utf-8").split())
        for name in ("README.md", "docs/detect.md")
    )
    alone, paired = (f"{sum(own[c])} of {len(own[c])}" for c in (False, True))
    assert f"the animal in {alone} finished students" in readme
    assert f"**{alone}** alone, first of 139, and in {paired} against the control" in detect
