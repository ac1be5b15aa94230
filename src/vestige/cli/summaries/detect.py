"""A detection: the strongest traits, and what the student is held against."""

from __future__ import annotations

from rich import box
from rich.table import Table

from vestige.cli.output import from_to, out, print_lines
from vestige.core.detection import DetectResults

SHOWN, WORDS = 8, 6  # traits and words, by choice: the report has more


def print_summary(results: DetectResults) -> None:
    """Print the strongest traits, how far the weights moved, and the reasons."""
    if results.traits:
        out.print(trait_table(results))
    layers = f"{len(results.layers)} layers" if results.layers else "no layer"
    outside = f", and {len(results.outside)} other tensors" if results.outside else ""
    lines = [
        f"weights: {layers} changed{outside}, by {100 * results.relative_change:.2g}% of their "
        f"length; cosine with the base's {results.cosine:.4f}",
        f"battery: {results.members} harmless students of {len(results.writers)} kinds of writers"
        f"{pairs(results)}; no p is below {results.smallest_p:.3g}",
    ]
    if results.words:
        words = ", ".join(f"{w.word} ({w.z:+.1f})" for w in results.words[:WORDS])
        lines.append(f"open answers begin more often with: {words}; a place to look, no test")
    print_lines([*lines, *(f"  {reason}" for reason in results.why)])


def pairs(results: DetectResults) -> str:
    """What is held against a student that has a control."""
    return f", {results.placebos} pairs against {results.control}" if results.control else ""


def trait_table(results: DetectResults) -> Table:
    """The strongest traits."""
    table = Table(
        title=f"{results.model} against {results.base}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("trait", overflow="fold", min_width=12)
    for column in ("share of\nanswers", "beyond drift\n(deviations)", "p, all\ntraits", ""):
        table.add_column(column, justify="right", no_wrap=True, overflow="fold")
    for t in results.traits[:SHOWN]:
        note = "found" if t.found else "relative" if t.relative else ""
        share = from_to(t.usual_share, t.share)
        table.add_row(t.trait, share, f"{t.standardised:+.1f}", f"{t.p:.3f}", note)
    return table
