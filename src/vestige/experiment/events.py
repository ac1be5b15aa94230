"""What work on a run tells its driver: progress of stages, and the failure that ended a worker."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from vestige.core.access import explained
from vestige.core.redaction import redact
from vestige.core.types import MissingExtraError, VestigeError

Report = Callable[[str, int, int], None]  # stage name, done, total; total 0 means unknown


@dataclass(frozen=True)
class Event:
    """Progress of one stage. ``total`` 0: just finished or of unknown length."""

    seed: int
    stage: str
    done: int
    total: int


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Tell nobody."""


def no_report(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Failure:
    """What ended a worker: the error to raise in its stead."""

    kind: type[Exception]
    text: str


def failure_of(error: Exception) -> Failure:
    """An error as what another process can raise, without keys; with ``--debug`` where it arose."""
    if not isinstance(error, VestigeError):
        error = explained(error) or error
    if isinstance(error, VestigeError):
        kind = VestigeError if isinstance(error, MissingExtraError) else type(error)
        return Failure(kind, redact(str(error)))
    text = f"{type(error).__name__}: {error}"
    if os.environ.get("VESTIGE_DEBUG"):
        text = "".join([text, "\n", *traceback.format_exception(error)])
    return Failure(RuntimeError, redact(text))


def report_of(seed: int, on_event: OnEvent) -> Report:
    """A seed's reports as events."""
    return lambda stage, done, total: on_event(Event(seed, stage, done, total))
