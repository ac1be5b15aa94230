"""``vestige bench``: how well an audit's first look says what students took on, how often detection
is right, and what defences leave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vestige.cli.detect import Alpha, Members
from vestige.cli.options import AsJson, Changes, Overwrite, Root, Size, Workers, examples
from vestige.cli.output import comma_separated, err, out, print_path, print_result
from vestige.cli.progress import ProgressBar
from vestige.core.types import ConfigError, unknown_name

Runs = Annotated[list[Path], typer.Argument(help="Finished runs with students on sampled rows.")]
Base = Annotated[str, typer.Option(help="The runs' base model.")]
Traits = Annotated[str, typer.Option(help="library, families or .toml files.")]
RowsRead = Annotated[int, typer.Option(min=16, help="Rows that are read at most.")]
Methods = Annotated[
    str, typer.Option(help="Others to compare, such as influence,prompts (docs/audit.md has all).")
]
Clean = Annotated[
    int, typer.Option(min=0, help="Clean data sets that the base writes for each seed.")
]
KnownClean = Annotated[
    list[str] | None,
    typer.Option(
        "--known-clean",
        help="A file of rows that no teacher with a trait wrote; may be given again.",
    ),
]
Seeds = Annotated[str, typer.Option(help="Only these seeds, such as 0,1.")]
Share = Annotated[
    float,
    typer.Option(
        min=0.05,
        max=1.0,
        help="Part of each data set's rows that is its writer's; the base writes the others.",
    ),
]
WithLogprobs = Annotated[
    bool,
    typer.Option(
        "--with-logprobs",
        "--told",
        help="Rows come with their writer's probabilities, as APIs give them; from the runs' "
        "teachers.",
    ),
]
Kept = Annotated[
    Path, typer.Option("--out", help="Where what is computed is kept, to go on after a stop.")
]

WritersBase = Annotated[str, typer.Option("--base", help="The base model.")]
Harmless = Annotated[int, typer.Option(min=1, help="Students of each harmless kind of writer.")]
TraitsOfEach = Annotated[
    int, typer.Option(min=0, help="Traits of each kind of teacher; as many held out on top.")
]
StudentRows = Annotated[int, typer.Option("--rows", min=16, help="Rows that a student reads.")]

bench_app = typer.Typer(no_args_is_help=True, help="Benchmarks against what students took on.")


@bench_app.command(
    "audit",
    epilog=examples(
        "vestige bench audit runs/animals-1a2b3c4d",
        "vestige bench audit runs/* --methods influence,prompts --out bench-audit --json",
    ),
)
def bench_audit(
    runs: Runs,
    base: Base = "smollm2-135m-instruct",
    traits: Traits = "library",
    rows: RowsRead = 256,
    methods: Methods = "",
    clean: Clean = 4,
    known_clean: KnownClean = None,
    seeds: Seeds = "",
    share: Share = 1.0,
    with_logprobs: WithLogprobs = False,
    folder: Kept = Path("bench-audit"),
    as_json: AsJson = False,
) -> None:
    """Take an audit's first look at finished runs' data, and compare it with their students."""
    from vestige.audit.settings import AuditSettings
    from vestige.bench.run import bench_audit as run_bench
    from vestige.bench.settings import BenchSettings
    from vestige.cli.summaries.bench import print_figures
    from vestige.models import catalog
    from vestige.models.loading import quiet_transformers

    quiet_transformers()
    catalog.path(base, echo=err.print)
    settings = BenchSettings(
        audit=AuditSettings(base=base, rows=rows, traits=comma_separated(traits)),
        seeds=numbers(seeds) if seeds else None,
        clean=clean,
        methods=comma_separated(methods),
        share=share,
        with_logprobs=with_logprobs,
    )
    with ProgressBar("benchmark") as bar:
        run_folder, results = run_bench(
            runs, settings, folder, known_clean=known_clean or (), report=bar.update
        )
    print_result(results.figures, as_json, lambda: print_figures(results.figures))
    if not as_json:
        print_path("bench", run_folder)


@bench_app.command(
    "writers",
    epilog=examples(
        "vestige bench writers",
        "vestige bench writers --harmless 2 --traits-of-each 1 --rows 64 --json",
    ),
)
def bench_writers(
    base: WritersBase = "smollm2-135m-instruct",
    traits: Traits = "library",
    members: Members = 100,
    harmless: Harmless = 40,
    traits_of_each: TraitsOfEach = 6,
    rows: StudentRows = 512,
    alpha: Alpha = 0.01,
    root: Root = Path("runs"),
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Examine students of many writers, harmless and with a trait, as vestige detect does."""
    from vestige.bench.writers import run as run_bench
    from vestige.bench.writers_settings import WritersBench
    from vestige.cli.summaries.bench_writers import print_summary
    from vestige.models import catalog
    from vestige.models.loading import quiet_transformers
    from vestige.probing.settings import BatterySettings

    quiet_transformers()
    catalog.path(base, echo=err.print)
    settings = WritersBench(
        battery=BatterySettings(base=base, traits=comma_separated(traits), members=members),
        harmless=harmless,
        traits=traits_of_each,
        rows=rows,
        alpha=alpha,
    )
    with ProgressBar("benchmark") as bar:
        folder, results = run_bench(settings, root, overwrite=overwrite, report=bar.stage)

    def text() -> None:
        print_summary(results)
        print_path("bench", folder)
        out.print(f"\n{results.verdict}", style="bold", markup=False)

    print_result({"run": str(folder), **results.model_dump()}, as_json, text)


@bench_app.command(
    "defences",
    epilog=examples(
        "vestige bench defences",
        "vestige bench defences --size smoke",
        "vestige bench defences --size full --workers 4",
    ),
)
def bench_defences(
    size: Size = "laptop",
    changes: Changes = None,
    root: Root = Path("runs"),
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    workers: Workers = None,
) -> None:
    """Compare what keeps a trait from being passed on: what each leaves, and what it costs."""
    from vestige.cli.run import run_recipe
    from vestige.experiment import defences
    from vestige.experiment.recipe import override, shrink

    sizes = {"laptop": defences.recipe, "full": defences.full, "smoke": defences.recipe}
    if size not in sizes:
        raise unknown_name("size", size, sizes)
    recipe = shrink(sizes[size]()) if size == "smoke" else sizes[size]()
    recipe = override(recipe, changes or [], "defences")
    run_recipe(recipe, root, as_json, overwrite, workers=workers)


def numbers(text: str) -> tuple[int, ...]:
    """The seeds in ``0,1``. Raises ``ConfigError`` for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--seeds takes numbers such as 0,1, not {text!r}")
    return tuple(int(part) for part in parts)
