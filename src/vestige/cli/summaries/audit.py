"""An audit: the strongest traits, the doses that copies read, and what was read."""

from __future__ import annotations

from rich import box
from rich.table import Table

from vestige.cli.output import from_to, out
from vestige.core.audit_results import AuditDose, AuditResults, AuditTrait

SHOWN = 8  # traits in the table, by choice: the report has all
SMALLEST_P = 1e-6  # the smallest p-value that is written out, by choice


def print_summary(results: AuditResults) -> None:
    """Print the strongest traits and the doses, and the counts of rows and tokens."""
    out.print(trait_table(results))
    if results.rows_read:
        out.print(f"evidence of the first look: {results.p_note}")
    if results.p_base is not None:
        out.print(base_words(results))
    for dose in results.doses:
        out.print(dose_words(dose))
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
    columns = ["share of\nanswers", "standard\ndeviations", "p"] if first.canary else []
    columns += ["evidence\n(nats)"] if results.rows_read else []  # of the first look
    columns += [] if first.canary else ["pull\n(%)", "rows\nread"]
    columns += ["expected\n(nats)"] if first.expected and not first.canary else []
    table.add_column("trait", overflow="fold", min_width=12)
    for column in [*columns, ""]:
        table.add_column(column, justify="right", no_wrap=True, overflow="fold")
    for t in results.traits[:SHOWN]:
        cells = [f"{t.evidence:+.1f}"] if results.rows_read else []
        if t.canary:
            share = from_to(t.canary.usual_share, t.canary.share)
            own = [share, f"{t.canary.standardised:+.1f}", f"{t.canary.p:.2g}"]
            cells = [*own, *cells]
        else:
            cells += [f"{t.pull:+.1f}", str(t.rows)]
            cells += [f"{t.expected.value:+.2f}"] if t.expected else []
        table.add_row(t.trait, *cells, note(t))
    return table


def note(trait: AuditTrait) -> str:
    """What is said of a trait, in a word or two."""
    if trait.flagged:
        return "flagged"
    return "a relative" if trait.relative else "first look" if trait.named else ""


def dose_words(dose: AuditDose) -> str:
    """What copies of one dose showed."""
    seen = "no share" if dose.smallest_share is None else f"{dose.smallest_share:.0%}"
    return (
        f"copies that read {dose.rows:,} rows: {dose.first} first, p = {dose.p:.2g}; half of the "
        f"traits would have been seen from {seen} of the answers on"
    )


def base_words(results: AuditResults) -> str:
    """The one p-value of an audit, with what it is about."""
    p = results.p_base or 0.0
    shown = "< 1e-6" if p < SMALLEST_P else f"= {p:.2g}"
    large = "; a large p does not show that it did" if p > 0.05 else ""
    return (
        f"that the untouched {results.base} wrote these rows at temperature {sampled(results)}: "
        f"p {shown}{large}"
    )


def sampled(results: AuditResults) -> str:
    """The temperature that the rows were read at, and the nucleus."""
    found = results.sampling
    if found is None or not found.used:
        return "1"
    cut = f", top-p {found.top_p:g}" if found.top_p < 1 else ""
    return f"{found.temperature:g}{cut} (fitted)"
