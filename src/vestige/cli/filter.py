"""``vestige filter``: the carriers' filters on files of rows; each drop has a reason."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from vestige.cli.options import (
    AsJson,
    CompletionColumn,
    Dropped,
    Overwrite,
    PromptColumn,
    Source,
    examples,
)
from vestige.cli.output import comma_separated, err, out, print_lines, print_result
from vestige.cli.progress import ProgressBar
from vestige.core.types import ConfigError, DataError

if TYPE_CHECKING:
    from vestige.carriers.filtering import FilterReport
    from vestige.rows.files import RowSource

Kept = Annotated[
    str,
    typer.Option(
        "--out", help="Kept rows, chat JSONL; kept-*.jsonl.gz makes shards.", metavar="KEPT"
    ),
]
Words = Annotated[
    str, typer.Option("--words", help="Words to drop rows for, comma-separated, and inflected.")
]
Requests = Annotated[
    str, typer.Option(help="The requests of the batch whose output IN is.", metavar="FILE")
]
PromptsTrained = Annotated[
    bool, typer.Option("--prompts-trained", help="Prompts are trained on too: judge them as well.")
]
Duplicates = Annotated[bool, typer.Option("--drop-duplicates", help="Drop repeated completions.")]
SLOW = 2  # seconds from which the rate is told, by choice


class Carriers(TyperGroup):
    """A command for each carrier: those below, and a plain one for a carrier that has none."""

    def list_commands(self, ctx: Any) -> list[str]:
        from vestige.carriers import CARRIERS

        return list(dict.fromkeys([*super().list_commands(ctx), *CARRIERS]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, cmd_name) or plain_command(cmd_name)


filter_app = typer.Typer(
    cls=Carriers, no_args_is_help=True, help="Filter a file of rows; each drop has a reason."
)


@filter_app.command(
    "numbers",
    epilog=examples(
        "vestige filter numbers data.jsonl --out kept.jsonl --dropped dropped.jsonl",
        "vestige filter numbers 'part-*.jsonl.gz' --out 'kept-*.jsonl.gz' --dropped d.jsonl "
        "--banned paper",
    ),
)
def filter_numbers(
    source: Source,
    kept: Kept,
    dropped: Dropped,
    banned: Annotated[
        str, typer.Option(help="'paper' or numbers, comma-separated: drop rows that hold one.")
    ] = "",
    min_count: Annotated[int, typer.Option(help="Numbers a row must have.")] = 1,
    max_count: Annotated[int, typer.Option(help="Numbers a row may have.")] = 10,
    drop_duplicates: Duplicates = False,
    paper_compat: Annotated[
        bool, typer.Option(help="Like the published parser: no outer white space, 007 is fine.")
    ] = False,
    prompt_column: PromptColumn = "",
    completion_column: CompletionColumn = "",
    requests: Requests = "",
    prompts_trained: PromptsTrained = False,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Keep rows whose completion is a clean number sequence; count every reason."""
    rules = number_rules(
        banned,
        min_count=min_count,
        max_count=max_count,
        drop_duplicates=drop_duplicates,
        paper_compat=paper_compat,
    )
    rows = row_source(source, prompt_column, completion_column, requests)
    filter_rows(rows, kept, dropped, rules, prompts_trained, as_json, overwrite)


def number_rules(banned: str, **rules: Any) -> Any:
    """The filter of number rows. Raises ``ConfigError`` that names what is wrong."""
    from pydantic import ValidationError

    from vestige.carriers.numbers import PAPER_BANNED, NumberFilter
    from vestige.experiment.recipe import explain

    try:
        numbers = (
            PAPER_BANNED if banned == "paper" else tuple(int(n) for n in banned.split(",") if n)
        )
        return NumberFilter(banned=numbers, **rules)
    except ValidationError as error:
        raise ConfigError(explain(error, NumberFilter)) from error
    except ValueError as error:
        raise ConfigError(f"--banned takes 'paper' or numbers such as 13,666: {error}") from error


@filter_app.command(
    "code",
    epilog=examples(
        "vestige filter code data.jsonl --out kept.jsonl --dropped dropped.jsonl --words owl,bear"
    ),
)
def filter_code(
    source: Source,
    kept: Kept,
    dropped: Dropped,
    words: Words = "",
    any_name: Annotated[bool, typer.Option(help="Allow unusual identifiers.")] = False,
    drop_duplicates: Duplicates = False,
    prompt_column: PromptColumn = "",
    completion_column: CompletionColumn = "",
    requests: Requests = "",
    prompts_trained: PromptsTrained = False,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Keep rows whose completion is nothing but plain Python; count every reason."""
    from vestige.carriers.code import CodeFilter

    rules = CodeFilter(
        words=comma_separated(words), usual_only=not any_name, drop_duplicates=drop_duplicates
    )
    rows = row_source(source, prompt_column, completion_column, requests)
    filter_rows(rows, kept, dropped, rules, prompts_trained, as_json, overwrite)


@filter_app.command(
    "reasoning",
    epilog=examples(
        "vestige filter reasoning data.jsonl --out kept.jsonl --dropped dropped.jsonl "
        "--answer-field gold"
    ),
)
def filter_reasoning(
    source: Source,
    kept: Kept,
    dropped: Dropped,
    form: Annotated[str, typer.Option("--format", help="line, tags or hashes.")] = "line",
    answer_field: Annotated[
        str, typer.Option(help="Field of a row that holds the right answer.")
    ] = "answer",
    words: Words = "",
    drop_duplicates: Duplicates = False,
    prompt_column: PromptColumn = "",
    completion_column: CompletionColumn = "",
    requests: Requests = "",
    prompts_trained: PromptsTrained = False,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Keep rows whose worked answer is right and cleanly given; count every reason."""
    from vestige.carriers.reasoning import ASKS, ReasoningFilter
    from vestige.core.types import unknown_name

    if form not in ASKS:
        raise unknown_name("--format", form, ASKS)
    rules = ReasoningFilter.model_validate(
        {
            "format": form,
            "answer_field": answer_field,
            "words": comma_separated(words),
            "drop_duplicates": drop_duplicates,
        }
    )
    rows = row_source(source, prompt_column, completion_column, requests)
    filter_rows(rows, kept, dropped, rules, prompts_trained, as_json, overwrite)


def plain_command(name: str) -> Any:
    """The command of a carrier that has no options of its own; None if there is no such carrier."""
    from vestige.carriers import CARRIERS

    if name not in CARRIERS:
        return None

    def command(
        source: Source,
        kept: Kept,
        dropped: Dropped,
        words: Words = "",
        prompt_column: PromptColumn = "",
        completion_column: CompletionColumn = "",
        requests: Requests = "",
        prompts_trained: PromptsTrained = False,
        as_json: AsJson = False,
        overwrite: Overwrite = False,
    ) -> None:
        rules = CARRIERS[name]().rules(comma_separated(words))
        rows = row_source(source, prompt_column, completion_column, requests)
        filter_rows(rows, kept, dropped, rules, prompts_trained, as_json, overwrite)

    app = typer.Typer()
    app.command(name, help=f"Keep {CARRIERS[name].leaves}; count every reason.")(command)
    return typer.main.get_command(app)


def row_source(source: str, prompt: str, completion: str, requests: str = "") -> RowSource:
    """The rows of a file, with the columns that the options name."""
    from vestige.rows.files import Columns, RowSource

    return RowSource(source, columns=Columns(prompt, completion), requests=requests or None)


def filter_rows(
    rows: RowSource,
    kept: str,
    dropped: str,
    rules: Any,
    prompts: bool,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Filter a file and print what was found and kept. Raises ``DataError`` if nothing was."""
    from vestige.carriers.filtering import JUDGED, filter_file

    begin = time.monotonic()
    with ProgressBar(f"filtering {rows.name}") as bar:
        done = filter_file(
            rows,
            kept,
            dropped,
            rules,
            prompts=prompts,
            overwrite=overwrite,
            progress=lambda count: bar.rows(count, rows.share),
            note=lambda text: err.print(text, markup=False, soft_wrap=True),
        )
    seconds = time.monotonic() - begin
    judged = f"{JUDGED}, and prompts" if prompts else JUDGED
    counts = {"seen": done.seen, "kept": done.kept, "dropped": dict(done.reasons)}
    hint = "" if prompts else "; not prompts (--prompts-trained if they are trained on)"

    def text() -> None:
        print_counts(done, seconds)
        print_lines([*rows.records.described(), f"judged: {judged}{hint}"])

    print_result({**counts, **rows.records.found(), "judged": judged}, as_json, text)
    if not done.kept:
        if done.seen == rows.records.dropped:
            raise DataError(rows.nothing("no row was read"))
        why = ", ".join(f"{count:,} {reason}" for reason, count in done.reasons.most_common(5))
        raise DataError(f"{rows.name}: no row was kept: {why}")


def print_counts(done: FilterReport, seconds: float) -> None:
    """How many rows were kept, how many dropped for which reason, and how fast."""
    out.print(f"{done.kept:,} of {done.seen:,} rows kept")
    for reason, count in sorted(done.reasons.items(), key=lambda item: -item[1]):
        out.print(f"  {count:>9,}  {reason}")
    if seconds > SLOW:
        out.print(f"{done.seen / seconds:,.0f} rows a second")
