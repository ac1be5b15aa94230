"""Benchmarks of detection as a kind of run. Free of torch until one is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vestige.bench.writers_settings import WritersBench
from vestige.core.kinds import Kind
from vestige.core.writers import WritersResults


def run(settings: Any, root: Path, **options: Any) -> tuple[Path, WritersResults]:
    """Run a benchmark; raises as ``bench.writers.run``."""
    from vestige.bench.writers import run as run_bench

    return run_bench(settings, root, **options)


def replay(
    folder: Path, *, overwrite: bool, report: Callable[[str, int, int], object]
) -> tuple[Path, WritersResults]:
    """Run a benchmark again from its folder; raises as ``bench.writers.run``."""
    from vestige.bench.writers import run as run_bench
    from vestige.store import load_recipe_as

    settings = load_recipe_as(WritersBench, folder, "benchmark's", "run it again")
    return run_bench(settings, folder.absolute().parent, overwrite=overwrite, report=report)


KIND = Kind(
    name="bench_writers",
    settings=WritersBench,
    record=WritersResults,
    replay=replay,
    run=run,
    models=lambda settings: [settings.battery.base],
)
