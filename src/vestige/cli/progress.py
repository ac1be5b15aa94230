"""What a run shows on the terminal: one bar for all, a line for what each seed is doing."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vestige.experiment.run import Event


class RunProgress:
    """Bars for a run of ``stages`` stages; a context manager whose ``event`` takes progress."""

    def __init__(self, console: Console, title: str, stages: int) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._whole = self._bars.add_task(title, total=stages, note="")
        self._stages = stages
        self._seeds: dict[int, TaskID] = {}
        self._share: dict[str, float] = {}

    def __enter__(self) -> RunProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def event(self, event: Event) -> None:
        """Take one event of the run."""
        name = event.stage.split("/", 1)[-1]
        if event.seed not in self._seeds:
            self._seeds[event.seed] = self._bars.add_task(
                f"  seed {event.seed}", total=1.0, note=""
            )
        finished = event.total == 0
        share = 1.0 if finished else event.done / event.total
        self._share[event.stage] = 1.0 if finished else min(share, 0.999)
        self._bars.update(
            self._seeds[event.seed],
            completed=share,
            note=name if finished else f"{name} {event.done}/{event.total}",
        )
        ready = sum(value == 1.0 for value in self._share.values())
        self._bars.update(
            self._whole,
            completed=sum(self._share.values()),
            note=f"{ready} of {self._stages} stages",
        )
