"""``vestige doctor``: what is wrong with this installation, and how to mend it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from vestige.cli.data import AsJson, err, out
from vestige.core.types import ConfigError

if TYPE_CHECKING:
    from vestige.doctor.checks import Check

SHOWN = {
    "ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "wrong": "[red]wrong[/]",
    "skipped": "[dim]skipped[/]",
}  # fmt: skip


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
    with err.status("loading") as line:
        found = []
        for check in checks_of(model, chat):
            found.append(check)
            line.update(f"checked: {check.name}")
    wrong = [check for check in found if check.status == "wrong"]
    if as_json:
        checks = [dataclasses.asdict(check) for check in found]
        subject = {"model": model} if model else {}
        print(json.dumps({**subject, "ok": not wrong, "checks": checks}))
        raise typer.Exit(1 if wrong else 0)
    table = Table("check", "", "what was seen")
    for check in found:
        table.add_row(check.name, SHOWN[check.status], escape(check.seen))
    out.print(table)
    for check in found:
        if check.fix:
            out.print(f"{check.name}: {check.fix}", highlight=False, markup=False, soft_wrap=True)
    verdict = f"{len(wrong)} checks are wrong" if wrong else "nothing is wrong"
    out.print(f"{verdict} ({time.monotonic() - begin:.0f} s)", style="bold", highlight=False)
    raise typer.Exit(1 if wrong else 0)


def checks_of(model: str, chat: str) -> Iterator[Check]:
    """The checks of a model, or of the installation."""
    if model:
        from vestige.doctor.model import examine

        return examine(model, chat)  # type: ignore[arg-type]
    from vestige.doctor import installation

    return installation.examine()


def show_architectures(as_json: bool) -> None:
    """Print what became of every class; status 1 if one is wrong."""
    from vestige.doctor import architectures

    found = []
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("architectures", total=len(architectures.classes()))
        for outcome in architectures.examine_all():
            found.append(outcome)
            bar.update(task, advance=1, description=outcome.kind)
    wrong = [outcome for outcome in found if outcome.path == "WRONG"]
    if as_json:
        listed = [dataclasses.asdict(outcome) for outcome in found]
        print(json.dumps({"ok": not wrong, "transformers": version("transformers"),
                          "architectures": listed}))  # fmt: skip
    else:
        print(architectures.as_markdown(found, version("transformers")), end="")
    raise typer.Exit(1 if wrong else 0)
