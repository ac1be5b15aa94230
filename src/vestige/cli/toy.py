"""``vestige theorem``: the theorem behind subliminal learning, checked on random networks."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from vestige.cli.options import AsJson
from vestige.cli.output import out, print_result
from vestige.cli.progress import ProgressBar


def theorem(
    cases: Annotated[int, typer.Option(min=1, help="Random networks to try.")] = 1000,
    seed: Annotated[int, typer.Option(help="Another seed, other networks.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Check the theorem behind all this on random networks; exit status 1 if it fails."""
    from vestige.toy.theorem import check_theorem, summarise

    with ProgressBar("checking", cases) as bar:
        checked = check_theorem(cases, seed, lambda n: bar.update(f"{n} of {cases} cases", n))
        summary = summarise(checked)
    print_result(summary, as_json, lambda: print_theorem(summary, cases))
    if summary["counter_examples"]:
        raise typer.Exit(1)


def print_theorem(summary: dict[str, Any], cases: int) -> None:
    """A line for each size of the teacher's step, and what follows."""
    table = Table(
        "teacher's step",
        "smallest cosine",
        "products below zero",
        "losses that did not fall",
        "error of first order",
    )
    for step in summary["steps"]:
        table.add_row(
            f"{step['step']:g}",
            f"{step['smallest_cosine']:.4f}",
            str(step["negative_products"]),
            str(step["losses_that_did_not_fall"]),
            f"{step['median_error_of_first_order']:.1e}",
        )
    out.print(table)
    if counter_examples := summary["counter_examples"]:
        out.print(f"counter-examples at the smallest step: seeds {counter_examples}")
    else:
        out.print(
            f"{cases:,} networks, no counter-example: one step towards the teacher's outputs, on "
            "any inputs, never leads away from the teacher, and lowers its loss."
        )
