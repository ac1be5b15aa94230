"""Benchmarks of audits as a kind of run. Free of torch until one is run again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vestige.bench.settings import BenchRecipe
from vestige.core.kinds import Kind
from vestige.core.results import BenchResults


def replay(
    folder: Path, *, overwrite: bool, report: Callable[[str, int, int], object]
) -> tuple[Path, BenchResults]:
    """Run a benchmark again from its folder; raises as ``bench.run.replay``."""
    from vestige.bench.run import replay as run_again

    return run_again(folder, overwrite=overwrite, report=report)


KIND = Kind(name="bench", settings=BenchRecipe, record=BenchResults, replay=replay, template="")
