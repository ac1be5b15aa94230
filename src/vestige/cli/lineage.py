"""``vestige lineage``: do two models share an initialisation?"""

from __future__ import annotations

from typing import Annotated

import typer

from vestige.cli.audit import errors_end_in_status_2
from vestige.cli.options import AsJson
from vestige.cli.output import err, out, print_lines, print_result
from vestige.core.types import ConfigError

First = Annotated[str, typer.Argument(help="A model: a bundled name, a folder or a hub id.")]
Second = Annotated[str, typer.Argument(help="The other one.")]
Layers = Annotated[int, typer.Option(help="Layers that are compared, evenly spread; 0: all.")]
Expect = Annotated[
    str, typer.Option(help="same or other: anything else ends in status 1, or 3 if unclear.")
]


def lineage(
    first: First, second: Second, layers: Layers = 8, expect: Expect = "", as_json: AsJson = False
) -> None:
    """Do two models share an initialisation? Hidden traits pass between such models alone.

    Tokens and shapes first; then the weights: whether the MLP units of both pair up, in whatever
    order they are. Two models of one architecture and another seed do not share one.
    """
    from vestige.lineage.run import lineage as compare
    from vestige.models import catalog
    from vestige.models.loading import quiet_transformers

    if expect not in ("", "same", "other"):
        raise ConfigError(f"--expect is {expect!r}; valid: same, other")
    with errors_end_in_status_2():
        for name in (first, second):
            catalog.path(name, echo=err.print)
        quiet_transformers()
        results = compare(first, second, layers=layers)

    def text() -> None:
        print_lines(f"  {reason}" for reason in results.why)
        out.print(results.verdict, style="bold", markup=False)

    print_result(results.model_dump(), as_json, text)
    if expect and results.outcome != expect:
        raise typer.Exit(3 if results.outcome == "cannot_tell" else 1)
