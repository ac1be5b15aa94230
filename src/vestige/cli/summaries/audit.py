"""An audit: the strongest traits, the planted ones, and what was read."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from vestige.cli.output import out
from vestige.core.results import AuditPlanted, AuditResults

SHOWN = 8  # traits in the table, by choice: the report has all
SMALLEST_P = 1e-6  # the smallest p-value that is written out, by choice


def print_summary(results: AuditResults) -> None:
    """Print the strongest traits and the planted ones, and the counts of rows and tokens."""
    out.print(trait_table(results))
    out.print(f"evidence: {results.p_note}")
    if results.p_base is not None:
        out.print(base_words(results))
    for line in controls(results.planted):
        out.print(line)
    for reason in results.why:
        out.print(f"  {reason}")
    if results.logprobs_used or results.logprobs_unused:
        total = results.logprobs_used + sum(results.logprobs_unused.values())
        out.print(
            f"log-probabilities: {results.logprobs_used:,} of {total:,} tokens have usable ones"
        )
        for reason, count in results.logprobs_unused.items():
            out.print(f"  {count:>9,} tokens have none: {reason}")
    for reason, count in results.dropped.items():
        out.print(f"  {count:>9,} rows set aside: {reason}")


def trait_table(results: AuditResults) -> Table:
    """The strongest traits. Where the terminal is narrow, names are broken and no number is."""
    table = Table(
        title=f"{results.data} for {results.base}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    first = results.traits[0]
    columns = ["evidence\n(nats)", "share\nof rows", "pull\n(%)", "rows\nread"]
    columns += ["expected\n(nats)"] if first.expected else []
    columns += ["canary\n(nats)"] if first.canary else []
    table.add_column("trait", overflow="fold", min_width=12)
    for column in [*columns, ""]:
        table.add_column(column, justify="right", no_wrap=True, overflow="fold")
    for t in results.traits[:SHOWN]:
        cells = [f"{t.evidence:+.1f}", f"{t.share:.0%}", f"{t.pull:+.1f}", str(t.rows)]
        sizes = [f"{v.value:+.2f}" for v in (t.expected, t.canary) if v]
        note = "flagged" if t.flagged else "as likely" if t.as_likely else ""
        table.add_row(t.trait, *cells, *sizes, note)
    return table


def base_words(results: AuditResults) -> str:
    """The one p-value of an audit, with what it is about."""
    p = results.p_base or 0.0
    shown = "< 1e-6" if p < SMALLEST_P else f"= {p:.2g}"
    large = "; a large p does not show that it did" if p > 0.05 else ""
    return f"that the untouched {results.base} wrote these rows at temperature 1: p {shown}{large}"


def controls(planted: Sequence[AuditPlanted]) -> list[str]:
    """How many planted traits were found, by the kind of teacher."""
    by_kind: dict[str, list[bool]] = {}
    for p in planted:
        by_kind.setdefault(p.kind, []).append(p.found)
    return [
        f"positive control ({kind}): {sum(found)} of {len(found)} planted traits found"
        for kind, found in by_kind.items()
    ]
