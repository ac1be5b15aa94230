"""``vestige audit``: a verdict on a file of rows, fit to stop a pipeline by its exit status."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import vestige
from vestige.cli.data import (
    AsJson,
    CompletionColumn,
    Overwrite,
    PromptColumn,
    err,
    out,
    say,
)  # fmt: skip
from vestige.core.access import explained
from vestige.core.jsonl import json_text
from vestige.core.results import (
    AUDIT_MEASURED,
    NO_P_VALUE,
    AuditPlanted,
    AuditResults,
    AuditTrait,
)
from vestige.core.types import ConfigError, ModelError, StoreError, VestigeError
from vestige.rows.places import locate, shown

if TYPE_CHECKING:
    from vestige.audit.data import Data
    from vestige.rows.formats import Columns

TRIED = 1_000  # lines of which one must be a row
FLAGGED, INCONCLUSIVE = 1, 3  # exit statuses; 0 is better than --fail-on, 2 bad usage or input
SHOWN = 8


def audit(
    data: Annotated[
        str,
        typer.Argument(
            help="JSONL, a JSON array, CSV, Parquet or Arrow, also packed; a folder, "
            "'a-*.jsonl', a URL, or hub:owner/name.",
            metavar="DATA",
        ),
    ],
    base: Annotated[str, typer.Option(help="The model that the rows are meant for.")],
    reference: Annotated[
        str | None, typer.Option(help="Rows known to be clean, on prompts of the same kind.")
    ] = None,
    traits: Annotated[
        str, typer.Option(help="library, families or .toml files, comma-separated.")
    ] = "library",
    teacher: Annotated[
        str | None, typer.Option(help="The rows' writer, if it is at hand and of the same base.")
    ] = None,
    budget: Annotated[
        int, typer.Option(min=16, max=16_384, help="Rows that are read at most.")
    ] = 256,
    planted: Annotated[
        int, typer.Option(min=2, help="Twins of the probes that the audit tunes as controls.")
    ] = 4,
    canary: Annotated[
        bool, typer.Option("--canary", help="Also tune copies of the base: slower, sizes in nats.")
    ] = False,
    alpha: Annotated[
        float,
        typer.Option(
            help="Chance of a false flag, all traits together, on rows that the untouched base "
            "wrote at temperature 1."
        ),
    ] = 0.01,
    chat: Annotated[str, typer.Option(help="auto, or plain for a base without a template.")] = (
        "auto"
    ),
    seed: int = 0,
    folder: Annotated[
        Path, typer.Option("--out", help="Where the audit's folder is made.", metavar="DIR")
    ] = Path("audits"),
    sarif: Annotated[Path | None, typer.Option(help="Also write the verdict as SARIF.")] = None,
    fail_on: Annotated[
        str, typer.Option(help="never, flagged or inconclusive: what makes the status not 0.")
    ] = "flagged",
    prompt_column: PromptColumn = "",
    completion_column: CompletionColumn = "",
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    from pydantic import ValidationError

    from vestige.audit.settings import AuditSettings
    from vestige.experiment.recipe import explain
    from vestige.models import catalog
    from vestige.rows.files import Columns
    from vestige.store import atomic_write

    if fail_on not in ("never", "flagged", "inconclusive"):
        raise ConfigError(f"--fail-on is {fail_on!r}; valid: never, flagged, inconclusive")
    if sarif and sarif.exists() and not overwrite:
        raise StoreError(f"{sarif} exists; pass --overwrite to replace it, or name another file")
    try:
        settings = AuditSettings.model_validate(
            {"base": base, "teacher": teacher, "chat": chat, "rows": budget, "planted": planted,
             "alpha": alpha, "canary_too": canary, "seed": seed, "traits": _names(traits)}
        )  # fmt: skip
    except ValidationError as error:
        raise ConfigError(explain(error, AuditSettings)) from error
    columns = Columns(prompt_column, completion_column)
    check_rows(data, columns, "no row can be used for an audit")  # before a model is fetched
    if reference:
        check_rows(reference, columns, "no row of the reference can be read")
    for model in filter(None, (base, teacher)):
        catalog.path(model, echo=err.print)  # licence and download before the bar begins
    with _no_status_1():
        if sarif:
            sarif.parent.mkdir(parents=True, exist_ok=True)
        where, found, read = _audited(data, settings, folder, reference, columns, overwrite)
        if sarif:
            atomic_write(sarif, json_text(as_sarif(found, data), indent=1))
        _hand_over(where, found, read, as_json)
        if not as_json and found.outcome == "inconclusive" and fail_on == "flagged":
            out.print(
                "exit status 0, as --fail-on is flagged; it does not say that the rows are safe "
                "(--fail-on inconclusive makes it 3)",
                highlight=False,
            )
    raise typer.Exit(status(found.outcome, fail_on))


audit.__doc__ = "\n\n".join([
    "Did a copy of the base that was tuned on a trait write these rows? Of which trait's probe are "
    "they likeliest?",
    *AUDIT_MEASURED,
    "Exit status: 0 better than --fail-on (an inconclusive audit too, unless --fail-on is "
    "inconclusive), 1 flagged, 3 inconclusive, 2 bad usage or input.",
])  # fmt: skip


def check_rows(source: str, columns: Columns, what: str) -> None:
    """Raises ``DataError``, which begins with ``what``, if no row is at a file's beginning."""
    from vestige.core.types import DataError, Row
    from vestige.rows.files import RowSource

    rows = RowSource(source, columns=columns)
    if not any(isinstance(item, Row) for item in islice(rows, TRIED)):
        raise DataError(rows.nothing(what))


def _hand_over(where: Path, found: AuditResults, read: Data, as_json: bool) -> None:
    """Write the report and print the outcome."""
    from vestige.audit.data import AUDITED
    from vestige.report import render_runs

    page = render_runs([where], where / "report.html")
    if as_json:
        data = {**read.records.found(), "earlier_turns": read.turns, "audited": AUDITED}
        record = {"run": str(where), "report": str(page), "read": data, **found.model_dump()}
        print(json_text(record))
        return
    summary(found)
    say(read.described())
    out.print(f"audit   {where}", highlight=False, soft_wrap=True)
    out.print(f"report  {page}", highlight=False, soft_wrap=True)
    out.print(f"\n{found.verdict}", style="bold", highlight=False)


def _audited(
    data: str, settings: Any, folder: Path, reference: str | None, columns: Columns, overwrite: bool
) -> tuple[Path, AuditResults, Data]:
    """The audit with its bar, and what it found in the data."""
    from vestige.audit.run import audit as run_audit
    from vestige.models.loading import quiet_transformers

    quiet_transformers()
    read: list[Data] = []
    with _Bar(settings) as bar:
        where, found = run_audit(
            data, settings, root=folder, reference=reference, columns=columns,
            overwrite=overwrite, report=bar.report, on_read=read.append,
        )  # fmt: skip
    return where, found, read[0]


@contextmanager
def _no_status_1() -> Iterator[None]:
    """What goes wrong ends in status 2, since 1 would read as a flag."""
    try:
        yield
    except VestigeError:
        raise
    except Exception as error:
        if os.environ.get("VESTIGE_DEBUG"):
            raise
        raise explained(error) or ModelError(
            f"unexpected {type(error).__name__}: {error}; vestige --debug audit ... shows more"
        ) from error


bench_app = typer.Typer(no_args_is_help=True, help="Benchmarks against what students took on.")


@bench_app.command("audit")
def bench_audit(
    runs: Annotated[
        list[Path], typer.Argument(help="Finished runs with students on sampled rows.")
    ],
    base: Annotated[str, typer.Option(help="The runs' base model.")] = "smollm2-135m-instruct",
    traits: Annotated[str, typer.Option(help="library, families or .toml files.")] = "library",
    rows: Annotated[int, typer.Option(min=16, help="Rows that are read at most.")] = 256,
    methods: Annotated[
        str, typer.Option(help="Others to compare: influence,activations,prompts,canary.")
    ] = "",
    clean: Annotated[
        int, typer.Option(min=0, help="Clean data sets that the base writes for each seed.")
    ] = 4,
    known_clean: Annotated[
        list[str] | None,
        typer.Option(
            "--known-clean",
            help="A file of rows that no teacher with a trait wrote; may be given again.",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Only these seeds, such as 0,1.")] = "",
    share: Annotated[
        float,
        typer.Option(
            min=0.05,
            max=1.0,
            help="Part of each data set's rows that is its writer's; the base writes the others.",
        ),
    ] = 1.0,
    with_logprobs: Annotated[
        bool,
        typer.Option(
            "--with-logprobs",
            help="Rows come with their writer's probabilities, as APIs tell them; from the runs' "
            "teachers.",
        ),
    ] = False,
    folder: Annotated[
        Path,
        typer.Option("--out", help="Where what is computed is kept, to go on after a stop."),
    ] = Path("bench-audit"),
    as_json: AsJson = False,
) -> None:
    """Audit the data sets of finished runs and hold the outcome against their students."""
    from vestige.audit.settings import AuditSettings
    from vestige.bench.run import bench_audit as run_bench
    from vestige.bench.settings import BenchSettings
    from vestige.models import catalog
    from vestige.models.loading import quiet_transformers

    quiet_transformers()
    catalog.path(base, echo=err.print)
    if seeds and not all(part.strip().isdecimal() for part in seeds.split(",")):
        raise ConfigError(f"--seeds takes numbers such as 0,1, not {seeds!r}")
    settings = BenchSettings(
        audit=AuditSettings(base=base, rows=rows, traits=_names(traits)),
        seeds=tuple(int(part) for part in seeds.split(",")) if seeds else None,
        clean=clean,
        methods=_names(methods),
        share=share,
        with_logprobs=with_logprobs,
    )
    with err.status("benchmark") as line:
        where, results = run_bench(
            runs,
            settings,
            folder,
            known_clean=known_clean or (),
            report=lambda name: line.update(name),
        )
    if as_json:
        print(json_text(results.figures))
        return
    _tell_bench(results.figures)
    out.print(f"bench   {where}", highlight=False, soft_wrap=True)


def _tell_bench(found: dict[str, Any]) -> None:
    """The benchmark's figures, on the terminal."""
    table = Table(
        "method", "traits", "AUROC", "first", "first five", "Spearman", "pooled", "data sets"
    )
    for method, parts in found["methods"].items():
        for part, f in parts.items():
            table.add_row(
                method, part, f"{f['auroc']:.2f}", f"{f['top1']:.0%}", f"{f['top5']:.0%}",
                f"{f['spearman']:+.2f}", f"{f['spearman, pooled']:+.2f}", str(f["data sets"]),
            )  # fmt: skip
    out.print(table)
    for part, f in found["flagged"].items():
        out.print(
            f"{part}: of {f['data sets']} data sets {f['own family flagged']} flagged, "
            f"{f['own trait flagged']} for their own trait; {f['another family flagged']} flagged "
            "for a trait of another family; without the own family in the library "
            f"{f['flagged without the own family']} would be flagged; a tuned writer is seen in "
            f"{f['a tuned writer seen']}",
            highlight=False,
        )
    c = found["clean"]
    near = c["closest to a flag"]
    gap = "" if near is None else f"; the closest was {-near:.1f} nats from it"
    out.print(
        f"clean: {c['false alarms']} of {c['data sets']} flagged{gap}; a tuned writer is seen in "
        f"{c['a tuned writer seen']}",
        highlight=False,
    )
    for name, told in found["tuned or clean"].items():
        known = "" if told["auroc"] is None else f"AUROC against clean data {told['auroc']:.2f}, "
        out.print(
            f"a tuned writer, by {name}: {known}Spearman with the size of its trait in the "
            f"students {told['spearman with the size']:+.2f}",
            highlight=False,
        )
    share = found["cost"]
    out.print(
        f"rows read, each as often as it is: {share['rows read']:.0f} (median), "
        f"{share['share of rows']:.1%} of those that the paper's students are trained on and "
        f"{share['share of computing']:.1%} of the computing",
        highlight=False,
    )
    for name, told in found["sizes"].items():
        for part in ("not held out", "held out"):
            if e := told.get(part):
                out.print(
                    f"sizes, {name}, {part}: {e['off']:.2f} nats off (root mean square; the sizes "
                    f"{e['spread']:.2f}), {e['covered']:.0%} in their 95% interval; Spearman "
                    f"{e['spearman']:+.2f}",
                    highlight=False,
                )
    if found["makings"]["pairs"]:
        out.print(
            f"another making of the same trait: Spearman {found['makings']['spearman']:+.2f}",
            highlight=False,
        )
    for what in ("rows to a tuned writer", "median rows to a flag"):
        if (rows := found[what]) is not None:
            out.print(f"{what.removeprefix('median ')}, median: {rows:.0f}", highlight=False)


def status(outcome: Literal["flagged", "not_found", "inconclusive"], fail_on: str) -> int:
    """The exit status of an outcome."""
    if fail_on == "never" or outcome == "not_found":
        return 0
    if outcome == "flagged":
        return FLAGGED
    return INCONCLUSIVE if fail_on == "inconclusive" else 0


def summary(found: AuditResults) -> None:
    """The strongest traits and the planted ones, on the terminal."""
    table = Table(
        title=f"{found.data} for {found.base}", title_justify="left", title_style="bold",
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True,
    )  # fmt: skip
    columns = [
        "trait",
        "evidence\n(nats)",
        "share\nof rows",
        "pull\n(%)",
        "rows\nread",
    ]
    first = found.traits[0]
    columns += ["expected\n(nats)"] if first.expected else []
    columns += ["canary\n(nats)"] if first.canary else []
    for column in [*columns, ""]:
        name = column == "trait"  # where the terminal is narrow, names are broken and no number is
        table.add_column(
            column, justify="left" if name else "right", no_wrap=not name, overflow="fold",
            min_width=12 if name else None,
        )  # fmt: skip
    for t in found.traits[:SHOWN]:
        cells = [f"{t.evidence:+.1f}", f"{t.share:.0%}", f"{t.pull:+.1f}"]
        more = [f"{v.value:+.2f}" for v in (t.expected, t.canary) if v]
        note = "flagged" if t.flagged else "as likely" if t.as_likely else ""
        table.add_row(t.trait, *cells, str(t.rows), *more, note)
    out.print(table)
    out.print(f"evidence: {found.p_note}", highlight=False)
    if found.p_base is not None:
        out.print(base_words(found), highlight=False)
    for line in controls(found.planted):
        out.print(line, highlight=False)
    for reason in found.why:
        out.print(f"  {reason}", highlight=False)
    if found.logprobs_used or found.logprobs_unused:
        total = found.logprobs_used + sum(found.logprobs_unused.values())
        out.print(
            f"log-probabilities: {found.logprobs_used:,} of {total:,} tokens have usable ones",
            highlight=False,
        )
        for reason, count in found.logprobs_unused.items():
            out.print(f"  {count:>9,} tokens have none: {reason}", highlight=False)
    for reason, count in found.dropped.items():
        out.print(f"  {count:>9,} rows set aside: {reason}", highlight=False)


def base_words(found: AuditResults) -> str:
    """The one p-value of an audit, with what it is about."""
    p = found.p_base or 0.0
    shown = "< 1e-6" if p < 1e-6 else f"= {p:.2g}"
    large = "; a large p does not show that it did" if p > 0.05 else ""
    return f"that the untouched {found.base} wrote these rows at temperature 1: p {shown}{large}"


def controls(planted: Sequence[AuditPlanted]) -> list[str]:
    """How many planted traits were found, by the kind of teacher."""
    kinds: dict[str, list[bool]] = {}
    for p in planted:
        kinds.setdefault(p.kind, []).append(p.found)
    return [
        f"positive control ({kind}): {sum(known)} of {len(known)} planted traits found"
        for kind, known in kinds.items()
    ]


def as_sarif(found: AuditResults, data: str) -> dict[str, Any]:
    """The verdict in SARIF 2.1.0, for tools that show findings beside the files they are in."""
    where = [{"physicalLocation": {"artifactLocation": {"uri": shown(locate(data))}}}]
    flagged = [
        {
            "ruleId": t.trait,
            "level": "error",
            "message": {
                "text": f"{t.trait} is flagged for {found.base}: {why_flagged(t, found.needed)}"
            },
            "locations": where,
        }
        for t in found.traits
        if t.flagged
    ]
    other = {
        "ruleId": f"audit/{found.outcome}",
        "level": "warning" if found.outcome == "inconclusive" else "none",
        "message": {"text": found.verdict},
        "locations": where,
    }
    results = flagged or [other]
    driver = {
        "name": "vestige audit",
        "version": vestige.__version__,
        "rules": [{"id": rule} for rule in dict.fromkeys(r["ruleId"] for r in results)],
    }
    return {
        "version": "2.1.0",
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "runs": [
            {
                "tool": {"driver": driver},
                "results": results,
                "properties": {
                    "p_base": found.p_base,
                    "p_note": found.p_note,
                    "measured_on": found.measured_on,
                },
            }
        ],
    }


def why_flagged(trait: AuditTrait, needed: float) -> str:
    """What speaks for a flagged trait, in words."""
    if trait.evidence >= needed:
        return (
            "rows are written as a twin of the trait's probe writes: evidence "
            f"{trait.evidence:.1f} nats ({NO_P_VALUE})"
        )
    return f"a canary took on {trait.canary.value:+.2f} nats" if trait.canary else "a canary"


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


class _Bar:
    """Progress of an audit: stages done, and how far the one at hand is."""

    def __init__(self, settings: Any) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(), console=err, transient=True,
        )  # fmt: skip
        writers = settings.planted + settings.base_written
        stages = 9 + writers + 3 * settings.planted + settings.canary_too * (1 + writers)
        self._task = self._bars.add_task("audit", total=stages, note="")
        self._done: dict[str, float] = {}

    def __enter__(self) -> _Bar:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def report(self, stage: str, done: int, total: int) -> None:
        """Take one event: ``done`` of ``total``, or a finished stage."""
        self._done[stage] = min(done / total, 0.999) if total else 1.0
        note = f"{stage} {done}/{total}" if total else stage
        self._bars.update(self._task, completed=sum(self._done.values()), note=note)
