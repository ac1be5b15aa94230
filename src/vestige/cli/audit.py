"""``vestige audit``: a verdict on a file of rows, fit to stop a pipeline by its exit status."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vestige.cli.options import AsJson, CompletionColumn, Overwrite, PromptColumn, checked
from vestige.cli.output import (
    comma_separated,
    err,
    out,
    print_lines,
    print_path,
    print_result,
)
from vestige.cli.progress import ProgressBar
from vestige.core.access import explained
from vestige.core.audit_results import AUDIT_MEASURED, AuditResults
from vestige.core.jsonl import json_text
from vestige.core.types import ConfigError, ModelError, StoreError, VestigeError

if TYPE_CHECKING:
    from vestige.audit.data import Data
    from vestige.audit.settings import AuditSettings
    from vestige.rows.formats import Columns

TRIED = 1_000  # lines of which one must be a row, by choice
STATUS_0 = (
    "exit status 0, as --fail-on is flagged; it does not say that the rows are safe (--fail-on "
    "inconclusive makes it 3)"
)
FLAGGED, INCONCLUSIVE = 1, 3  # exit statuses; 0 is better than --fail-on, 2 bad usage or input

RowsToAudit = Annotated[
    str,
    typer.Argument(
        help="JSONL, a JSON array, CSV, Parquet or Arrow, also packed; a folder, "
        "'a-*.jsonl', a URL, or hub:owner/name.",
        metavar="DATA",
    ),
]
Base = Annotated[str, typer.Option(help="The model that the rows are meant for.")]
Reference = Annotated[
    str | None, typer.Option(help="Rows known to be clean, on prompts of the same kind.")
]
Traits = Annotated[str, typer.Option(help="library, families or .toml files, comma-separated.")]
Teacher = Annotated[
    str | None, typer.Option(help="The rows' writer, if it is at hand and of the same base.")
]
Budget = Annotated[
    int, typer.Option(min=16, max=16_384, help="Rows that the first look reads at most.")
]
FirstLook = Annotated[
    bool,
    typer.Option(
        "--first-look/--no-first-look",
        help="Also say who may have written the rows, by probes that are made once for each base.",
    ),
]
Canaries = Annotated[
    int,
    typer.Option(
        min=0,
        help="Pairs of copies that are trained; 0: the first look alone, which decides nothing.",
    ),
]
CanaryRows = Annotated[int, typer.Option(min=16, help="Rows that each copy reads at most.")]
CanaryLayers = Annotated[
    str, typer.Option(help="Layers that copies tune, such as 0-30; default: the middle ones.")
]
CanaryRank = Annotated[int, typer.Option(min=0, help="Of the copies' LoRA; 0: the weights.")]
CanaryRate = Annotated[float, typer.Option(help="The copies' learning rate.")]
TrainingRows = Annotated[
    int | None,
    typer.Option(
        min=1, help="Rows that your training will read, epochs counted; default: each row once."
    ),
]
Members = Annotated[
    int, typer.Option(min=8, help="Harmless students that copies are compared with.")
]
Limit = Annotated[
    float,
    typer.Option(
        help="Share of the answers that training may take a trait to where none is found."
    ),
]
Alpha = Annotated[
    float,
    typer.Option(help="Chance of a false flag, all traits together, for harmless writers."),
]
Chat = Annotated[str, typer.Option(help="auto, or plain for a base without a template.")]
AuditsFolder = Annotated[
    Path, typer.Option("--out", help="Where the audit's folder is made.", metavar="DIR")
]
Sarif = Annotated[Path | None, typer.Option(help="Also write the verdict as SARIF.")]
FailOn = Annotated[
    str, typer.Option(help="never, flagged or inconclusive: what makes the status not 0.")
]

HELP = "\n\n".join(
    [
        "What would training on these rows pass on? A copy of the base is trained on some of them "
        "and another on reference rows, and both are asked about every trait. A first look says "
        "who may have written them.",
        *AUDIT_MEASURED,
        "Exit status: 0 better than --fail-on (an inconclusive audit too, unless --fail-on is "
        "inconclusive), 1 flagged, 3 inconclusive, 2 bad usage or input.",
    ]
)


def audit(
    data: RowsToAudit,
    base: Base,
    reference: Reference = None,
    traits: Traits = "library",
    teacher: Teacher = None,
    first_look: FirstLook = True,
    budget: Budget = 256,
    canaries: Canaries = 1,
    canary_rows: CanaryRows = 4096,
    canary_layers: CanaryLayers = "",
    canary_rank: CanaryRank = 8,
    canary_rate: CanaryRate = 1e-3,
    training_rows: TrainingRows = None,
    members: Members = 100,
    limit: Limit = 0.5,
    alpha: Alpha = 0.01,
    chat: Chat = "auto",
    seed: int = 0,
    folder: AuditsFolder = Path("audits"),
    sarif: Sarif = None,
    fail_on: FailOn = "flagged",
    prompt_column: PromptColumn = "",
    completion_column: CompletionColumn = "",
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    from vestige.rows.files import Columns

    check_outputs(fail_on, sarif, overwrite)
    settings = audit_settings(
        base=base, teacher=teacher, chat=chat, traits=comma_separated(traits), seed=seed,
        first_look=first_look, rows=budget, canaries=canaries, canary_rows=canary_rows,
        training_rows=training_rows,
        canary_layers=layers(canary_layers), canary_rank=canary_rank, canary_rate=canary_rate,
        members=members, limit=limit, alpha=alpha,
    )  # fmt: skip
    columns = Columns(prompt_column, completion_column)
    prepare(settings, data, reference, columns)
    with errors_end_in_status_2():
        run_folder, results, read = run_audit(
            settings, data, folder, reference=reference, columns=columns, overwrite=overwrite
        )
        write_sarif(sarif, results, data)
        print_audit(run_folder, results, read, as_json, fail_on)
    raise typer.Exit(status(results.outcome, fail_on))


def check_outputs(fail_on: str, sarif: Path | None, overwrite: bool) -> None:
    """Raises for an outcome that there is not, and for a file that cannot be made."""
    if fail_on not in ("never", "flagged", "inconclusive"):
        raise ConfigError(f"--fail-on is {fail_on!r}; valid: never, flagged, inconclusive")
    if sarif and sarif.exists() and not overwrite:
        raise StoreError(f"{sarif} exists; pass --overwrite to replace it, or name another file")
    if sarif:
        with errors_end_in_status_2():
            sarif.parent.mkdir(parents=True, exist_ok=True)  # before an hour's work, not after it


def audit_settings(**values: Any) -> AuditSettings:
    """The settings. Raises ``ConfigError`` that names what is wrong."""
    from vestige.audit.settings import AuditSettings

    return checked(AuditSettings, values)


def layers(text: str) -> tuple[int, int] | None:
    """``0-30`` as first and past-the-last layer; None for nothing. Raises ``ConfigError``."""
    if not text:
        return None
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()):
        raise ConfigError(f"--canary-layers is {text!r}; give first-last, such as 10-18")
    return int(first), int(last)


def prepare(settings: AuditSettings, data: str, reference: str | None, columns: Columns) -> None:
    """Look at the beginning of the files, then fetch the models: cheap errors come first."""
    from vestige.models import catalog

    check_rows(data, columns, "no row can be used for an audit")
    if reference:
        check_rows(reference, columns, "no row of the reference can be read")
    for model in filter(None, (settings.base, settings.teacher)):
        catalog.path(model, echo=err.print)  # licence and download before the bar begins


def check_rows(source: str, columns: Columns, complaint: str) -> None:
    """Raises ``DataError``, which begins with ``complaint``, if no row is at a file's beginning."""
    from vestige.core.types import DataError, Row
    from vestige.rows.files import RowSource

    rows = RowSource(source, columns=columns)
    if not any(isinstance(item, Row) for item in islice(rows, TRIED)):
        raise DataError(rows.nothing(complaint))


def run_audit(
    settings: AuditSettings, data: str, root: Path, **options: Any
) -> tuple[Path, AuditResults, Data]:
    """The audit with its bar: its folder, its results, and what was read of the data.

    Args:
        options: ``reference``, ``columns``, ``overwrite``, for ``audit.run.audit``.
    """
    from vestige.audit.run import audit as audit_data
    from vestige.models.loading import quiet_transformers

    quiet_transformers()
    read: list[Data] = []
    with ProgressBar("audit", stages(settings)) as bar:
        folder, results = audit_data(
            data,
            settings,
            root=root,
            report=bar.stage,
            on_read=read.append,
            note=lambda text: err.print(text, markup=False),
            **options,
        )
    return folder, results, read[0]


def stages(settings: AuditSettings) -> int:
    """About how many stages an audit has."""
    return 8 + 4 * settings.canaries


def write_sarif(path: Path | None, results: AuditResults, data: str) -> None:
    """The verdict as SARIF, where it is asked for."""
    from vestige.report.sarif import as_sarif
    from vestige.store import atomic_write

    if path:
        atomic_write(path, json_text(as_sarif(results, data), indent=1))


def print_audit(
    folder: Path, results: AuditResults, read: Data, as_json: bool, fail_on: str
) -> None:
    """Write the report and print the outcome."""
    from vestige.audit.data import AUDITED
    from vestige.cli.summaries.audit import print_summary
    from vestige.report import render_runs

    page = render_runs([folder], folder / "report.html")
    facts = {**read.records.found(), "earlier_turns": read.turns, "audited": AUDITED}
    record = {"run": str(folder), "report": str(page), "read": facts, **results.model_dump()}

    def text() -> None:
        print_summary(results)
        print_lines(read.described())
        print_path("audit", folder)
        print_path("report", page)
        out.print(f"\n{results.first_look_verdict}", markup=False)
        out.print(f"\n{results.verdict}", style="bold", markup=False)
        if results.outcome == "inconclusive" and fail_on == "flagged":
            out.print(STATUS_0)

    print_result(record, as_json, text)


@contextmanager
def errors_end_in_status_2() -> Iterator[None]:
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


def status(outcome: Literal["flagged", "not_found", "inconclusive"], fail_on: str) -> int:
    """The exit status of an outcome."""
    if fail_on == "never" or outcome == "not_found":
        return 0
    if outcome == "flagged":
        return FLAGGED
    return INCONCLUSIVE if fail_on == "inconclusive" else 0
