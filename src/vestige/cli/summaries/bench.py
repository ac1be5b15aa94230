"""A benchmark of audits: its figures by method and by group of data sets."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from vestige.cli.output import out

Figures = dict[str, Any]  # of ``bench.json``, whose keys are words


def print_summary(results: Any) -> None:
    """Print the figures of a benchmark's record."""
    print_figures(results.figures)


def print_figures(figures: Figures) -> None:
    """Print figures by method, by group of data sets, and for clean ones."""
    out.print(method_table(figures["methods"]))
    for group, flags in figures["flagged"].items():
        out.print(flags_line(group, flags))
    out.print(clean_line(figures["clean"]))
    for score, by_score in figures["tuned or clean"].items():
        out.print(tuned_writer_line(score, by_score))
    out.print(cost_line(figures["cost"]))
    for predictor, by_group in figures["sizes"].items():
        for group in ("not held out", "held out"):
            if sizes := by_group.get(group):
                out.print(sizes_line(f"{predictor}, {group}", sizes))
    if figures["makings"]["pairs"]:
        rho = figures["makings"]["spearman"]
        out.print(f"another replicate of the same trait: Spearman {rho:+.2f}")
    for label in ("rows to a tuned writer", "median rows to a flag"):
        if (rows := figures[label]) is not None:
            out.print(f"{label.removeprefix('median ')}, median: {rows:.0f}")


def method_table(methods: dict[str, dict[str, Figures]]) -> Table:
    """A line for each method and group of data sets."""
    table = Table(
        "method", "traits", "AUROC", "first", "first five", "Spearman", "pooled", "data sets"
    )
    for method, by_group in methods.items():
        for group, f in by_group.items():
            table.add_row(
                method,
                group,
                f"{f['auroc']:.2f}",
                f"{f['top1']:.0%}",
                f"{f['top5']:.0%}",
                f"{f['spearman']:+.2f}",
                f"{f['spearman, pooled']:+.2f}",
                str(f["data sets"]),
            )
    return table


def flags_line(group: str, flags: Figures) -> str:
    """How many data sets with a trait were flagged."""
    return (
        f"{group}: of {flags['data sets']} data sets {flags['own family flagged']} flagged, "
        f"{flags['own trait flagged']} for their own trait; {flags['another family flagged']} "
        "flagged for a trait of another family; without the own family in the library "
        f"{flags['flagged without the own family']} would be flagged; a tuned writer is seen in "
        f"{flags['a tuned writer seen']}"
    )


def clean_line(clean: Figures) -> str:
    """How many clean data sets were flagged."""
    near = clean["closest to a flag"]
    gap = "" if near is None else f"; the closest was {-near:.1f} nats from it"
    return (
        f"clean: {clean['false alarms']} of {clean['data sets']} flagged{gap}; a tuned writer is "
        f"seen in {clean['a tuned writer seen']}"
    )


def tuned_writer_line(score: str, figures: Figures) -> str:
    """How well a score tells data sets of teachers from clean ones."""
    auroc = figures["auroc"]
    against_clean = "" if auroc is None else f"AUROC against clean data {auroc:.2f}, "
    return (
        f"a tuned writer, by {score}: {against_clean}Spearman with the size of its trait in the "
        f"students {figures['spearman with the size']:+.2f}"
    )


def cost_line(cost: Figures) -> str:
    """What an audit reads, against the training of the paper's students."""
    return (
        f"rows read, each as often as it is: {cost['rows read']:.0f} (median), "
        f"{cost['share of rows']:.1%} of those that the paper's students are trained on and "
        f"{cost['share of computing']:.1%} of the computing"
    )


def sizes_line(label: str, sizes: Figures) -> str:
    """How far predicted sizes of traits are off."""
    return (
        f"sizes, {label}: {sizes['off']:.2f} nats off (root mean square; the sizes "
        f"{sizes['spread']:.2f}), {sizes['covered']:.0%} in their 95% interval; Spearman "
        f"{sizes['spearman']:+.2f}"
    )
