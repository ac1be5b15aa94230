"""Audits as a kind of run. Free of torch until one is run again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vestige.audit.recipe import AuditRecipe
from vestige.core.audit_results import AuditResults
from vestige.core.kinds import Kind


def replay(
    folder: Path, *, overwrite: bool, report: Callable[[str, int, int], object]
) -> tuple[Path, AuditResults]:
    """Run an audit again from its folder; raises as ``audit.run.replay``."""
    from vestige.audit.run import replay as run_again

    return run_again(folder, overwrite=overwrite, report=report)


KIND = Kind(
    name="audit", settings=AuditRecipe, record=AuditResults, replay=replay, template="audit"
)
