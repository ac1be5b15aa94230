"""A benchmark of detection: rates by group of students."""

from __future__ import annotations

from rich.table import Table

from vestige.cli.output import out
from vestige.core.writers import WritersResults


def print_summary(results: WritersResults) -> None:
    """Print a table with a line for each rate."""
    table = Table("students", "", "share", "95% interval", "of")
    for rate in results.rates:
        share = rate.share
        table.add_row(
            rate.group,
            rate.what,
            f"{share.value:.1%}",
            f"{share.low:.1%} to {share.high:.1%}",
            str(rate.students),
        )
    out.print(table)
