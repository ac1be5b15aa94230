"""Charts put numbers where they are, and write them for readers."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from report_data import interval
from vestige.core.results import CurvePoint
from vestige.core.types import DataError
from vestige.report import charts
from vestige.report.words import ordinal, percent, places

finite = st.floats(-1e6, 1e6).map(lambda x: round(x, 3))
triple = st.tuples(finite, finite, finite).map(sorted)


def lines(root: ET.Element, kind: str) -> list[ET.Element]:
    return [e for e in root.iter("line") if e.get("class") == kind]


@settings(max_examples=60, deadline=None)
@given(st.lists(triple, min_size=1, max_size=6), st.sampled_from([charts.WIDE, charts.NARROW]))
def test_a_forest_plot_puts_numbers_where_they_are(rows: list[list[float]], width: int) -> None:
    marks = [charts.Mark(f"arm {i}", v, low, high) for i, (low, v, high) in enumerate(rows)]
    root = ET.fromstring(charts.forest("t", marks, "shift", width))
    zeros = {float(e.get("x1", "nan")) for e in lines(root, "zero")}
    assert len(zeros) == 1
    zero = zeros.pop()
    groups = [e for e in root.iter("g") if e.get("class", "").startswith("mark")]
    seen: list[tuple[float, float]] = []
    for mark, group in zip(marks, groups, strict=True):
        stem = next(e for e in group.iter("line") if e.get("class") is None)
        low, high = (float(stem.get(k, "nan")) for k in ("x1", "x2"))
        x = float(next(group.iter("circle")).get("cx", "nan"))
        assert 0 <= low <= x <= high <= width
        assert (x - zero) * mark.value >= 0
        seen += [(mark.low, low), (mark.value, x), (mark.high, high)]
    seen.sort()
    assert all(a[1] <= b[1] for a, b in pairwise(seen))


@given(st.lists(finite, min_size=1, max_size=20), st.integers(2, 8))
def test_a_scale_is_linear_and_its_ticks_are_round(values: list[float], most: int) -> None:
    scale = charts.Scale.around(values, 10, 330)
    assert all(10 <= scale(v) <= 330 for v in [0.0, *values])
    low, high = scale(scale.low), scale(scale.high)
    assert (low, high) == (10, 330)
    assert scale((scale.low + scale.high) / 2) == pytest.approx(170, abs=0.02)
    ticks = scale.ticks(most)
    assert 1 <= len(ticks) <= most + 1 and 0 in ticks
    assert all(scale.low <= t <= scale.high for t in ticks)
    if len(ticks) > 1:
        step = ticks[1] - ticks[0]
        lead = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert min(abs(lead - m) for m in (1, 2, 5, 10)) < 1e-6


def test_a_scale_refuses_what_is_not_a_number() -> None:
    with pytest.raises(DataError, match="NaN or infinite"):
        charts.Scale.around([1.0, math.nan], 0, 1)


@pytest.mark.parametrize("width", [charts.WIDE, charts.NARROW])
def test_a_curve_goes_through_its_points_inside_the_band(width: int) -> None:
    points = [
        CurvePoint(step=s, rows_seen=16 * s, contrast=interval(v, 0.2, 3))
        for s, v in ((0, 0.0), (24, -0.1), (48, 0.4), (192, 0.9))
    ]
    root = ET.fromstring(charts.curve("t", points, "contrast", width))
    dots = [(float(e.get("cx", "")), float(e.get("cy", ""))) for e in root.iter("circle")]
    stems = lines(root, "whisker")
    zero = float(lines(root, "zero")[0].get("y1", ""))
    assert [x for x, _ in dots] == sorted(x for x, _ in dots)
    assert dots[0][1] == zero and dots[1][1] > zero > dots[2][1] > dots[3][1]
    for (x, y), stem in zip(dots, stems, strict=True):
        assert float(stem.get("x1", "")) == x
        assert float(stem.get("y1", "")) > y > float(stem.get("y2", ""))
    band = next(root.iter("polygon")).get("points", "").split()
    assert len(band) == 2 * len(points)
    texts = [e.text for e in root.iter("text")]
    assert "192" in texts and "3,072" in texts


def test_a_strip_plot_shows_every_question_and_the_mean() -> None:
    dots = [("first?", -1.0), ("second?", 0.5), ("third?", 2.0), ("fourth?", 0.5)]
    root = ET.fromstring(charts.strip("t", [("owl", dots)], "specific part"))
    zero = float(lines(root, "zero")[0].get("x1", ""))
    xs = [float(e.get("cx", "")) for e in root.iter("circle")]
    mean = float(lines(root, "mean")[0].get("x1", ""))
    assert xs[0] < zero < xs[1] < xs[2] and xs[1] == xs[3]
    assert mean == pytest.approx(sum(xs) / 4, abs=0.02)
    ys = [e.get("cy") for e in root.iter("circle")]
    assert ys[1] != ys[3], "dots at the same place must be told apart"
    titles = [e.text or "" for e in root.iter("title")]
    assert "second?: +0.50" in titles and "+0.50 · 3 of 4 above 0" in titles[0]


def test_long_labels_are_wrapped_and_never_run_into_the_value() -> None:
    label = "students that were trained on the rows of another trait's teacher after a shuffle"
    mark = charts.Mark(label, 0.1, 0.0, 0.2)
    for width in (charts.WIDE, charts.NARROW):
        root = ET.fromstring(charts.forest("t", [mark], "shift", width))
        parts = [e.text or "" for e in root.iter("text") if e.get("class", "").startswith("label")]
        assert len(parts) > 1 and " ".join(parts) == label
        assert all(len(p) * charts.CHAR <= width for p in parts)


def test_colours_of_the_heat_map_diverge_from_zero() -> None:
    assert charts.heat(0.0, 2.0) == ("pos", 0.0)
    assert charts.heat(-1.0, 2.0) == ("neg", 0.5)
    assert charts.heat(2.0, 2.0) == ("pos", 1.0)
    assert charts.heat(0.0, 0.0) == ("pos", 0.0)


def test_numbers_are_written_for_readers() -> None:
    assert charts.number(-0.001) == "0.00"
    assert charts.number(-0.5) == "\u22120.50"
    assert charts.number(0.25, 1, True) == "+0.2"
    assert charts.spell(0.004, 0.001, 0.007) == "+0.004 [0.001, 0.007]"
    assert charts.spell(0.0, 0.0, 0.0) == "0.00 [0.00, 0.00]"
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 112)] == [
        "1st",
        "2nd",
        "3rd",
        "4th",
        "11th",
        "12th",
        "13th",
        "21st",
        "112th",
    ]
    assert places([1, 2, 1], 20) == "1st, 2nd, 1st of 20"
    assert [percent(p) for p in (0.0, 0.0004, 0.5, 1.0)] == ["0.0%", "0.040%", "50.0%", "100.0%"]
