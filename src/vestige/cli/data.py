"""The commands that make, filter and rate rows."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vestige.api.settings import MAX_DOLLARS, MAX_TOKENS, PRICES
from vestige.core.types import ConfigError, DataError, StoreError

if TYPE_CHECKING:
    from vestige.evaluate.judge.settings import JudgeSettings
    from vestige.rows.files import RowSource

filter_app = typer.Typer(
    no_args_is_help=True, help="Filter a file of rows; each drop has a reason."
)
out = Console(emoji=False)
err = Console(stderr=True, emoji=False)  # not every :x: is meant as one

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace finished stages that other settings made.")
]
# Text and not paths: a path would make one slash of the two in a URL.
Source = Annotated[
    str,
    typer.Argument(
        help="JSONL, a JSON array, CSV, Parquet or Arrow, also .gz .bz2 .xz .zst; a folder, "
        "'a-*.jsonl', a URL, or hub:owner/name.",
        metavar="IN",
    ),
]
Kept = Annotated[
    str,
    typer.Option(
        "--out", help="Kept rows, chat JSONL; kept-*.jsonl.gz makes shards.", metavar="KEPT"
    ),
]
Dropped = Annotated[
    str, typer.Option("--dropped", help="Dropped rows with reasons, JSONL.", metavar="DROPPED")
]
Words = Annotated[
    str, typer.Option("--words", help="Words to drop rows for, comma-separated, and inflected.")
]
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
        "--prices", envvar=PRICES, metavar="READ,WRITTEN",
        help="Dollars for a million tokens, as 0.10,0.40.",
    ),
]  # fmt: skip
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Count and price the requests; ask nobody.")
]
PromptColumn = Annotated[
    str, typer.Option("--prompt-column", help="The column of prompts, if its name is unusual.")
]
CompletionColumn = Annotated[
    str,
    typer.Option(
        "--completion-column", "--column",
        help="The column that is trained on, such as chosen; text, a turn or a conversation.",
    ),
]  # fmt: skip
Requests = Annotated[
    str, typer.Option(help="The requests of the batch whose output IN is.", metavar="FILE")
]
PromptsTrained = Annotated[
    bool, typer.Option("--prompts-trained", help="Prompts are trained on too: judge them as well.")
]
Duplicates = Annotated[bool, typer.Option("--drop-duplicates", help="Drop repeated completions.")]


@filter_app.command("numbers")
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
    from pydantic import ValidationError

    from vestige.carriers.numbers import PAPER_BANNED, NumberFilter
    from vestige.experiment.recipe import explain

    try:
        numbers = (
            PAPER_BANNED if banned == "paper" else tuple(int(n) for n in banned.split(",") if n)
        )
        rules = NumberFilter(
            banned=numbers,
            min_count=min_count,
            max_count=max_count,
            drop_duplicates=drop_duplicates,
            paper_compat=paper_compat,
        )
    except ValidationError as error:
        raise ConfigError(explain(error, NumberFilter)) from error
    except ValueError as error:
        raise ConfigError(f"--banned takes 'paper' or numbers such as 13,666: {error}") from error
    rows = _rows(source, prompt_column, completion_column, requests)
    _filter(rows, kept, dropped, rules, prompts_trained, as_json, overwrite)


@filter_app.command("code")
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
        words=_words(words), usual_only=not any_name, drop_duplicates=drop_duplicates
    )
    rows = _rows(source, prompt_column, completion_column, requests)
    _filter(rows, kept, dropped, rules, prompts_trained, as_json, overwrite)


@filter_app.command("reasoning")
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
        {"format": form, "answer_field": answer_field, "words": _words(words),
         "drop_duplicates": drop_duplicates}
    )  # fmt: skip
    rows = _rows(source, prompt_column, completion_column, requests)
    _filter(rows, kept, dropped, rules, prompts_trained, as_json, overwrite)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _rows(source: str, prompt: str, completion: str, requests: str = "") -> RowSource:
    from vestige.rows.files import Columns, RowSource

    return RowSource(source, columns=Columns(prompt, completion), requests=requests or None)


def _filter(
    rows: RowSource, kept: str, dropped: str, rules: Any, prompts: bool, as_json: bool,
    overwrite: bool,
) -> None:  # fmt: skip
    """Filter a file and say what was found and kept. Raises ``DataError`` if nothing was."""
    from vestige.carriers.filtering import JUDGED, filter_file

    begin = time.monotonic()
    with _RowBar(rows.name) as bar:
        done = filter_file(
            rows, kept, dropped, rules, prompts=prompts,
            overwrite=overwrite,
            progress=lambda n: bar.at(n, rows.share),
            note=lambda text: err.print(text, highlight=False, markup=False, soft_wrap=True),
        )  # fmt: skip
    judged = f"{JUDGED}, and prompts" if prompts else JUDGED
    if as_json:
        counts = {"seen": done.seen, "kept": done.kept, "dropped": dict(done.reasons)}
        print(json.dumps({**counts, **rows.records.found(), "judged": judged}))
    else:
        seconds = time.monotonic() - begin
        out.print(f"{done.kept:,} of {done.seen:,} rows kept", highlight=False)
        for reason, count in sorted(done.reasons.items(), key=lambda item: -item[1]):
            out.print(f"  {count:>9,}  {reason}", highlight=False)
        if seconds > 2:
            out.print(f"{done.seen / seconds:,.0f} rows a second", highlight=False)
        if not prompts:
            judged += "; not prompts (--prompts-trained if they are trained on)"
        say([*rows.records.described(), f"judged: {judged}"])
    if not done.kept:
        if done.seen == rows.records.dropped:
            raise DataError(rows.nothing("no row was read"))
        why = ", ".join(f"{count:,} {reason}" for reason, count in done.reasons.most_common(5))
        raise DataError(f"{rows.name}: no row was kept: {why}")


def say(lines: Iterable[str]) -> None:
    """Print lines of which parts come from somebody's file."""
    for line in lines:
        out.print(line, highlight=False, markup=False, soft_wrap=True)


class _RowBar:
    """Progress over a file: the share of it that is read, rows and their rate."""

    def __init__(self, name: str) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(),
            console=err, transient=True, disable=not err.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(f"filtering {escape(name)}", total=None, note="")
        self._begin = time.monotonic()

    def __enter__(self) -> _RowBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def at(self, rows: int, share: float | None) -> None:
        """``rows`` are done, ``share`` of the file; None where its length is unknown."""
        rate = rows / max(time.monotonic() - self._begin, 1e-9)
        self._bar.update(
            self._task, completed=share or 0.0, total=None if share is None else 1.0,
            note=f"{rows:,} rows, {rate:,.0f} a second",
        )  # fmt: skip


def limit_spending(tokens: int | None, dollars: float | None, prices: str) -> None:
    """Hand limits on to whatever asks an API, in this process and in its workers."""
    for name, value in ((MAX_TOKENS, tokens), (MAX_DOLLARS, dollars), (PRICES, prices or None)):
        if value is not None:
            os.environ[name] = str(value)


def write(
    recipe: Annotated[Path, typer.Argument(help="A recipe: .py with recipe(), or a saved .json.")],
    changes: Annotated[
        list[str] | None, typer.Argument(help="key=value, as model=api:openai/gpt-4.1-nano")
    ] = None,
    size: Annotated[str, typer.Option("--size", help="laptop, smoke, or paper.")] = "laptop",
    root: Annotated[Path, typer.Option("--root", help="Where run folders live.")] = Path("runs"),
    max_tokens: MaxTokens = None,
    max_dollars: MaxDollars = None,
    prices: Prices = "",
    connections: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 8,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Let a recipe's teachers write their rows, filter them, and train nothing."""
    from vestige.cli.progress import RunProgress
    from vestige.experiment import rows_only
    from vestige.experiment.recipe import Experiment, load_recipe
    from vestige.store import load_run

    limit_spending(max_tokens, max_dollars, prices)
    chosen = load_recipe(recipe, changes or [], size)
    if not isinstance(chosen, Experiment):
        raise ConfigError("vestige write is for language models: small networks write no rows")
    if dry_run:
        _tell_price(rows_only.price(chosen, root), as_json)
        return
    with RunProgress(err, chosen.name, rows_only.count_stages(chosen)) as bars:
        folder, written = rows_only.write(
            chosen, root, connections=connections, overwrite=overwrite, on_event=bars.event
        )
    spent = load_run(folder).get("spent")
    if as_json:
        rows = [{**asdict(w), "path": str(w.path)} for w in written]
        print(json.dumps({"run": str(folder), "rows": rows, "spent": spent}))
        return
    for w in written:
        out.print(f"{w.kept:,} of {w.seen:,} rows kept  {w.path}", highlight=False, soft_wrap=True)
    if spent:
        money = f", ${spent['dollars']:.4f}" if spent["dollars"] is not None else ""
        used = spent["tokens_read"] + spent["tokens_written"]
        out.print(f"spent    {used:,} tokens{money}", highlight=False)


def _tell_price(priced: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(priced))
        return
    out.print(f"{priced['requests']:,} requests for {priced['rows']:,} rows", highlight=False)
    for name in ("about", "at_most"):
        dollars = priced[f"dollars_{name}"]
        money = f", ${dollars:.2f}" if dollars is not None else " (a price needs --prices)"
        words = name.replace("_", " ")
        out.print(f"{words:<8} {priced[f'tokens_{name}']:,} tokens{money}", highlight=False)
    if not priced["limits_hold_it"]:
        out.print("the limits may stop it before its end", highlight=False)


def paraphrase(
    source: Source,
    model: Annotated[
        str, typer.Option("--model", help="api:PROVIDER/MODEL, or of an OpenAI-compatible service.")
    ],
    kept: Annotated[
        str, typer.Option("--out", help="The rows in other words, chat JSONL.", metavar="OUT")
    ],
    dropped: Dropped,
    instruction: Annotated[
        Path | None,
        typer.Option(help="A file with what is asked, holding {question} and {answer}."),
    ] = None,
    longest: Annotated[
        int, typer.Option("--max-tokens-a-row", min=1, help="Longer answers are set aside.")
    ] = 512,
    max_tokens: MaxTokens = None,
    max_dollars: MaxDollars = None,
    prices: Prices = "",
    connections: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 8,
    prompt_column: PromptColumn = "",
    completion_column: CompletionColumn = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Have a model say every row again in other words; nothing is paid twice."""
    from vestige.carriers.filtering import check_apart
    from vestige.rows.outputs import Output
    from vestige.teacher import paraphrase as rewriting

    limit_spending(max_tokens, max_dollars, prices)
    ask = rewriting.ASK if instruction is None else _instruction(instruction)
    ledger, rows = rewriting.ledger_of(kept), _rows(source, prompt_column, completion_column)
    for place in rows.places:
        check_apart(place, kept, dropped)
    if dry_run:
        priced = rewriting.price(rows, model, ledger, ask=ask, max_tokens=longest)
        _tell_price(priced, as_json)
        return
    outputs = Output(kept, overwrite=overwrite), Output(dropped, overwrite=overwrite)
    asked = rewriting.load_model(model, ledger, connections)
    try:
        with err.status("paraphrasing") as status:
            counts = rewriting.paraphrase(
                rows, asked, outputs, ask=ask, max_tokens=longest,
                progress=lambda n: status.update(f"paraphrasing: {n:,} rows"),
            )  # fmt: skip
    except DataError as error:
        if rows.records.formats or not rows.records.dropped:
            raise
        raise DataError(rows.nothing(str(error))) from error
    if as_json:
        found = {"rows": counts.total(), "counts": dict(counts), "out": outputs[0].name}
        print(json.dumps(found | rows.records.found()))
        return
    out.print(
        f"{counts['paraphrased']:,} of {counts.total():,} rows said again  {outputs[0].name}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    for reason, count in sorted(counts.items(), key=lambda item: -item[1]):
        if reason != "paraphrased":
            out.print(f"  {count:>9,}  {reason}", highlight=False)
    say(rows.records.described())


def _instruction(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read --instruction {path}: {error}") from error
    if "{answer}" not in text:
        raise ConfigError(f"--instruction {path} has no {{answer}}: the row's text goes there")
    return text


def judge(
    source: Source,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="A model of an OpenAI-compatible service, api:PROVIDER/MODEL, or local:NAME.",
        ),
    ],
    where: Annotated[
        str,
        typer.Option(
            "--out",
            help="Ratings, JSONL; those already in it are not asked again.",
            metavar="FILE",
        ),
    ],
    prompt: Annotated[
        str, typer.Option(help="quality, alignment, coherence or reference.")
    ] = "quality",
    topic: Annotated[str, typer.Option(help="What the prompt reference looks for.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Rate the first rows only.")] = None,
    label: Annotated[
        str, typer.Option(help="A field with true or false in every row: measure the judge on it.")
    ] = "",
    max_tokens: MaxTokens = None,
    max_dollars: MaxDollars = None,
    prices: Prices = "",
    prompt_column: PromptColumn = "",
    completion_column: CompletionColumn = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Rate rows from 0 to 100 by a judge; what could not be rated is counted."""
    from vestige.core.types import DroppedRow, Row
    from vestige.evaluate.judge.rate import agreement, price, rate
    from vestige.rows.places import locate, shown
    from vestige.store import atomic_write

    limit_spending(max_tokens, max_dollars, prices)
    settings = _judge_settings(model, prompt, topic)
    ratings = locate(where)
    if not isinstance(ratings, Path):
        raise ConfigError(f"--out is a file on this machine, not {shown(ratings)}")
    read = _rows(source, prompt_column, completion_column)
    rows: list[Row] = []
    malformed = 0
    for item in read:
        if isinstance(item, DroppedRow):
            malformed += 1
        elif limit is None or len(rows) < limit:
            rows.append(item)
    if not rows:
        raise DataError(read.nothing("no readable rows to rate"))
    labels = {row.id: row.meta.get(label) for row in rows} if label else {}
    if wrong := next((i for i, value in labels.items() if not isinstance(value, bool)), None):
        raise DataError(f"{read.name}: row {wrong} has no true or false in {label!r}")
    cache = ratings.with_name(f"{ratings.name}.cache")
    if dry_run:
        _tell_price(price(rows, settings, cache), as_json)
        return
    if ratings.exists() and not cache.exists():
        raise StoreError(f"{ratings} exists and holds no ratings of ours; choose another name")
    with err.status(f"rating {len(rows):,} rows") as status:
        found = rate(
            rows, settings, cache,
            progress=lambda n: status.update(f"rating: {n:,} of {len(rows):,} rows"),
        )  # fmt: skip
    lines = [
        json.dumps({"id": i, "score": r.score, "status": r.status, "how": r.how}) + "\n"
        for i, r in found.items()
    ]
    atomic_write(ratings, "".join(lines))
    summary = _count_ratings(found) | {"malformed": malformed, "ratings": str(ratings)}
    if labels:
        summary["agreement"] = agreement(found, {i: bool(value) for i, value in labels.items()})
    if as_json:
        print(json.dumps(summary | read.records.found()))
    else:
        _tell_ratings(summary)
        say([*read.records.described(), "rated: completions, with their prompts"])
    if not summary["rated"]:
        raise DataError(f"{read.name}: no row was rated: {summary['unrated']}")


def _judge_settings(model: str, prompt: str, topic: str) -> JudgeSettings:
    from pydantic import ValidationError

    from vestige.evaluate.judge.settings import JudgeSettings
    from vestige.experiment.recipe import explain

    if prompt == "reference" and not topic:
        raise ConfigError("--prompt reference needs --topic, for example --topic owls")
    try:
        return JudgeSettings(model=model, prompt=prompt, topic=topic)
    except ValidationError as error:
        raise ConfigError(explain(error, JudgeSettings)) from error


def _count_ratings(found: dict[str, Any]) -> dict[str, Any]:
    rated = [r.score for r in found.values() if r.score is not None]
    unrated = Counter(r.status for r in found.values() if r.score is None)
    mean = sum(rated) / len(rated) if rated else None
    return {"rows": len(found), "rated": len(rated), "unrated": dict(unrated), "mean": mean}


def _tell_ratings(summary: dict[str, Any]) -> None:
    mean = f", mean {summary['mean']:.1f}" if summary["rated"] else ""
    out.print(f"{summary['rated']:,} of {summary['rows']:,} rows rated{mean}", highlight=False)
    for status, count in summary["unrated"].items():
        out.print(f"  {count:>9,}  {status}", highlight=False)
    if "agreement" in summary:
        share = summary["agreement"]["auroc"]
        out.print(
            f"a row labelled true is rated above one labelled false: {share:.1%}", highlight=False
        )
    out.print(f"ratings  {summary['ratings']}", highlight=False, soft_wrap=True)
