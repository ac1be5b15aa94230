"""``vestige doctor``: what is wrong with this installation, and how to mend it."""

from __future__ import annotations

import dataclasses
import json
import time

import typer
from rich.markup import escape
from rich.table import Table

from vestige.data_cli import AsJson, err, out

SHOWN = {
    "ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "wrong": "[red]wrong[/]",
    "skipped": "[dim]skipped[/]",
}  # fmt: skip


def doctor(as_json: AsJson = False) -> None:
    """Check this installation against known answers; exit status 1 if something is wrong."""
    begin = time.monotonic()
    with err.status("loading") as line:
        from vestige.doctor import examine

        found = []
        for check in examine():
            found.append(check)
            line.update(f"checked: {check.name}")
    wrong = [check for check in found if check.status == "wrong"]
    if as_json:
        checks = [dataclasses.asdict(check) for check in found]
        print(json.dumps({"ok": not wrong, "checks": checks}))
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
