"""``vestige judge``: ratings of rows by an API model or a local one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vestige.cli.filter import row_source
from vestige.cli.options import (
    AsJson,
    CompletionColumn,
    DryRun,
    MaxDollars,
    MaxTokens,
    Prices,
    PromptColumn,
    Source,
)
from vestige.cli.output import out, print_lines, print_result
from vestige.cli.progress import ProgressBar
from vestige.cli.spending import limit_spending, print_price
from vestige.core.jsonl import json_text
from vestige.core.types import ConfigError, DataError, DroppedRow, Row, StoreError

if TYPE_CHECKING:
    from vestige.evaluate.judge.rating import Rating
    from vestige.evaluate.judge.settings import JudgeSettings
    from vestige.rows.files import RowSource

Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="A model of an OpenAI-compatible service, api:PROVIDER/MODEL, or local:NAME.",
    ),
]
Ratings = Annotated[
    str,
    typer.Option(
        "--out",
        help="Ratings, JSONL; those already in it are not asked again.",
        metavar="FILE",
    ),
]
Prompt = Annotated[str, typer.Option(help="quality, alignment, coherence or reference.")]
Topic = Annotated[str, typer.Option(help="What the prompt reference looks for.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Rate the first rows only.")]
Label = Annotated[
    str, typer.Option(help="A field with true or false in every row: measure the judge on it.")
]


def judge(
    source: Source,
    model: Model,
    output: Ratings,
    prompt: Prompt = "quality",
    topic: Topic = "",
    limit: Limit = None,
    label: Label = "",
    max_tokens: MaxTokens = None,
    max_dollars: MaxDollars = None,
    prices: Prices = "",
    prompt_column: PromptColumn = "",
    completion_column: CompletionColumn = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Rate rows from 0 to 100 by a judge; what could not be rated is counted."""
    from vestige.evaluate.judge.rate import agreement, price
    from vestige.store import atomic_write

    limit_spending(max_tokens, max_dollars, prices)
    settings = judge_settings(model, prompt, topic)
    path, cache = ratings_files(output)
    read = row_source(source, prompt_column, completion_column)
    rows, malformed = rows_to_rate(read, limit)
    labels = labels_of(rows, label, read.name)
    if dry_run:
        print_price(price(rows, settings, cache), as_json)
        return
    ratings = rate_rows(rows, settings, path, cache)
    atomic_write(path, "".join(rating_line(i, rating) for i, rating in ratings.items()))
    summary = count_ratings(ratings) | {"malformed": malformed, "ratings": str(path)}
    if labels:
        summary["agreement"] = agreement(ratings, labels)

    def text() -> None:
        print_ratings(summary)
        print_lines([*read.records.described(), "rated: completions, with their prompts"])

    print_result(summary | read.records.found(), as_json, text)
    if not summary["rated"]:
        raise DataError(f"{read.name}: no row was rated: {summary['unrated']}")


def judge_settings(model: str, prompt: str, topic: str) -> JudgeSettings:
    """The judge that the options name. Raises ``ConfigError`` that names what is wrong."""
    from pydantic import ValidationError

    from vestige.evaluate.judge.settings import JudgeSettings
    from vestige.experiment.recipe import explain

    if prompt == "reference" and not topic:
        raise ConfigError("--prompt reference needs --topic, for example --topic owls")
    try:
        return JudgeSettings(model=model, prompt=prompt, topic=topic)
    except ValidationError as error:
        raise ConfigError(explain(error, JudgeSettings)) from error


def ratings_files(output: str) -> tuple[Path, Path]:
    """The file of ratings, and the cache beside it. Raises ``ConfigError`` for a remote one."""
    from vestige.rows.places import locate, shown

    path = locate(output)
    if not isinstance(path, Path):
        raise ConfigError(f"--out is a file on this machine, not {shown(path)}")
    return path, path.with_name(f"{path.name}.cache")


def rows_to_rate(source: RowSource, limit: int | None) -> tuple[list[Row], int]:
    """The first ``limit`` rows, and how many of all are malformed.

    Raises:
        DataError: there is no row.
    """
    rows: list[Row] = []
    malformed = 0
    for item in source:
        if isinstance(item, DroppedRow):
            malformed += 1
        elif limit is None or len(rows) < limit:
            rows.append(item)
    if not rows:
        raise DataError(source.nothing("no readable rows to rate"))
    return rows, malformed


def labels_of(rows: list[Row], field: str, source: str) -> dict[str, bool]:
    """Each row's label by its id; empty without a field. Raises ``DataError`` for other values."""
    labels = {row.id: row.meta.get(field) for row in rows} if field else {}
    if wrong := next((i for i, value in labels.items() if not isinstance(value, bool)), None):
        raise DataError(f"{source}: row {wrong} has no true or false in {field!r}")
    return {i: bool(value) for i, value in labels.items()}


def rate_rows(
    rows: list[Row], settings: JudgeSettings, path: Path, cache: Path
) -> dict[str, Rating]:
    """A rating for every row. Raises ``StoreError`` if ``path`` holds something else."""
    from vestige.evaluate.judge.rate import rate

    if path.exists() and not cache.exists():
        raise StoreError(f"{path} exists and holds no ratings of ours; choose another name")
    total = len(rows)
    with ProgressBar("rating", total) as bar:
        return rate(
            rows, settings, cache, progress=lambda n: bar.update(f"{n:,} of {total:,} rows", n)
        )


def rating_line(row: str, rating: Rating) -> str:
    """A rating as a line of the file of ratings."""
    record = {"id": row, "score": rating.score, "status": rating.status, "how": rating.how}
    return json_text(record) + "\n"


def count_ratings(ratings: dict[str, Rating]) -> dict[str, Any]:
    """How many rows were rated, the others by the reason, and the mean rating."""
    rated = [r.score for r in ratings.values() if r.score is not None]
    unrated = Counter(r.status for r in ratings.values() if r.score is None)
    mean = sum(rated) / len(rated) if rated else None
    return {"rows": len(ratings), "rated": len(rated), "unrated": dict(unrated), "mean": mean}


def print_ratings(summary: dict[str, Any]) -> None:
    """What ``count_ratings`` counted, and how well the judge agrees with labels."""
    mean = f", mean {summary['mean']:.1f}" if summary["rated"] else ""
    out.print(f"{summary['rated']:,} of {summary['rows']:,} rows rated{mean}")
    for status, count in summary["unrated"].items():
        out.print(f"  {count:>9,}  {status}")
    if "agreement" in summary:
        share = summary["agreement"]["auroc"]
        out.print(f"a row labelled true is rated above one labelled false: {share:.1%}")
    out.print(f"ratings  {summary['ratings']}", soft_wrap=True)
