"""Small networks: the accuracy of every arm."""

from __future__ import annotations

from rich.table import Table

from vestige.cli.output import out
from vestige.core.results import MlpResults


def print_summary(results: MlpResults) -> None:
    """Print a table with a line for each group of networks."""
    table = Table("networks", "accuracy", "95% interval")
    for arm in results.arms:
        a = arm.accuracy
        table.add_row(arm.label, f"{a.value:.3f}", f"{a.low:.3f} to {a.high:.3f}")
    out.print(table)
