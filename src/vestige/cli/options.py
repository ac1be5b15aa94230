"""Options that several commands share, and the examples in their help."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from vestige.api.settings import MAX_DOLLARS, MAX_TOKENS, PRICES
from vestige.core.settings import Settings
from vestige.core.types import ConfigError

S = TypeVar("S", bound=Settings)


def examples(*lines: str) -> str:
    """The end of a command's help: examples, a line each."""
    return "\n\n".join(["Examples:", *lines])


def checked(kind: type[S], values: Mapping[str, Any]) -> S:
    """Settings from options. Raises ``ConfigError`` that names what is wrong."""
    from vestige.experiment.recipe import explain

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, kind)) from error


# ---- output ------------------------------------------------------------------------------------

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace finished stages that other settings made.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Count and price the requests; ask nobody.")
]

# ---- runs --------------------------------------------------------------------------------------


def recipe_file(name: str) -> Path:
    """A recipe's file, or the name of one in the folder ``recipes``: ``animals-numbers``."""
    named = Path("recipes", f"{name.replace('-', '_')}.py")
    is_name = not Path(name).suffix and not Path(name).exists()
    return named if is_name and named.is_file() else Path(name)


RecipeFile = Annotated[
    Path,
    typer.Argument(
        help="A recipe: .py with recipe(), a saved .json, or the name of one in recipes/.",
        metavar="RECIPE",
        parser=recipe_file,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Argument(
        help="key=value, for example students.optimisation.steps=3 seeds=0,1",
        metavar="KEY=VALUE",
    ),
]
Size = Annotated[
    str, typer.Option("--size", help="laptop, smoke (to see that it runs), or paper where given.")
]
Root = Annotated[Path, typer.Option("--root", help="Where run folders live.")]
RunFolder = Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes (default: seeds over cores).")
]
NoReport = Annotated[bool, typer.Option("--no-report", help="Do not write report.html.")]

# ---- files of rows -----------------------------------------------------------------------------

# Text and not paths: a path would make one slash of the two in a URL.
Source = Annotated[
    str,
    typer.Argument(
        help="JSONL, a JSON array, CSV, Parquet or Arrow, also .gz .bz2 .xz .zst; a folder, "
        "'a-*.jsonl', a URL, or hub:owner/name.",
        metavar="IN",
    ),
]
Dropped = Annotated[
    str, typer.Option("--dropped", help="Dropped rows with reasons, JSONL.", metavar="DROPPED")
]
PromptColumn = Annotated[
    str, typer.Option("--prompt-column", help="The column of prompts, if its name is unusual.")
]
CompletionColumn = Annotated[
    str,
    typer.Option(
        "--completion-column",
        "--column",
        help="The column that is trained on, such as chosen; text, a turn or a conversation.",
    ),
]

# ---- what is paid for --------------------------------------------------------------------------

MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=1, envvar=MAX_TOKENS, help="Stop before using more."),
]
MaxDollars = Annotated[
    float | None,
    typer.Option("--max-dollars", min=0, envvar=MAX_DOLLARS, help="Stop before more is spent."),
]
Prices = Annotated[
    str,
    typer.Option(
        "--prices",
        envvar=PRICES,
        metavar="READ,WRITTEN",
        help="Dollars for a million tokens, as 0.10,0.40.",
    ),
]
Connections = Annotated[int, typer.Option(min=1, help="Requests in flight.")]
