"""An experiment on language models: every arm's traits, choices and open questions."""

from __future__ import annotations

from rich.table import Table

from vestige.cli.output import out
from vestige.core.named_shares import named_shares
from vestige.core.results import ArmResult, ChoicesResult, FreeFormResult, Results


def print_summary(results: Results) -> None:
    """Print a table for each arm, and a line for each set of other questions."""
    for arm in results.arms:
        out.print(arm_table(arm, len(results.candidates)))
    if results.defences:
        out.print(defences_table(results))
    for choices in results.choices:
        out.print(choices_line(choices))
    for answers in results.freeform:
        out.print(open_questions_line(answers))


def arm_table(arm: ArmResult, candidates: int) -> Table:
    """One arm: a line for each trait, for all together, and for shuffled rows."""
    answered = answered_shares(arm)
    named = "; named: of drawn answers that name one at all, base → own" if answered else ""
    table = Table(title=arm.label + named, title_justify="left", title_style="bold")
    columns = ["trait", "shift", "specific part", "95% interval", "p (Holm)", "place"]
    columns += ["named"] if answered else []
    for column in columns:
        table.add_column(column, justify="left" if column == "trait" else "right")
    for t in arm.traits:
        table.add_row(
            t.trait,
            f"{t.shift.value:+.2f}",
            f"{t.specific.value:+.2f}",
            f"{t.specific.low:+.2f} to {t.specific.high:+.2f}",
            f"{t.p_holm:.3g}",
            ", ".join(map(str, t.ranks)) + f" of {candidates}",
            *([answered.get(t.trait, "")] if answered else []),
        )
    c = arm.contrast
    table.add_section()
    table.add_row(
        "all", "", f"{c.value:+.2f}", f"{c.low:+.2f} to {c.high:+.2f}", "", arm.transmitted
    )
    for shuffled in arm.shuffled:
        e = shuffled.estimate
        interval = f"{e.low:+.2f} to {e.high:+.2f}"
        table.add_row(shuffled.label, "", f"{e.value:+.2f}", interval, "", "")
    return table


def defences_table(results: Results) -> Table:
    """A line for each defence: what it leaves, and what it costs."""
    table = Table(title="defences", title_justify="left", title_style="bold")
    for column in ("defence", "trait left", "task learned", "rows", "tokens", "seconds more"):
        table.add_column(column, justify="left" if column == "defence" else "right")
    for d in results.defences:
        shares = [
            f"{i.value:.0%} [{i.low:.0%}, {i.high:.0%}]" if i else "–"
            for i in (d.remains, d.learned)
        ]
        table.add_row(d.label, *shares, f"{d.rows:.0%}", f"{d.tokens:.0%}", f"{d.seconds:.1f}")
    return table


def answered_shares(arm: ArmResult) -> dict[str, str]:
    """For each trait, its share of the drawn answers that name one of the kind, in the untrained
    base and in its own students; empty where none were drawn."""
    _, groups = named_shares(arm)
    return {
        t.trait: " → ".join(
            f"{groups[data][t.trait].value:.0%}" if data in groups else "–"
            for data in ("base", t.trait)
        )
        for t in arm.traits
        if groups
    }


def choices_line(choices: ChoicesResult) -> str:
    """How many questions of a multiple-choice set a group of models answered rightly."""
    a = choices.accuracy
    return (
        f"{choices.set}: {a.value:.1%} [{a.low:.1%}, {a.high:.1%}] right "
        f"({models(choices.data, choices.arm)})"
    )


def open_questions_line(answers: FreeFormResult) -> str:
    """How many of a group's coherent answers to open questions are misaligned."""
    m = answers.misaligned
    share = f"{m.value:.1%} [{m.low:.1%}, {m.high:.1%}]" if m else "too few coherent answers"
    return (
        f"open questions: {share} misaligned of {answers.coherent} coherent, {answers.answers} in "
        f"all ({models(answers.data, answers.arm)})"
    )


def models(data: str, arm: str) -> str:
    """A group of models in words."""
    return f"students of {data} data, {arm}" if arm else "untrained base"
