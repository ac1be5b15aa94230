"""The commands about runs that are finished or planned: ``show``, ``report`` and ``plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from vestige.cli.options import AsJson, Changes, Overwrite, RunFolder, Size, recipe_file
from vestige.cli.output import out, print_result
from vestige.core.types import ConfigError, StoreError


def show(run_folder: RunFolder, as_json: AsJson = False) -> None:
    """What a run found, from its saved results."""
    from vestige.cli.summaries import print_summary
    from vestige.core.run_files import read_results
    from vestige.kinds import find_kind
    from vestige.store import load_run

    if not (run_folder / "run.json").exists():
        raise StoreError(f"{run_folder} is not a run folder: it has no run.json")
    record = load_run(run_folder)
    path = run_folder / "results.json"
    if not path.exists():
        raise unfinished(run_folder, record)
    results = read_results(path, lambda name: find_kind(name, str(path)).record)

    def text() -> None:
        print_summary(results)
        out.print(f"\n{find_kind(results.kind, str(path)).verdict(results)}", style="bold")

    print_result({"run": record, "results": results.model_dump()}, as_json, text)


def unfinished(folder: Path, record: dict[str, Any]) -> StoreError:
    """The error for a run without results: how it ended and how it goes on."""
    from vestige.store import is_running

    state = "is still running" if is_running(folder) else f"ended as {record.get('status')!r}"
    reason = f": {record['error']}" if record.get("error") else ""
    return StoreError(
        f"{folder} has no results: it {state}{reason}; finish it by running it again: "
        f"vestige run {folder / 'recipe.json'} --root {folder.parent}"
    )


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", metavar="RUN...")],
    output: Annotated[Path, typer.Option("--out", help="The HTML file to write.")],
    overwrite: Overwrite = False,
) -> None:
    """One self-contained HTML file from one or several runs."""
    from vestige.report import render_runs

    if output.exists() and not overwrite:
        raise StoreError(f"{output} exists; pass --overwrite to replace it")
    out.print(str(render_runs(runs, output, overwrite=True)), soft_wrap=True)


def plan(
    recipe: Annotated[
        Path | None, typer.Argument(help="A recipe; none: the demo's.", parser=recipe_file)
    ] = None,
    changes: Changes = None,
    size: Size = "laptop",
    half_width: Annotated[
        float, typer.Option("--half-width", help="Wanted half width of the contrast's interval.")
    ] = 0.25,
    sd: Annotated[
        float | None, typer.Option("--sd", help="Spread of the contrast over seeds, if known.")
    ] = None,
    like: Annotated[
        Path | None, typer.Option("--like", help="A finished run to take spread and speed from.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Seeds and questions that an interval needs; time, tokens and memory that a recipe takes."""
    from vestige.experiment import demo as demo_recipe
    from vestige.experiment.plan import make_plan
    from vestige.experiment.recipe import Experiment, load_recipe

    chosen = load_recipe(recipe, changes or [], size) if recipe else demo_recipe.recipe()
    if not isinstance(chosen, Experiment):
        raise ConfigError(
            "vestige plan is for language models; small networks take a minute or two"
        )
    planned = make_plan(chosen, half_width=half_width, sd=sd, like=like)

    def text() -> None:
        table = Table(show_header=False)
        for key, value in planned.items():
            table.add_row(key.replace("_", " "), str(value))
        out.print(table)

    print_result(planned, as_json, text)
