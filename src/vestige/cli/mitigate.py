"""``vestige mitigate``: data changed so that training on it passes less on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vestige.cli.audit import Chat, Traits
from vestige.cli.filter import row_source
from vestige.cli.options import (
    AsJson,
    CompletionColumn,
    Dropped,
    Overwrite,
    PromptColumn,
    Source,
    checked,
)
from vestige.cli.output import comma_separated, err, out, print_lines, print_result
from vestige.cli.progress import ProgressBar
from vestige.core.mitigation import MitigateResults

if TYPE_CHECKING:
    from vestige.mitigate.settings import MitigateSettings

MethodName = Annotated[
    str,
    typer.Argument(
        help="drop, redraw, dilute, sort-numbers, other-digits or plain-code.", metavar="METHOD"
    ),
]
Changed = Annotated[
    str,
    typer.Option("--out", help="The new rows, chat JSONL; new-*.jsonl.gz makes shards."),
]
Base = Annotated[str | None, typer.Option(help="The model that the data is meant for.")]
TraitName = Annotated[
    str,
    typer.Option(help="The trait, such as animals/owl; without it a copy trained on the rows."),
]
Share = Annotated[float, typer.Option(help="Of rows or tokens that are changed, or added.")]
AtRandom = Annotated[
    bool, typer.Option("--at-random", help="As many, chosen at random: a control to compare with.")
]


def mitigate(
    method: MethodName,
    source: Source,
    output: Changed,
    dropped: Dropped,
    base: Base = None,
    trait: TraitName = "",
    traits: Traits = "library",
    share: Share = 0.1,
    at_random: AtRandom = False,
    chat: Chat = "auto",
    seed: int = 0,
    prompt_column: PromptColumn = "",
    completion_column: CompletionColumn = "",
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Change data so that training on it passes less of a hidden trait on. No claim is made of what
    a method removes: audit the new file, and compare students."""
    from vestige.mitigate.run import mitigate as change
    from vestige.models import catalog
    from vestige.models.loading import quiet_transformers
    from vestige.rows.outputs import Output

    settings = mitigate_settings(
        method=method, base=base, chat=chat, trait=trait, traits=comma_separated(traits),
        share=share, at_random=at_random, seed=seed,
    )  # fmt: skip
    rows = row_source(source, prompt_column, completion_column)
    outputs = Output(output, overwrite=overwrite), Output(dropped, overwrite=overwrite)
    if base:
        catalog.path(base, echo=err.print)  # licence and download before the bar begins
        quiet_transformers()
    with ProgressBar("mitigate", 3) as bar:
        results = change(rows, settings, outputs, report=bar.stage)
    print_result(results.model_dump(), as_json, lambda: print_summary(results, output, dropped))


def mitigate_settings(**values: Any) -> MitigateSettings:
    """The settings. Raises ``ConfigError`` that names what is wrong."""
    from vestige.mitigate.settings import MitigateSettings

    return checked(MitigateSettings, values)


def print_summary(results: MitigateResults, output: str, dropped: str) -> None:
    """Print what was changed, and what to do next."""
    how = ", chosen at random" if results.at_random else ""
    lines = [f"{results.method}: {results.does}{how}"]
    if results.tokens:
        lines.append(f"{results.redrawn:,} of {results.tokens:,} tokens were drawn anew")
    lines.append(
        f"{results.kept + results.added:,} rows in {output}: {results.kept:,} of {results.rows:,} "
        f"kept, {results.changed:,} of them changed, {results.added:,} added"
    )
    reasons = {**results.left_out, **results.reasons}
    lines.append(f"{sum(reasons.values()):,} rows in {dropped}")
    lines += [f"  {count:>9,} {reason}" for reason, count in reasons.items()]
    print_lines([*lines, *results.caveats])
    out.print("\nAudit the new rows, and train on them and on the old: docs/mitigate.md")
