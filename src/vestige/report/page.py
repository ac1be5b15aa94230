"""From ``results.json`` and ``run.json`` to one HTML file: a pure function of saved files."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape
from pydantic import ValidationError

from vestige.core.access import explained
from vestige.core.results import (
    READABLE,
    SCHEMA,
    AnyResults,
    ArmResult,
    AuditResults,
    FilterResult,
    Interval,
    MlpResults,
    QuestionResult,
    Results,
    read_results,
)
from vestige.core.types import DataError, StoreError
from vestige.report import charts

RANKED = 15  # traits that an audit's chart shows
OUTCOMES = {"flagged": "yes", "not_found": "no", "inconclusive": "unclear"}
VERDICTS = {"yes": "Transmitted", "no": "Not transmitted", "unclear": "Unclear"}


def render(results: Sequence[AnyResults], manifests: list[dict[str, Any]]) -> str:
    """The report on one or more runs as the text of one HTML file.

    A pure function: the same records give the same text. ``manifests[i]`` is the ``run.json`` of
    ``results[i]``, shown key by key whatever it holds.

    Raises:
        DataError: there is no run, the lists differ in length, or a number cannot be drawn (NaN,
            infinite, an interval the wrong way round, a matrix that does not fit its labels).
    """
    if not results or len(results) != len(manifests):
        raise DataError(
            "a report needs at least one run and one manifest for each; "
            f"got {len(results)} results and {len(manifests)} manifests"
        )
    runs = [_run(i, r, m) for i, (r, m) in enumerate(zip(results, manifests, strict=True), 1)]
    return _template().render(runs=runs, single=len(runs) == 1)


def render_runs(run_folders: list[Path], out: Path, overwrite: bool = True) -> Path:
    """Write the report on saved runs to ``out`` and return it. Never leaves half a file behind.

    Reads ``results.json``, ``run.json`` and ``recipe.json`` in each folder.

    Raises:
        StoreError: a file is missing, corrupt or from another version, or ``out`` exists and
            ``overwrite`` is false, or cannot be written.
        DataError: as in ``render``.
    """
    if out.exists() and not overwrite:
        raise StoreError(f"{out} exists; choose another name or allow overwriting")
    results, manifests = [], []
    for folder in run_folders:
        results.append(_read_results(folder / "results.json"))
        manifest, recipe = _read_object(folder / "run.json"), _read_object(folder / "recipe.json")
        known = recipe in (manifest.get("config"), manifest.get("recipe"))
        manifests.append(manifest if known else {**manifest, "recipe": recipe})
    _write(out, render(results, manifests))
    return out


# ---- reading and writing -------------------------------------------------------------------


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StoreError(
            f"{path} is missing: the run has not finished, or this is no run folder. "
            "Run the experiment again with the same recipe; finished stages are kept."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise explained(error) or StoreError(f"cannot read {path}: {error}") from error


def _corrupt(path: Path, what: str) -> StoreError:
    return StoreError(
        f"{path} is corrupt: {what}. Delete it and run the experiment again with the same recipe; "
        "finished stages are kept."
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise _corrupt(path, f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    if not isinstance(value, dict):
        raise _corrupt(path, f"it holds a {type(value).__name__} where an object belongs")
    return value


def _read_results(path: Path) -> AnyResults:
    value = _read_object(path)
    version = value.get("schema_version", SCHEMA)
    readable = READABLE.get(str(value.get("kind")), (SCHEMA,))
    if version not in readable:
        raise StoreError(
            f"{path} has schema version {version}, this Vestige reads {max(readable)}; "
            "read it with the version that wrote it"
        )
    try:
        return read_results(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _corrupt(path, f"{place}: {first['msg']}") from error


def _write(out: Path, text: str) -> None:
    """Write to a temporary neighbour, then rename: a reader sees the old file or the new one."""
    part = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            # A lone surrogate in a manifest has no UTF-8 form; it becomes a question mark.
            file.write(text.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o644)
        os.replace(part, out)
    except OSError as error:
        if part is not None:
            Path(part).unlink(missing_ok=True)
        raise explained(error, str(out)) or StoreError(f"cannot write {out}: {error}") from error


# ---- what the template is given ------------------------------------------------------------


def _run(index: int, results: AnyResults, manifest: dict[str, Any]) -> dict[str, Any]:
    for path, value in _numbers(results.model_dump(), "results"):
        if not math.isfinite(value):
            raise DataError(f"{path} of run {results.name!r} is {value}; it cannot be reported")
    shared = {"id": f"run-{index}", "results": results, "manifest": manifest}
    if isinstance(results, AuditResults):
        return shared | _audit(results)
    return shared | (
        _mlp(results) if isinstance(results, MlpResults) else _transfer(index, results)
    )


def _audit(results: AuditResults) -> dict[str, Any]:
    """An audit: the strongest traits with intervals, and the strongest among all others."""
    marks = [
        charts.Mark(t.trait, t.contrast.value, t.contrast.low, t.contrast.high, own=t.flagged)
        for t in results.traits[:RANKED]
        if t.contrast
    ]
    return {
        "ranking": _both(
            charts.forest, f"{results.name}: the strongest traits", marks,
            "log-likelihood ratio to the base, nats per row",
        ),
        "cloud": _both(
            charts.strip, f"{results.name}: pull of every trait", _cloud(results),
            "pull, % of a probe",
        ),
    }  # fmt: skip


def _cloud(results: AuditResults) -> list[tuple[str, list[tuple[str, float]]]]:
    """The pull of the strongest trait, of its family and of all others, each other's placebos."""
    first, *others = results.traits
    family = first.trait.rpartition("/")[0]
    kin, rest = [], []
    for t in others:
        (kin if t.trait.rpartition("/")[0] == family else rest).append((t.trait, t.pull))
    own = [(first.trait, first.pull)]
    groups = [(first.trait, own), ("its family", kin), ("other families", rest)]
    return [(label, dots) for label, dots in groups if dots]


def _mlp(results: MlpResults) -> dict[str, Any]:
    """A run on small networks: accuracies with intervals, and a dot for every network."""
    marks = [
        charts.Mark(
            arm.label, arm.accuracy.value, arm.accuracy.low, arm.accuracy.high,
            own=arm.name == "auxiliary_same",
        )
        for arm in results.arms
    ]  # fmt: skip
    dots = [
        (arm.label, [(f"network {i}", value) for i, value in enumerate(arm.values)])
        for arm in results.arms
    ]
    return {
        "accuracy": _both(charts.forest, f"{results.name}: accuracy", marks, "test accuracy"),
        "strip": _both(charts.strip, f"{results.name}: every network", dots, "test accuracy"),
    }


def _transfer(index: int, results: Results) -> dict[str, Any]:
    """A run on language models: every arm with its charts, teachers, filters and rows."""
    reasons = list(dict.fromkeys(r for f in results.filters for r in f.reasons))
    overview = [
        charts.Mark(
            arm.label, arm.contrast.value, arm.contrast.low, arm.contrast.high,
            own=arm.transmitted == "yes",
        )
        for arm in results.arms
    ]  # fmt: skip
    return {
        "arms": [_arm(f"run-{index}-arm-{i}", a) for i, a in enumerate(results.arms, 1)],
        "overview": _both(
            charts.forest, f"{results.name}: contrast of every arm", overview,
            "diagonal contrast, log-odds (nats)",
        ) if len(overview) > 1 else "",
        "reasons": reasons,
        "labels": {arm.name: arm.label for arm in results.arms},
        "open_questions": list(dict.fromkeys(q for f in results.freeform for q in f.questions)),
        "filters": [(f, _filter_cells(f, reasons)) for f in results.filters],
        "kept": [row for row in results.samples if not row.reason],
        "dropped": [row for row in results.samples if row.reason],
    }  # fmt: skip


def _arm(anchor: str, arm: ArmResult) -> dict[str, Any]:
    marks = [
        charts.Mark(g.label, g.estimate.value, g.estimate.low, g.estimate.high, own=i == 0)
        for i, g in enumerate(arm.groups)
    ]
    traits, table = _by_trait(arm.questions)
    unit = arm.contrast.units
    return {
        "id": anchor,
        "arm": arm,
        "controls": any(g.name.startswith("control_") for g in arm.groups),
        "groups": _both(
            charts.forest, f"{arm.label}: shift of the own trait and of every control", marks,
            f"shift of the trait, {unit}",
        ) if marks else "",
        "matrix": _matrix(arm),
        "curve": _both(
            charts.curve, f"{arm.label}: contrast by training step", arm.curve, f"contrast, {unit}"
        ) if len(arm.curve) > 1 else "",
        "strip": _both(
            charts.strip, f"{arm.label}: specific part by held-out question", traits,
            f"specific part, {unit}",
        ) if traits else "",
        "question_traits": [name for name, _ in traits],
        "question_table": table,
    }  # fmt: skip


def _both(draw: Callable[..., Markup], *args: object) -> Markup:
    """The wide and the narrow drawing of a chart; the style sheet shows the one that fits."""
    wide, narrow = draw(*args, width=charts.WIDE), draw(*args, width=charts.NARROW)
    return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(wide, narrow)


def _by_trait(
    questions: Sequence[QuestionResult],
) -> tuple[list[tuple[str, list[tuple[str, float]]]], list[tuple[str, dict[str, float]]]]:
    """The per-question values as dots for each trait and as rows for each question."""
    dots: dict[str, list[tuple[str, float]]] = {}
    rows: dict[str, dict[str, float]] = {}
    for q in questions:
        dots.setdefault(q.trait, []).append((q.question, q.specific))
        rows.setdefault(q.question, {})[q.trait] = q.specific
    return list(dots.items()), list(rows.items())


def _matrix(arm: ArmResult) -> dict[str, Any]:
    """Cells of the heat map with their colours, on a scale shared by the whole matrix."""
    m = arm.matrix
    for name in ("value", "low", "high"):
        grid = getattr(m, name)
        if len(grid) != len(m.data) or any(len(row) != len(m.measured) for row in grid):
            raise DataError(
                f"matrix.{name} of arm {arm.name!r} is not {len(m.data)} x {len(m.measured)}"
            )
    limit = max((abs(v) for row in m.value for v in row), default=0.0)
    rows = [
        (
            source,
            [
                (target == source, v, low, high, *charts.heat(v, limit))
                for target, v, low, high in zip(m.measured, *cells, strict=True)
            ],
        )
        for source, *cells in zip(m.data, m.value, m.low, m.high, strict=True)
    ]
    return {"measured": m.measured, "rows": rows, "limit": limit}


def _filter_cells(result: FilterResult, reasons: Sequence[str]) -> list[tuple[int, Markup]]:
    """Count and bar for the kept rows, then for every reason in turn."""
    parts = [("kept", result.kept), *((r, result.reasons.get(r, 0)) for r in reasons)]
    cells = []
    for name, n in parts:
        share = n / result.seen if result.seen else 0.0
        title = f"{result.data}, {name}: {n:,} of {result.seen:,} ({share:.1%})"
        cells.append((n, charts.bar(share, title)))
    return cells


def _numbers(value: object, path: str) -> Iterator[tuple[str, float]]:
    """Every float under ``value`` with the path that leads to it."""
    if isinstance(value, float):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _numbers(item, f"{path}[{i}]")


# ---- words -----------------------------------------------------------------------------------


def _value(interval: Interval) -> Markup:
    """A value with its interval on a second line, for a table cell."""
    places = charts.decimals(interval.high - interval.low)
    bounds = [charts.number(v, places) for v in (interval.low, interval.high)]
    return Markup("<b>{}</b><small>[{}, {}]</small>").format(
        charts.number(interval.value, places, True), *bounds
    )


def _percent(share: float) -> str:
    """A share in per cent, with a second digit where it is below one per cent."""
    return f"{100 * share:.2f}%" if 0 < share < 0.01 else f"{100 * share:.1f}%"


def _p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _ordinal(n: int) -> str:
    suffix = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"


def _places(ranks: Sequence[int], of: int = 0) -> str:
    """Ranks told plainly: ``1st, 2nd, 1st of 20``."""
    return ", ".join(map(_ordinal, ranks)) + (f" of {of}" if of else "")


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{hours} h {(int(seconds) % 3600) // 60} min"


def _teacher(trait: str) -> str:
    return "no trait" if trait == "none" else trait


def _scalar(value: object) -> Markup:
    """A manifest's value as text: yes or no for a flag, a dash for nothing."""
    if value is None or value == "":
        return Markup("&mdash;")
    return escape({True: "yes", False: "no"}[value] if isinstance(value, bool) else value)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        value=_value,
        interval=lambda i: charts.spell(i.value, i.low, i.high),
        level=lambda share: f"{100 * share:g}%",
        number=charts.number,
        percent=_percent,
        p_value=_p_value,
        places=_places,
        duration=_duration,
        teacher=_teacher,
        scalar=_scalar,
    )
    environment.globals.update(verdicts=VERDICTS, outcomes=OUTCOMES)
    return environment.get_template("template.html.j2")
