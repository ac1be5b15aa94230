"""``vestige doctor``: what is wrong with this installation, and how to mend it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from vestige.cli.options import AsJson
from vestige.cli.output import out, print_result
from vestige.cli.progress import ProgressBar
from vestige.core.types import ConfigError

if TYPE_CHECKING:
    from vestige.doctor.checks import Check

COLOURED = {
    "ok": "[green]ok[/]",
    "warning": "[yellow]warning[/]",
    "wrong": "[red]wrong[/]",
    "skipped": "[dim]skipped[/]",
}

Model = Annotated[
    str, typer.Option("--model", help="Check this model instead: a bundled name, folder or hub id.")
]
Chat = Annotated[str, typer.Option(help="With --model: auto, or plain for base models.")]
Architectures = Annotated[
    bool,
    typer.Option(
        "--architectures",
        help="Instead: every causal language model class of the installed transformers, tiny.",
    ),
]


def doctor(
    as_json: AsJson = False,
    model: Model = "",
    chat: Chat = "auto",
    architectures: Architectures = False,
) -> None:
    """Check this installation or a model against known answers; status 1 if something is wrong."""
    if model and architectures:
        raise ConfigError("give --model or --architectures, not both")
    if chat not in ("auto", "plain"):
        raise ConfigError(f"--chat is auto or plain, not {chat!r}")
    if architectures:
        show_architectures(as_json)
        return
    begin = time.monotonic()
    checks: list[Check] = []
    with ProgressBar("checking") as bar:
        bar.update("loading")
        for check in checks_of(model, chat):
            checks.append(check)
            bar.update(check.name)
    seconds = time.monotonic() - begin
    wrong = sum(check.status == "wrong" for check in checks)
    subject = {"model": model} if model else {}
    record = {**subject, "ok": not wrong, "checks": [dataclasses.asdict(c) for c in checks]}
    print_result(record, as_json, lambda: print_checks(checks, wrong, seconds))
    raise typer.Exit(1 if wrong else 0)


def checks_of(model: str, chat: str) -> Iterator[Check]:
    """The checks of a model, or of the installation."""
    if model:
        from vestige.doctor.model import examine

        return examine(model, chat)  # type: ignore[arg-type]
    from vestige.doctor import installation

    return installation.examine()


def print_checks(checks: Sequence[Check], wrong: int, seconds: float) -> None:
    """A line for each check, then how to mend what is not as it should be."""
    table = Table("check", "", "what was seen")
    for check in checks:
        table.add_row(check.name, COLOURED[check.status], escape(check.seen))
    out.print(table)
    for check in checks:
        if check.fix:
            out.print(f"{check.name}: {check.fix}", markup=False, soft_wrap=True)
    verdict = f"{wrong} checks are wrong" if wrong else "nothing is wrong"
    out.print(f"{verdict} ({seconds:.0f} s)", style="bold")


def show_architectures(as_json: bool) -> None:
    """Print what became of every class; status 1 if one is wrong."""
    from vestige.doctor import architectures

    outcomes = []
    with ProgressBar("architectures", len(architectures.classes())) as bar:
        for outcome in architectures.examine_all():
            outcomes.append(outcome)
            bar.update(outcome.kind, len(outcomes))
    wrong = [outcome for outcome in outcomes if outcome.path == "WRONG"]
    record = {
        "ok": not wrong,
        "transformers": version("transformers"),
        "architectures": [dataclasses.asdict(outcome) for outcome in outcomes],
    }
    text = architectures.as_markdown(outcomes, version("transformers"))
    print_result(record, as_json, lambda: print(text, end=""))
    raise typer.Exit(1 if wrong else 0)
