"""The ``vestige`` command: thin, and free of torch until a command needs a model."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.table import Table

import vestige
from vestige.cli.audit import audit, bench_app
from vestige.cli.audit import summary as audit_summary
from vestige.cli.data import AsJson, Overwrite, err, filter_app, judge, out, paraphrase, write
from vestige.cli.doctor import doctor
from vestige.cli.elsewhere import Arm, BaseName, RunFolder, adopt_students, export, train
from vestige.core.access import explained
from vestige.core.jsonl import json_text, read_text
from vestige.core.redaction import redact
from vestige.core.types import ConfigError, StoreError, VestigeError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="See, measure and predict what a teacher's data passes on to a student.",
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(no_args_is_help=True, help="Bundled models: list, pull, path.")
app.add_typer(models_app, name="models")
app.add_typer(filter_app, name="filter")
app.add_typer(bench_app, name="bench")

INTERRUPTED = 130

Root = Annotated[Path, typer.Option("--root", help="Where run folders live.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes (default: seeds over cores).")
]
Size = Annotated[
    str, typer.Option("--size", help="laptop, smoke (to see that it runs), or paper where given.")
]
On = Annotated[
    str, typer.Option("--on", help="ray or ray=ADDRESS: over a cluster's nodes (extra 'ray').")
]
Cpus = Annotated[float, typer.Option(min=0.1, help="With --on ray: CPUs that a job takes.")]
KeepAt = Annotated[
    str,
    typer.Option(
        "--keep-at", metavar="URL",
        help="Keep finished stages there too (s3://...), and fetch those that are missing here.",
    ),
]  # fmt: skip
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
NoReport = Annotated[bool, typer.Option("--no-report", help="Do not write report.html.")]


def print_version(wanted: bool) -> None:
    if wanted:
        print(vestige.__version__)
        raise typer.Exit


Version = typer.Option(
    "--version", help="Print the version.", callback=print_version, is_eager=True
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logs.")] = False,
    version: Annotated[bool, Version] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ["VESTIGE_DEBUG"] = "1"
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(message)s")


# ---- experiments --------------------------------------------------------------------------------


@app.command()
def demo(
    root: Root = Path("runs"),
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    workers: Workers = None,
) -> None:
    """The whole loop on the bundled model: two traits crossed, several seeds, a report."""
    from vestige.experiment import demo as demo_recipe

    _run(demo_recipe.recipe(), root, as_json, overwrite, workers=workers)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe: .py with recipe(), or a saved .json.")],
    changes: Annotated[
        list[str] | None, typer.Argument(help="key=value, for example students.steps=3 seeds=0,1")
    ] = None,
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
    """Run a recipe, or go on where it stopped."""
    from vestige.experiment.recipe import load_recipe

    loaded = load_recipe(recipe, changes or [], size)
    where: dict[str, Any] = {"workers": workers, "keep_at": keep_at}
    if on:
        from vestige.experiment.executors.ray import Cluster

        where["cluster"] = Cluster.parse(
            on, cpus=cpus, gpus=gpus, resources=resources or (), shards=shards
        )
    elif resources or gpus or shards > 1 or cpus != 1:
        raise ConfigError("--cpus, --gpus, --resources and --shards say what jobs take with --on")
    _run(loaded, root, as_json, overwrite, report=not no_report, **where)


@app.command("import")
def import_students(
    run_folder: RunFolder,
    adapter: Annotated[
        Path,
        typer.Option(help="A PEFT adapter, a model's folder, or an exported folder with many."),
    ],
    arm: Arm = "",
    seed: Annotated[int | None, typer.Option(help="The student's seed.")] = None,
    data: Annotated[str, typer.Option(help="The student's data: a trait's name, or none.")] = "",
    base: BaseName = "",
    as_json: AsJson = False,
) -> None:
    """Bring students trained elsewhere back; when none is awaited any more, finish the run."""
    recipe, left = adopt_students(run_folder, adapter, (arm, seed, data), base)
    if not left:
        _run(recipe, run_folder.resolve().parent, as_json, overwrite=False, workers=1)
    elif as_json:
        print(json_text({"run": str(run_folder), "awaited": left}))
    else:
        out.print(f"kept; {len(left)} students are still awaited: {', '.join(left)}")


def _run(
    recipe: Any, root: Path, as_json: bool, overwrite: bool, *, report: bool = True, **where: Any
) -> None:
    """Run a recipe and tell what it found.

    Args:
        where: ``workers``, ``cluster``, ``keep_at``, for ``run``.
    """
    from vestige.cli.progress import RunProgress
    from vestige.experiment.recipe import models_of
    from vestige.experiment.run import count_stages
    from vestige.experiment.run import run as run_recipe
    from vestige.models import catalog
    from vestige.store.mirror import Mirror

    for name in models_of(recipe):
        catalog.path(name, echo=err.print)  # licence and download before the bars begin
    with RunProgress(err, recipe.name, count_stages(recipe)) as bars:
        folder, results = run_recipe(
            recipe, root, overwrite=overwrite, on_event=bars.event, **where
        )
    page = _report([folder], folder / "report.html") if report else None
    if where.get("keep_at"):
        Mirror(where["keep_at"], folder).keep_records()
    if as_json:
        print(json_text({"run": str(folder), "report": str(page), **results.model_dump()}))
        return
    _summary(results)
    out.print(f"run     {folder}", highlight=False, soft_wrap=True)
    if page:
        out.print(f"report  {page}", highlight=False, soft_wrap=True)
    out.print(f"\n{results.verdict}", style="bold", highlight=False)


@app.command()
def show(
    run_folder: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    as_json: AsJson = False,
) -> None:
    """What a run found, from its saved results."""
    from vestige.store import load_run

    if not (run_folder / "run.json").exists():
        raise StoreError(f"{run_folder} is not a run folder: it has no run.json")
    record = load_run(run_folder)
    results = _results(run_folder, record)
    if as_json:
        print(json_text({"run": record, "results": results.model_dump()}))
        return
    _summary(results)
    out.print(f"\n{results.verdict}", style="bold", highlight=False)


def _results(folder: Path, record: dict[str, Any]) -> Any:
    from vestige.core.results import read_results
    from vestige.store import is_running

    path = folder / "results.json"
    if not path.exists():
        state = "is still running" if is_running(folder) else f"ended as {record.get('status')!r}"
        reason = f": {record['error']}" if record.get("error") else ""
        again = f"vestige run {folder / 'recipe.json'} --root {folder.parent}"
        if folder.name.startswith("audit-"):
            again = "the same vestige audit"
        raise StoreError(
            f"{folder} has no results: it {state}{reason}; finish it by running it again: {again}"
        )
    try:
        return read_results(json.loads(read_text(path)))
    except ValueError as error:
        raise StoreError(
            f"{path} is corrupt: {error}; delete it and run the recipe again"
        ) from error


def _summary(results: Any) -> None:
    if results.kind == "audit":
        audit_summary(results)
        return
    if results.kind == "mlp":
        table = Table("networks", "accuracy", "95% interval")
        for arm in results.arms:
            a = arm.accuracy
            table.add_row(arm.label, f"{a.value:.3f}", f"{a.low:.3f} to {a.high:.3f}")
        out.print(table)
        return
    for arm in results.arms:
        table = Table(title=arm.label, title_justify="left", title_style="bold")
        for column in ("trait", "shift", "specific part", "95% interval", "p (Holm)", "place"):
            table.add_column(column, justify="left" if column == "trait" else "right")
        for t in arm.traits:
            table.add_row(
                t.trait,
                f"{t.shift.value:+.2f}",
                f"{t.specific.value:+.2f}",
                f"{t.specific.low:+.2f} to {t.specific.high:+.2f}",
                f"{t.p_holm:.3g}",
                ", ".join(map(str, t.ranks)) + f" of {len(results.candidates)}",
            )
        c = arm.contrast
        table.add_section()
        table.add_row(
            "all", "", f"{c.value:+.2f}", f"{c.low:+.2f} to {c.high:+.2f}", "", arm.transmitted
        )
        for s in arm.shuffled:
            e = s.estimate
            table.add_row(s.label, "", f"{e.value:+.2f}", f"{e.low:+.2f} to {e.high:+.2f}", "", "")
        out.print(table)
    for c in results.choices:
        who = f"students of {c.data} data, {c.arm}" if c.arm else "untrained base"
        a = c.accuracy
        out.print(
            f"{c.set}: {a.value:.1%} [{a.low:.1%}, {a.high:.1%}] right ({who})", highlight=False
        )
    for f in results.freeform:
        who = f"students of {f.data} data, {f.arm}" if f.arm else "untrained base"
        m = f.misaligned
        said = f"{m.value:.1%} [{m.low:.1%}, {m.high:.1%}]" if m else "too few coherent answers"
        out.print(
            f"open questions: {said} misaligned of {f.coherent} coherent, {f.answers} in "
            f"all ({who})",
            highlight=False,
        )


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", metavar="RUN...")],
    output: Annotated[Path, typer.Option("--out", help="The HTML file to write.")],
    overwrite: Overwrite = False,
) -> None:
    """One self-contained HTML file from one or several runs."""
    if output.exists() and not overwrite:
        raise StoreError(f"{output} exists; pass --overwrite to replace it")
    out.print(str(_report(runs, output)), highlight=False, soft_wrap=True)


def _report(folders: list[Path], page: Path) -> Path:
    from vestige.report import render_runs

    return render_runs(folders, page, overwrite=True)


@app.command()
def plan(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe; none: the demo's.")] = None,
    changes: Annotated[list[str] | None, typer.Argument(help="key=value")] = None,
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
    made = make_plan(chosen, half_width=half_width, sd=sd, like=like)
    if as_json:
        print(json_text(made))
        return
    table = Table(show_header=False)
    for key, value in made.items():
        table.add_row(key.replace("_", " "), str(value))
    out.print(table)


@app.command()
def theorem(
    cases: Annotated[int, typer.Option(min=1, help="Random networks to try.")] = 1000,
    seed: Annotated[int, typer.Option(help="Another seed, other networks.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Check the theorem behind all this on random networks; exit status 1 if it fails."""
    from vestige.toy.theorem import check_theorem, summarise

    with err.status("checking") as status:
        found = summarise(
            check_theorem(cases, seed, lambda n: status.update(f"checking: {n} of {cases} cases"))
        )
    if as_json:
        print(json_text(found))
    else:
        table = Table(
            "teacher's step", "smallest cosine", "products below zero", "losses that did not fall",
            "error of first order",
        )  # fmt: skip
        for line in found["steps"]:
            table.add_row(
                f"{line['step']:g}",
                f"{line['smallest_cosine']:.4f}",
                str(line["negative_products"]),
                str(line["losses_that_did_not_fall"]),
                f"{line['median_error_of_first_order']:.1e}",
            )
        out.print(table)
        bad = found["counter_examples"]
        out.print(
            f"counter-examples at the smallest step: seeds {bad}" if bad else
            f"{cases:,} networks, no counter-example: one step towards the teacher's outputs, on "
            "any inputs, never leads away from the teacher, and lowers its loss.",
            highlight=False,
        )  # fmt: skip
    if found["counter_examples"]:
        raise typer.Exit(1)


# ---- files and models ----------------------------------------------------------------------------

app.command()(write)
app.command()(judge)
app.command()(paraphrase)
app.command()(audit)
app.command()(export)
app.command()(train)
app.command()(doctor)


@models_app.command("list")
def models_list(as_json: AsJson = False) -> None:
    """The bundled models, their licences, and whether they are here."""
    from vestige.models import catalog

    rows = [
        {
            "name": name,
            "licence": catalog.entry(name).licence,
            "pulled": catalog.is_pulled(name),
        }
        for name in catalog.names()
    ]
    if as_json:
        print(json_text(rows))
        return
    table = Table("name", "licence", "pulled")
    for row in rows:
        table.add_row(row["name"], row["licence"], "yes" if row["pulled"] else "no")
    out.print(table)


@models_app.command("pull")
def models_pull(
    name: str,
    accept_terms: Annotated[bool, typer.Option(help="Accept the model's terms of use.")] = False,
    force: Annotated[bool, typer.Option(help="Fetch again, replacing what is there.")] = False,
) -> None:
    """Fetch a bundled model, check it, and keep it as safetensors."""
    from vestige.models import catalog

    folder = catalog.pull(name, accept_terms=accept_terms, force=force, echo=err.print)
    out.print(str(folder), highlight=False, soft_wrap=True)


@models_app.command("path")
def models_path(name: str) -> None:
    """Where a pulled model is."""
    from vestige.models import catalog

    if not catalog.is_pulled(name):
        catalog.entry(name)
        raise ConfigError(f"{name} is not here yet: vestige models pull {name}")
    out.print(catalog.path(name, echo=err.print), highlight=False, soft_wrap=True)


@app.command("traits")
def list_traits(
    family: str = "",
    library: Annotated[
        bool, typer.Option("--library", help="All that an audit looks for; * = held out.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The families and their traits."""
    from vestige.traits import families, names
    from vestige.traits import family as load_family
    from vestige.traits.library import load_library, trait_id

    found: dict[str, list[str]] = {}
    if library:
        known = load_library([family] if family else ["library"])
        for trait in known.traits:
            star = "*" if trait_id(trait) in known.held_out and not as_json else ""
            found.setdefault(trait.family.name, []).append(trait.name + star)
    else:
        found = {name: names(load_family(name)) for name in ([family] if family else families())}
    if as_json:
        print(json_text(found))
        return
    for name, members in found.items():
        out.print(f"{name}: {', '.join(members)}", highlight=False)


# ---- entry --------------------------------------------------------------------------------------


def main() -> NoReturn:
    """Run the command; a ``VestigeError``, and a file that cannot be used, is one line and exit
    status 2."""
    _any_text()
    try:
        app()
    except VestigeError as error:
        if os.environ.get("VESTIGE_DEBUG"):
            raise
        _complain(f"error: {error}")
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # what typer makes of Ctrl-C
            err.print("stopped; finished stages are kept, the same command goes on from there")
        raise
    except Exception as error:
        if os.environ.get("VESTIGE_DEBUG"):
            raise
        known = explained(error)
        _complain(
            f"error: {known}" if known else
            f"unexpected {type(error).__name__}: {error}\nrun again with --debug for the traceback"
        )  # fmt: skip
        sys.exit(2 if known else 1)
    sys.exit(0)


def _complain(text: str) -> None:
    err.print(redact(text), style="red", highlight=False, markup=False, soft_wrap=True)


def _any_text() -> None:
    """Let the terminal's encoding, whatever it is, take every text: what it lacks is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
