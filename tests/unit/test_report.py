"""The report: a pure, escaped, self-contained page with charts that put numbers where they are."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from report_data import make_manifest, make_results
from vestige.core.results import Interval, Results
from vestige.core.types import DataError, StoreError
from vestige.report import charts, render, render_runs
from vestige.report.views.transfer import named_answers

HOSTILE = '<script>alert("a\'b")</script><img src=x onerror=alert(1)>{{ 7 * 7 }}&amp;'
FILES = ("results.json", "run.json", "recipe.json")


class Page(HTMLParser):
    """Tags with their attributes, and the text that a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self._skip = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._skip = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._skip = False

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())


def page(*results: Results) -> str:
    return render(list(results), [make_manifest() for _ in results])


def changed(results: Results, change: Callable[[dict[str, Any]], None]) -> Results:
    value = results.model_dump()
    change(value)
    return Results.model_validate(value)


WITHOUT_TRAIT = ("base", "none")


def hostile(value: Any) -> Any:
    """The same structure with hostile text around every string, keys of free mappings too."""
    if isinstance(value, str):
        return f"{HOSTILE}{value}"
    if isinstance(value, dict):
        return {hostile(k) if isinstance(k, str) else k: hostile(v) for k, v in value.items()}
    return [hostile(v) for v in value] if isinstance(value, list) else value


def hostile_results(name: str = "animals") -> Results:
    """Every free text of a record made hostile: names, rows, prompts, reasons, sentences, keys."""

    def walk(value: Any, key: str = "") -> Any:
        if key in ("reasons", "seconds"):
            return hostile(value)
        if key in ("shares", "named_shares", "candidate_shares"):
            return {hostile(k): walk(v) for k, v in value.items()}
        if isinstance(value, dict):
            return {k: walk(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [walk(v, key) for v in value]
        # An empty reason marks a kept row; ``transmitted``, the record's kind and the names of the
        # groups without a trait are fixed words.
        fixed = key == "transmitted" or value in ("transfer", *WITHOUT_TRAIT)
        return hostile(value) if value and not fixed else value

    return Results.model_validate(walk(make_results(name=name).model_dump()))


def save_run(folder: Path, results: Results) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(results.model_dump_json())
    (folder / "run.json").write_text(json.dumps(make_manifest()))
    (folder / "recipe.json").write_text(json.dumps({"traits": ["owl"], "recipe_only": "kestrel"}))
    return folder


# ---- the page --------------------------------------------------------------------------------


def test_the_same_records_give_the_same_bytes() -> None:
    first = page(make_results(), make_results(8, 8, 4))
    page(make_results(2, 3, 1))
    assert page(make_results(), make_results(8, 8, 4)).encode() == first.encode()


def test_the_verdict_comes_first_and_sections_follow_in_order() -> None:
    results = make_results()
    html = page(results)
    assert html.startswith("<!DOCTYPE html>")
    text = Page(html).text
    order = [
        results.verdict,
        "A teacher model with a trait writes number sequences",
        results.arms[0].sentence,
        "Trait by trait",
        "Specificity matrix",
        "Learning curve",
        "Question by question",
        "Before any data is used",
        "Rows that were kept",
        "Rows that were dropped",
        "Caveats",
        "Show the manifest",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert [tag for tag, _ in Page(html).tags].count("h1") == 1


def test_every_number_of_every_interval_is_shown() -> None:
    results = make_results(8, 8, 4)
    text = Page(page(results)).text

    def shown(i: Interval) -> bool:
        return charts.spell(i.value, i.low, i.high) in text

    for arm in results.arms:
        intervals = [
            arm.contrast,
            *(g.estimate for g in arm.groups),
            *(p.contrast for p in arm.curve),
        ]
        intervals += [i for t in arm.traits for i in (t.shift, t.specific)]
        assert all(shown(i) for i in intervals)
        m = arm.matrix
        for value, low, high in zip(m.value, m.low, m.high, strict=True):
            for v, a, b in zip(value, low, high, strict=True):
                cell = f"{charts.number(v, 2, True)} {charts.number(a)} to {charts.number(b)}"
                assert cell in text


def test_traits_are_told_with_ranks_p_values_and_probabilities() -> None:
    results = make_results()
    t = results.arms[0].traits[0].model_copy(update={"ranks": [1, 2, 11], "p_holm": 0.00004})
    arm = results.arms[0].model_copy(update={"traits": [t]})
    text = Page(page(results.model_copy(update={"arms": [arm]}))).text
    assert "1st, 2nd, 11th of 20" in text
    assert "<0.001" in text
    assert "0.80% → 4.1%" in text


def test_shuffled_rows_students_are_no_other_traits_students() -> None:
    (arm, *_) = make_results(traits=2).arms
    begun = [s for s in arm.sampled if s.opening]
    own, other = (t.trait for t in arm.traits)
    shuffled = begun[0].model_copy(update={"data": f"shuffle_across-{own}"})
    named = named_answers(arm.model_copy(update={"sampled": [*arm.sampled, shuffled]}))
    share = next(s for s in begun if s.data == other).named_shares[own].value
    assert named["rows"][0]["others"] == pytest.approx(share)
    assert named_answers(arm.model_copy(update={"sampled": []})) == {}


def test_nothing_is_escaped_twice_or_not_at_all() -> None:
    manifest = hostile(make_manifest())
    html = render([hostile_results(), hostile_results("again")], [manifest, manifest])
    seen = Page(html)
    assert "<script" not in html.lower() and "<img" not in html
    assert "49&" not in seen.text  # the template is not applied to its own data
    names = {name for _, attributes in seen.tags for name in attributes}
    assert not any(name.startswith("on") for name in names)
    # Long labels in charts take more lines; otherwise hostile text adds no element at all.
    plain = Page(page(make_results(), make_results()))
    counts = [Counter(tag for tag, _ in p.tags if tag != "text") for p in (seen, plain)]
    assert counts[0] == counts[1]
    r = make_results()
    words = [
        r.name,
        r.verdict,
        r.model,
        r.family,
        *r.caveats,
        *r.traits,
        *r.questions,
        *r.candidates,
    ]
    words += [
        s for row in r.samples for s in (row.data, row.prompt, row.completion, row.reason) if s
    ]
    words += [s for arm in r.arms for s in (arm.label, arm.base, arm.sentence, arm.contrast.method)]
    words += [s for f in r.filters for s in (f.data, *f.reasons)] + [t.kind for t in r.teachers]
    words += [*r.seconds, *r.arms[0].sampled[0].shares, "0f3c9d2", "commit", "memory_gb"]
    assert all(f"{HOSTILE}{word}" in seen.text for word in words if word not in WITHOUT_TRAIT)


def test_the_page_loads_nothing_and_its_links_lead_somewhere() -> None:
    html = page(make_results(), make_results(), make_results(2, 3, 1))
    seen = Page(html)
    for word in ("http://", "https://", "url(", "@import", "//cdn"):
        assert word not in html
    tags = {tag for tag, _ in seen.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not any("src" in attributes for _, attributes in seen.tags)
    ids = [a["id"] for _, a in seen.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in seen.tags if tag == "a"]
    assert links and all(link and link[0] == "#" and link[1:] in ids for link in links)


def test_charts_and_tables_are_named_for_those_who_cannot_see_them() -> None:
    tags = Page(page(make_results())).tags
    for here, after in pairwise(tags):
        if here[0] == "svg":
            assert here[1].get("role") == "img" and after[0] == "title"
        if here[0] == "th":
            assert here[1].get("scope") in ("row", "col")
    assert ("html", {"lang": "en"}) in tags
    viewport = [a for tag, a in tags if tag == "meta" and a.get("name") == "viewport"]
    assert "width=device-width" in str(viewport[0]["content"])


def test_several_runs_have_contents_and_a_comparison() -> None:
    first, second = make_results(), make_results(2, 3, 1, name="birds")
    html = page(first, second)
    text = Page(html).text
    assert text.index("2 experiments") < text.index("Experiment Students Trait Contrast")
    assert html.count('<article class="run"') == 2
    head = html[: html.index('<article class="run"')]
    assert head.count("<tr>") == 1 + len(first.arms) + len(second.arms)
    assert "Comparison of the experiments" not in page(first)


def test_only_the_diagonal_is_outlined() -> None:
    html = page(make_results(4, 3, 1))
    outlined = [a for tag, a in Page(html).tags if tag == "td" and "own" in (a.get("class") or "")]
    assert len(outlined) == 4


def test_what_was_not_measured_is_left_out() -> None:
    def strip(value: dict[str, Any]) -> None:
        value.update(samples=[], caveats=[], filters=[], seconds={})
        value["arms"][0].update(groups=[], questions=[], curve=[], sampled=[], seed_contrasts={})

    text = Page(page(changed(make_results(2, 3, 1), strip))).text
    for heading in (
        "Learning curve",
        "Question by question",
        "Rows that were",
        "Caveats",
        "at a glance",
    ):
        assert heading not in text
    assert "Specificity matrix" in text


def test_any_manifest_is_shown() -> None:
    manifest = {"a": {"b": [{"c": None}, [1, 2]], "d": True}, "e": [], "f": {}, "g": 1e-05, "h": ""}
    text = Page(render([make_results(2, 3, 1)], [manifest])).text
    for part in ("c — 1, 2", "d yes", "e none", "f none", "g 1e-05", "h —"):
        assert part in text.replace(":", ""), part


# ---- what cannot be drawn --------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "place",
    [
        lambda v, bad: v["arms"][0]["contrast"].update(low=bad),
        lambda v, bad: v["arms"][1]["traits"][0].update(p=bad),
        lambda v, bad: v["arms"][0]["matrix"]["value"][1].__setitem__(0, bad),
        lambda v, bad: v["arms"][0]["curve"][2]["contrast"].update(value=bad),
        lambda v, bad: v["arms"][0]["seed_contrasts"].update({1: bad}),
        lambda v, bad: v["arms"][0]["sampled"][3]["shares"]["owl"].update(low=bad),
        lambda v, bad: v["teachers"][0].update(lowest=bad),
    ],
)
def test_a_number_that_is_not_finite_is_refused(
    place: Callable[[dict[str, Any], float], None], bad: float
) -> None:
    results = changed(make_results(), lambda value: place(value, bad))
    with pytest.raises(DataError, match=r"results\.(arms|teachers)\[\d\].* is -?(nan|inf)"):
        page(results)


def test_records_that_do_not_fit_are_refused() -> None:
    short = changed(make_results(), lambda v: v["arms"][0]["matrix"]["low"].pop())
    with pytest.raises(DataError, match=r"matrix\.low of arm 'same_base' is not 5 x 4"):
        page(short)
    turned = changed(
        make_results(), lambda v: v["arms"][0]["groups"][0]["estimate"].update(low=2.0, high=1.0)
    )
    with pytest.raises(DataError, match="ends before it starts"):
        page(turned)
    with pytest.raises(DataError, match="at least one run"):
        render([], [])
    with pytest.raises(DataError, match="1 results and 2 manifests"):
        render([make_results()], [{}, {}])


# ---- files -----------------------------------------------------------------------------------


def test_run_folders_become_one_file(tmp_path: Path) -> None:
    folders = [save_run(tmp_path / n, make_results(2, 3, 1, name=n)) for n in ("one", "two")]
    out = tmp_path / "new" / "report.html"
    assert render_runs(folders, out) == out
    html = out.read_text(encoding="utf-8")
    assert html.count('<article class="run"') == 2
    assert html.count("kestrel") == 2, "the recipe belongs to the manifest"
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]
    with pytest.raises(StoreError, match="exists"):
        render_runs(folders, out, overwrite=False)
    render_runs(folders[:1], out)
    assert out.read_text(encoding="utf-8").count('<article class="run"') == 1


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_corrupt_file_is_named_with_its_fix(tmp_path: Path, name: str) -> None:
    folder, out = save_run(tmp_path / "run", make_results(2, 3, 1)), tmp_path / "report.html"
    out.write_text("old")
    (folder / name).write_text('{"a": 1,\n "b": }')
    with pytest.raises(
        StoreError, match=rf"{name} is corrupt: line 2, column 7.*run the experiment"
    ):
        render_runs([folder], out)
    (folder / name).write_text("[]")
    with pytest.raises(StoreError, match=rf"{name} is corrupt: it holds a list"):
        render_runs([folder], out)
    (folder / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StoreError, match=f"cannot read .*{name}"):
        render_runs([folder], out)
    (folder / name).unlink()
    with pytest.raises(StoreError, match=rf"{name} is missing.*Run the experiment again"):
        render_runs([folder], out)
    assert out.read_text() == "old"


def test_results_of_another_version_or_with_holes_are_refused(tmp_path: Path) -> None:
    folder, out = save_run(tmp_path / "run", make_results(2, 3, 1)), tmp_path / "report.html"
    path = folder / "results.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "schema_version": 99}))
    with pytest.raises(StoreError, match="schema version 99, this Vestige reads 1"):
        render_runs([folder], out)
    value["arms"][0]["contrast"]["low"] = None
    path.write_text(json.dumps(value))
    with pytest.raises(StoreError, match=r"arms\.0\.contrast\.low"):
        render_runs([folder], out)
    assert not out.exists()


def test_a_report_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = save_run(tmp_path / "run", make_results(2, 3, 1))
    out = tmp_path / "report.html"
    out.mkdir()
    with pytest.raises(StoreError, match="cannot write"):
        render_runs([folder], out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "run"]


def test_text_without_a_utf8_form_does_not_stop_a_report(tmp_path: Path) -> None:
    folder = save_run(tmp_path / "run", make_results(2, 3, 1))
    (folder / "run.json").write_text('{"note": "lone \\ud800 half"}')
    assert "lone ? half" in render_runs([folder], tmp_path / "r.html").read_text(encoding="utf-8")


def test_the_report_loads_no_model_code() -> None:
    code = (
        "import sys, vestige.report; "
        "print(sorted({'torch', 'transformers', 'peft', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
