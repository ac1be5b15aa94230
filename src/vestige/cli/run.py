"""The commands that run a recipe: ``demo`` and ``run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vestige.cli.options import (
    AsJson,
    Changes,
    NoReport,
    Overwrite,
    RecipeFile,
    Root,
    Size,
    Workers,
)
from vestige.cli.output import err, out, print_path, print_result
from vestige.cli.progress import ProgressBar
from vestige.core.types import ConfigError

if TYPE_CHECKING:
    from vestige.core.kinds import Kind

On = Annotated[
    str, typer.Option("--on", help="ray or ray=ADDRESS: over a cluster's nodes (extra 'ray').")
]
Cpus = Annotated[float, typer.Option(min=0.1, help="With --on ray: CPUs that a job takes.")]
Gpus = Annotated[float, typer.Option(min=0, help="With --on ray: GPUs that a job takes.")]
Resources = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND:cpus=N,gpus=N",
        help="With --on ray: what jobs of one kind take instead (base, teachers, targets, "
        "shards, rows, students, judge); may be given again.",
    ),
]
Shards = Annotated[
    int, typer.Option(min=1, help="With --on ray: parts that each teacher's rows are written in.")
]
KeepAt = Annotated[
    str,
    typer.Option(
        "--keep-at",
        metavar="URL",
        help="Keep finished stages there too (s3://...), and fetch those that are missing here.",
    ),
]


def demo(
    root: Root = Path("runs"),
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    workers: Workers = None,
) -> None:
    """The whole loop on the bundled model: two traits crossed, several seeds, a report."""
    from vestige.experiment import demo as demo_recipe

    run_recipe(demo_recipe.recipe(), root, as_json, overwrite, workers=workers)


def run(
    recipe: RecipeFile,
    changes: Changes = None,
    size: Size = "laptop",
    root: Root = Path("runs"),
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    workers: Workers = None,
    on: On = "",
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    resources: Resources = None,
    shards: Shards = 1,
    keep_at: KeepAt = "",
    no_report: NoReport = False,
) -> None:
    """Run a recipe, or go on where it stopped.

    The recipe.json of a run folder repeats that run, whatever its kind.
    """
    from vestige.experiment.recipe import load_recipe
    from vestige.kinds import kind_of_recipe

    cluster = cluster_of(on, cpus, gpus, resources or [], shards)
    kind = kind_of_recipe(recipe)
    if kind.run is None:
        if changes or cluster or workers or keep_at or size != "laptop":
            raise ConfigError(
                f"{recipe}: a run of the kind {kind.name!r} is repeated as it was; only "
                "--overwrite, --no-report and --json go with it"
            )
        replay(kind, recipe, as_json, overwrite, report=not no_report)
        return
    executor = {"workers": workers, "keep_at": keep_at, "cluster": cluster}
    executor = {name: value for name, value in executor.items() if value}
    if executor and not kind.takes_executor:
        names = ", ".join(executor)
        raise ConfigError(f"{recipe}: a run of the kind {kind.name!r} takes no {names}")
    loaded = load_recipe(recipe, changes or [], size, kind.settings)
    run_recipe(loaded, root, as_json, overwrite, report=not no_report, **executor)


def cluster_of(on: str, cpus: float, gpus: float, resources: list[str], shards: int) -> Any:
    """The cluster that the options name; None without ``--on``."""
    if on:
        from vestige.experiment.executors.ray import Cluster

        return Cluster.parse(on, cpus=cpus, gpus=gpus, resources=resources, shards=shards)
    if resources or gpus or shards > 1 or cpus != 1:
        raise ConfigError("--cpus, --gpus, --resources and --shards say what jobs take with --on")
    return None


def run_recipe(
    recipe: Any, root: Path, as_json: bool, overwrite: bool, *, report: bool = True, **executor: Any
) -> None:
    """Run a recipe and print what was found.

    Args:
        executor: ``workers``, ``cluster``, ``keep_at``, for the kind's ``run``.
    """
    from vestige.kinds import find_kind
    from vestige.models import catalog

    kind = find_kind(recipe.kind, recipe.name)
    assert kind.run, "a recipe that was loaded can be run"
    for name in kind.models(recipe):
        catalog.path(name, echo=err.print)  # licence and download before the bar begins
    if "cluster" not in executor:
        say_time(kind, recipe, executor.get("workers"))
    with ProgressBar(recipe.name, kind.stages(recipe) if kind.stages else None) as bar:
        folder, results = kind.run(recipe, root, overwrite=overwrite, report=bar.stage, **executor)
    print_run(kind, folder, results, as_json, report, executor.get("keep_at", ""))


#: A run of more minutes than this is announced with its time.
LONG = 10


def say_time(kind: Kind, recipe: Any, workers: int | None) -> None:
    """Say beforehand how long a long run takes."""
    expected = kind.time(recipe, workers) if kind.time else None
    if expected and expected[0] > LONG:
        minutes, processes = expected
        time = f"{minutes / 60:.1f} hours" if minutes >= 90 else f"{minutes:.0f} minutes"
        err.print(
            f"{recipe.name}: about {time} in {processes} processes on cores like the reference's "
            "(vestige plan); stop it at any time, the same command goes on"
        )


def replay(kind: Kind, recipe: Path, as_json: bool, overwrite: bool, *, report: bool) -> None:
    """Run what is unfinished in the folder of a ``recipe.json``, and print what was found."""
    if recipe.name != "recipe.json":
        raise ConfigError(f"{recipe}: give the recipe.json of a run folder")
    with ProgressBar(recipe.parent.name) as bar:
        folder, results = kind.replay(recipe.parent, overwrite=overwrite, report=bar.stage)
    print_run(kind, folder, results, as_json, report)


def print_run(
    kind: Kind, folder: Path, results: Any, as_json: bool, report: bool, keep_at: str = ""
) -> None:
    """Write the report of a finished run, keep its records elsewhere too, and print all."""
    from vestige.store.mirror import Mirror

    page = None
    if report and kind.template:
        from vestige.report import render_runs

        page = render_runs([folder], folder / "report.html", overwrite=True)
    if keep_at:
        Mirror(keep_at, folder).keep_records()

    def text() -> None:
        from vestige.cli.summaries import print_summary

        print_summary(results)
        print_path("run", folder)
        if page:
            print_path("report", page)
        out.print(f"\n{kind.verdict(results)}", style="bold")

    print_result({"run": str(folder), "report": str(page), **results.model_dump()}, as_json, text)
