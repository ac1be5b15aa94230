"""From ``results.json`` and ``run.json`` to one HTML file: a pure function of saved files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from vestige.core.types import DataError, StoreError
from vestige.report.saved import read_run, write_page
from vestige.report.views import view_of
from vestige.report.words import FILTERS

OUTCOMES = {"flagged": "yes", "found": "yes", "not_found": "no", "inconclusive": "unclear"}
VERDICTS = {"yes": "Transmitted", "no": "Not transmitted", "unclear": "Unclear"}


def render(results: Sequence[Any], manifests: list[dict[str, Any]]) -> str:
    """The report on one or more runs as the text of one HTML file.

    A pure function: the same records give the same text. ``manifests[i]`` is the ``run.json`` of
    ``results[i]``, shown key by key whatever it holds.

    Raises:
        DataError: there is no run, the lists differ in length, or a number cannot be drawn (NaN,
            infinite, an interval the wrong way round, a matrix that does not fit its labels).
        StoreError: there is no report on runs of a kind.
    """
    if not results or len(results) != len(manifests):
        raise DataError(
            "a report needs at least one run and one manifest for each; "
            f"got {len(results)} results and {len(manifests)} manifests"
        )
    runs = [
        run_view(index, record, manifest)
        for index, (record, manifest) in enumerate(zip(results, manifests, strict=True), 1)
    ]
    return page_template().render(runs=runs, single=len(runs) == 1)


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
    runs = [read_run(folder) for folder in run_folders]
    write_page(out, render([record for record, _ in runs], [manifest for _, manifest in runs]))
    return out


def run_view(index: int, results: Any, manifest: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of one run, with what its kind's view adds."""
    for path, value in numbers(results.model_dump(), "results"):
        if not math.isfinite(value):
            raise DataError(f"{path} of run {results.name!r} is {value}; it cannot be reported")
    shared = {"id": f"run-{index}", "results": results, "manifest": manifest}
    return shared | view_of(results.kind).view(index, results)


def numbers(value: object, path: str) -> Iterator[tuple[str, float]]:
    """Every float under ``value`` with the path that leads to it."""
    if isinstance(value, float):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from numbers(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from numbers(item, f"{path}[{i}]")


@cache
def page_template() -> Template:
    """The template of the whole page, which includes that of each run's kind."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals.update(verdicts=VERDICTS, outcomes=OUTCOMES)
    return environment.get_template("template.html.j2")
