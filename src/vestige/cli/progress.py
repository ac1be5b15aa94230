"""The progress bar of every command: one for the whole, and a line for each seed at work."""

from __future__ import annotations

import time

from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vestige.cli.output import err

SEED = "seed-"  # how the names of a seed's stages begin
UNFINISHED = 0.999  # the most that a stage counts for before it is done


class ProgressBar:
    """How far a command is, on a terminal's error output; gone when the command ends.

    A context manager. ``total`` is in whatever unit ``update`` counts, or in stages; None where it
    is unknown.
    """

    def __init__(self, title: str, total: float | None = None) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._whole = self._bars.add_task(escape(title), total=total, note="")
        self._stages = total
        self._seeds: dict[str, TaskID] = {}
        self._done: dict[str, float] = {}  # by stage, the share of it
        self._begin = time.monotonic()

    def __enter__(self) -> ProgressBar:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, note: str, done: float = 0.0) -> None:
        """``done`` of the total is done; ``note`` says it in words."""
        self._bars.update(self._whole, completed=done, note=escape(note))

    def rows(self, count: int, share: float | None) -> None:
        """``count`` rows are done, ``share`` of their file; None where its length is unknown."""
        rate = count / max(time.monotonic() - self._begin, 1e-9)
        total = None if share is None else 1.0
        self._bars.update(self._whole, total=total)
        self.update(f"{count:,} rows, {rate:,.0f} a second", share or 0.0)

    def stage(self, name: str, done: int, total: int) -> None:
        """An event of a run: ``done`` of ``total`` of a stage; total 0: it is finished."""
        share = done / total if total else 1.0
        self._done[name] = min(share, UNFINISHED) if total else 1.0
        seed, _, part = name.partition("/") if name.startswith(SEED) else ("", "", name)
        note = f"{part} {done}/{total}" if total else part
        if seed:
            if seed not in self._seeds:
                title = f"  {seed.replace('-', ' ')}"
                self._seeds[seed] = self._bars.add_task(title, total=1.0, note="")
            self._bars.update(self._seeds[seed], completed=share, note=note)
            finished = sum(part == 1.0 for part in self._done.values())
            note = f"{finished} of {self._stages} stages"
        self.update(note, sum(self._done.values()))
