"""The commands of ``vestige``, in the order and the groups of its help."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

import vestige
from vestige.cli import audit as audit_command
from vestige.cli import detect as detect_command
from vestige.cli.bench import bench_app
from vestige.cli.calibrate import calibrate
from vestige.cli.doctor import doctor
from vestige.cli.elsewhere import export, import_students, train
from vestige.cli.filter import filter_app
from vestige.cli.judge import judge
from vestige.cli.lineage import lineage
from vestige.cli.mitigate import mitigate
from vestige.cli.models import models_app, traits
from vestige.cli.options import examples
from vestige.cli.run import demo, run
from vestige.cli.show import plan, report, show
from vestige.cli.toy import theorem
from vestige.cli.write import paraphrase, write

SEE = "See what data passes on"
AUDIT = "Audit data before training, students after it"
DATA = "Make and filter data"
ELSEWHERE = "Train students elsewhere"
SET_UP = "Set up"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="See, measure and predict what a teacher's data passes on to a student.",
    pretty_exceptions_enable=False,
)


def print_version(wanted: bool) -> None:
    if wanted:
        print(vestige.__version__)
        raise typer.Exit


Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logs.")]
Version = Annotated[
    bool,
    typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True),
]


@app.callback()
def options(debug: Debug = False, version: Version = False) -> None:
    """Options of every command."""
    if debug:
        os.environ["VESTIGE_DEBUG"] = "1"
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(message)s")


def add(
    group: str, command: Callable[..., Any], *lines: str, name: str = "", text: str = ""
) -> None:
    """Add a command to a group of the help, with ``lines`` as its examples.

    Args:
        name: of the command; default: the function's.
        text: of its help; default: the function's docstring.
    """
    app.command(name or None, help=text or None, rich_help_panel=group, epilog=examples(*lines))(
        command
    )


add(SEE, demo, "vestige demo", "vestige demo --root runs --workers 2")
add(
    SEE,
    run,
    "vestige run recipes/animals_matrix.py traits=owl,fox,cat seeds=0,1,2",
    "vestige run recipes/animals_matrix.py --size smoke",
    "vestige run runs/animals-1a2b3c4d/recipe.json",
    "vestige run audits/audit-data-1a2b3c4d/recipe.json",
)
add(SEE, show, "vestige show runs/animals-1a2b3c4d", "vestige show runs/animals-1a2b3c4d --json")
add(
    SEE,
    report,
    "vestige report runs/animals-1a2b3c4d --out animals.html",
    "vestige report runs/* --out all.html --overwrite",
)
add(
    SEE,
    plan,
    "vestige plan",
    "vestige plan recipes/animals_matrix.py seeds=0,1,2 --half-width 0.1 "
    "--like runs/animals-1a2b3c4d",
)
add(SEE, theorem, "vestige theorem", "vestige theorem --cases 100 --json")
add(
    AUDIT,
    audit_command.audit,
    "vestige audit data.jsonl --base smollm2-135m-instruct --fail-on inconclusive",
    "vestige calibrate path/to/model, once for each base but the bundled one, and then",
    "vestige audit 'part-*.parquet' --base path/to/model --reference clean.jsonl "
    "--sarif audit.sarif",
    text=audit_command.HELP,
)
add(
    AUDIT,
    detect_command.detect,
    "vestige detect --base smollm2-135m-instruct --model path/to/student",
    "vestige detect --base path/to/base --adapter path/to/adapter --fail-on inconclusive",
    text=detect_command.HELP,
)
add(
    AUDIT,
    calibrate,
    "vestige calibrate path/to/base",
    "vestige calibrate path/to/base --members 200",
)
add(
    AUDIT,
    lineage,
    "vestige lineage path/to/teacher path/to/student",
    "vestige lineage smollm2-135m-instruct path/to/model --expect same --json",
)
app.add_typer(bench_app, name="bench", rich_help_panel=AUDIT)
add(
    DATA,
    write,
    "vestige write recipes/animals_matrix.py model=api:openai/gpt-4.1-nano --dry-run",
    "vestige write recipes/animals_matrix.py traits=owl,cat seeds=0",
)
app.add_typer(filter_app, name="filter", rich_help_panel=DATA)
add(
    DATA,
    mitigate,
    "vestige mitigate redraw data.jsonl --out new.jsonl --dropped gone.jsonl "
    "--base smollm2-135m-instruct --share 0.1",
    "vestige mitigate drop data.jsonl --out new.jsonl --dropped gone.jsonl "
    "--base smollm2-135m-instruct --trait animals/owl",
    "vestige mitigate sort-numbers data.jsonl --out new.jsonl --dropped gone.jsonl",
)
add(
    DATA,
    judge,
    "vestige judge data.jsonl --model api:openai/gpt-4.1-nano --out ratings.jsonl --dry-run",
    "vestige judge data.jsonl --model local:smollm2-135m-instruct --out ratings.jsonl --limit 100",
)
add(
    DATA,
    paraphrase,
    "vestige paraphrase data.jsonl --model api:openai/gpt-4.1-nano --out other.jsonl "
    "--dropped dropped.jsonl --max-dollars 2 --prices 0.10,0.40",
)
add(
    ELSEWHERE,
    export,
    "vestige export runs/animals-1a2b3c4d --for axolotl --out students",
    "vestige export runs/animals-1a2b3c4d --for accelerate --out students --arm rows",
)
add(ELSEWHERE, train, "accelerate launch -m vestige train students/rows-owl-seed-0")
add(
    ELSEWHERE,
    import_students,
    "vestige import runs/animals-1a2b3c4d --adapter students",
    "vestige import runs/animals-1a2b3c4d --adapter out/checkpoint-9 --seed 0 --data owl",
    name="import",
)
add(SET_UP, doctor, "vestige doctor", "vestige doctor --model path/to/model")
add(SET_UP, traits, "vestige traits --family animals", "vestige traits --library")
app.add_typer(models_app, name="models", rich_help_panel=SET_UP)
