"""Detections as a kind of run. Free of torch until one is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vestige.core.detection import DetectResults
from vestige.core.kinds import Kind
from vestige.detect.settings import DetectRecipe


def replay(
    folder: Path, *, overwrite: bool, report: Callable[[str, int, int], object]
) -> tuple[Path, DetectResults]:
    """Run a detection again from its folder; raises as ``detect.run.replay``."""
    from vestige.detect.run import replay as run_again

    return run_again(folder, overwrite=overwrite, report=report)


KIND = Kind(
    name="detect", settings=DetectRecipe, record=DetectResults, replay=replay, template="detect"
)
