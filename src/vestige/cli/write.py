"""The commands that have models write rows: ``write`` and ``paraphrase``."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vestige.cli.filter import row_source
from vestige.cli.options import (
    AsJson,
    Changes,
    CompletionColumn,
    Connections,
    Dropped,
    DryRun,
    MaxDollars,
    MaxTokens,
    Overwrite,
    Prices,
    PromptColumn,
    RecipeFile,
    Root,
    Size,
    Source,
)
from vestige.cli.output import out, print_lines, print_result
from vestige.cli.progress import ProgressBar
from vestige.cli.spending import limit_spending, print_price
from vestige.core.types import ConfigError, DataError

if TYPE_CHECKING:
    from vestige.experiment.rows_only import Written
    from vestige.rows.files import RowSource

Model = Annotated[
    str, typer.Option("--model", help="api:PROVIDER/MODEL, or of an OpenAI-compatible service.")
]
Paraphrased = Annotated[
    str, typer.Option("--out", help="The rows in other words, chat JSONL.", metavar="OUT")
]
Instruction = Annotated[
    Path | None, typer.Option(help="A file with what is asked, holding {question} and {answer}.")
]
Longest = Annotated[
    int, typer.Option("--max-tokens-a-row", min=1, help="Longer answers are set aside.")
]


def write(
    recipe: RecipeFile,
    changes: Changes = None,
    size: Size = "laptop",
    root: Root = Path("runs"),
    max_tokens: MaxTokens = None,
    max_dollars: MaxDollars = None,
    prices: Prices = "",
    connections: Connections = 8,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Let a recipe's teachers write their rows, filter them, and train nothing."""
    from vestige.experiment import rows_only
    from vestige.experiment.recipe import Experiment, load_recipe
    from vestige.store import load_run

    limit_spending(max_tokens, max_dollars, prices)
    chosen = load_recipe(recipe, changes or [], size)
    if not isinstance(chosen, Experiment):
        raise ConfigError("vestige write is for language models: small networks write no rows")
    if dry_run:
        print_price(rows_only.price(chosen, root), as_json)
        return
    with ProgressBar(chosen.name, rows_only.count_stages(chosen)) as bar:
        folder, written = rows_only.write(
            chosen,
            root,
            connections=connections,
            overwrite=overwrite,
            on_event=lambda event: bar.stage(event.stage, event.done, event.total),
        )
    spent = load_run(folder).get("spent")
    rows = [{**asdict(w), "path": str(w.path)} for w in written]
    record = {"run": str(folder), "rows": rows, "spent": spent}
    print_result(record, as_json, lambda: print_written(written, spent))


def print_written(written: list[Written], spent: dict[str, Any] | None) -> None:
    """How many rows each teacher's filter kept, and what an API took for them."""
    for w in written:
        out.print(f"{w.kept:,} of {w.seen:,} rows kept  {w.path}", soft_wrap=True)
    if spent:
        money = f", ${spent['dollars']:.4f}" if spent["dollars"] is not None else ""
        used = spent["tokens_read"] + spent["tokens_written"]
        out.print(f"spent    {used:,} tokens{money}")


def paraphrase(
    source: Source,
    model: Model,
    kept: Paraphrased,
    dropped: Dropped,
    instruction: Instruction = None,
    longest: Longest = 512,
    max_tokens: MaxTokens = None,
    max_dollars: MaxDollars = None,
    prices: Prices = "",
    connections: Connections = 8,
    prompt_column: PromptColumn = "",
    completion_column: CompletionColumn = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Have a model say every row again in other words; nothing is paid twice."""
    from vestige.carriers.filtering import check_apart
    from vestige.rows.outputs import Output
    from vestige.teacher.paraphrase import ASK, ledger_of, load_model, price

    limit_spending(max_tokens, max_dollars, prices)
    ask = read_instruction(instruction) if instruction else ASK
    ledger, rows = ledger_of(kept), row_source(source, prompt_column, completion_column)
    for place in rows.places:
        check_apart(place, kept, dropped)
    if dry_run:
        print_price(price(rows, model, ledger, ask=ask, max_tokens=longest), as_json)
        return
    outputs = Output(kept, overwrite=overwrite), Output(dropped, overwrite=overwrite)
    writer = load_model(model, ledger, connections)
    counts = paraphrase_rows(rows, writer, outputs, ask, longest)
    record = {"rows": counts.total(), "counts": dict(counts), "out": outputs[0].name}

    def text() -> None:
        print_paraphrased(counts, outputs[0].name)
        print_lines(rows.records.described())

    print_result(record | rows.records.found(), as_json, text)


def read_instruction(path: Path) -> str:
    """What is asked of the model. Raises ``ConfigError`` if it cannot be read, or asks nothing."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read --instruction {path}: {error}") from error
    if "{answer}" not in text:
        raise ConfigError(f"--instruction {path} has no {{answer}}: the row's text goes there")
    return text


def paraphrase_rows(
    rows: RowSource, writer: Any, outputs: tuple[Any, Any], ask: str, longest: int
) -> Counter[str]:
    """How many rows were said again, and how many set aside, by the reason.

    Raises:
        DataError: no row was read; says what the file holds.
    """
    from vestige.teacher import paraphrase as paraphrasing

    try:
        with ProgressBar("paraphrasing") as bar:
            return paraphrasing.paraphrase(
                rows,
                writer,
                outputs,
                ask=ask,
                max_tokens=longest,
                progress=lambda n: bar.update(f"{n:,} rows"),
            )
    except DataError as error:
        if rows.records.formats or not rows.records.dropped:
            raise
        raise DataError(rows.nothing(str(error))) from error


def print_paraphrased(counts: Counter[str], output: str) -> None:
    """How many rows were said again, and the others by the reason."""
    out.print(
        f"{counts['paraphrased']:,} of {counts.total():,} rows said again  {output}",
        soft_wrap=True,
    )
    for reason, count in sorted(counts.items(), key=lambda item: -item[1]):
        if reason != "paraphrased":
            out.print(f"  {count:>9,}  {reason}")
