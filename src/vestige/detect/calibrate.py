"""A base's battery, made before it is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vestige.core.detection import Calibrated
from vestige.probing.base_session import BaseSession
from vestige.probing.harmless_students import HarmlessStudents
from vestige.probing.settings import BatterySettings


def calibrate(
    settings: BatterySettings,
    *,
    cache: Path | None = None,
    on_done: Callable[[int], object] = lambda done: None,
) -> Calibrated:
    """Make the members that are not kept yet.

    Raises:
        ModelError: the base cannot be loaded; ConfigError: the library is not valid.
    """
    students = HarmlessStudents(BaseSession(settings, cache=cache), settings)
    missing = len(students.missing())
    battery = students.battery(on_done)
    return Calibrated(
        base=settings.base,
        members=battery.m,
        made=missing,
        smallest_p=battery.smallest_p,
    )
