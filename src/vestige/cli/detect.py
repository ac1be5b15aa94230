"""``vestige detect``: what a student took on, fit to stop a pipeline by its exit status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vestige.cli.audit import Chat, Members, Traits, errors_end_in_status_2
from vestige.cli.options import AsJson, Overwrite, checked
from vestige.cli.output import comma_separated, err, out, print_path, print_result
from vestige.cli.progress import ProgressBar
from vestige.core.detection import DETECT_MEASURED, DetectResults
from vestige.core.types import ConfigError

if TYPE_CHECKING:
    from vestige.detect.settings import DetectSettings

FOUND, INCONCLUSIVE = 1, 3  # exit statuses; 0 is better than --fail-on, 2 bad usage or input

Base = Annotated[str, typer.Option(help="The model that the student was trained from.")]
Model = Annotated[str | None, typer.Option(help="The student, a whole model.")]
Adapter = Annotated[
    str | None, typer.Option(help="The student's LoRA adapter, in place of --model.")
]
Control = Annotated[
    str | None,
    typer.Option(
        help="Another student of the base, trained alike on rows that the base wrote: a model or "
        "an adapter, as the student is."
    ),
]
AdapterBase = Annotated[
    str, typer.Option(help="What the adapter calls the base, where that is none of its names.")
]
Alpha = Annotated[float, typer.Option(help="Chance that any trait is found in a harmless student.")]
DetectionsFolder = Annotated[
    Path, typer.Option("--out", help="Where the detection's folder is made.", metavar="DIR")
]
FailOn = Annotated[
    str, typer.Option(help="never, found or inconclusive: what makes the status not 0.")
]

HELP = "\n\n".join(
    [
        "What did a finished student take on? No trait has to be named and no data are needed.",
        "Every trait of the library is read off the student and held against a battery of harmless "
        "students of the same base, which is made once for each base and kept.",
        *DETECT_MEASURED,
        "Exit status: 0 better than --fail-on, 1 found, 3 inconclusive, 2 bad usage or input.",
    ]
)


def detect(
    base: Base,
    model: Model = None,
    adapter: Adapter = None,
    adapter_base: AdapterBase = "",
    control: Control = None,
    traits: Traits = "library",
    members: Members = 100,
    alpha: Alpha = 0.01,
    chat: Chat = "auto",
    folder: DetectionsFolder = Path("detections"),
    fail_on: FailOn = "found",
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    if fail_on not in ("never", "found", "inconclusive"):
        raise ConfigError(f"--fail-on is {fail_on!r}; valid: never, found, inconclusive")
    if bool(model) == bool(adapter):
        raise ConfigError("give the student as --model (a whole model) or as --adapter")
    settings = detect_settings(
        base=base,
        model=model,
        adapter=adapter,
        adapter_base=adapter_base,
        control=control,
        traits=comma_separated(traits),
        members=members,
        alpha=alpha,
        chat=chat,
    )
    with errors_end_in_status_2():
        run_folder, results = run_detection(settings, folder, overwrite)
        print_detection(run_folder, results, as_json)
    raise typer.Exit(status(results.outcome, fail_on))


def detect_settings(**values: Any) -> DetectSettings:
    """The settings. Raises ``ConfigError`` that names what is wrong."""
    from vestige.detect.settings import DetectSettings

    return checked(DetectSettings, values)


def run_detection(
    settings: DetectSettings, root: Path, overwrite: bool
) -> tuple[Path, DetectResults]:
    """The detection with its bar."""
    from vestige.detect.run import detect as examine
    from vestige.models import catalog
    from vestige.models.loading import quiet_transformers

    catalog.path(settings.base, echo=err.print)  # licence and download before the bar begins
    for model in (settings.model, settings.control) if settings.model else ():
        if model:
            catalog.path(model, echo=err.print)
    quiet_transformers()
    err.print(
        f"harmless students of {settings.base} that are not kept yet are made first, "
        f"{settings.members} at most, once for the base"
    )
    with ProgressBar("detect", 2) as bar:
        return examine(settings, root, overwrite=overwrite, report=bar.stage)


def print_detection(folder: Path, results: DetectResults, as_json: bool) -> None:
    """Write the report and print the outcome."""
    from vestige.cli.summaries.detect import print_summary
    from vestige.report import render_runs

    page = render_runs([folder], folder / "report.html")
    record = {"run": str(folder), "report": str(page), **results.model_dump()}

    def text() -> None:
        print_summary(results)
        print_path("detect", folder)
        print_path("report", page)
        out.print(f"\n{results.verdict}", style="bold", markup=False)

    print_result(record, as_json, text)


def status(outcome: str, fail_on: str) -> int:
    """The exit status of an outcome."""
    if fail_on == "never" or outcome == "not_found":
        return 0
    if outcome == "found":
        return FOUND
    return INCONCLUSIVE if fail_on == "inconclusive" else 0
