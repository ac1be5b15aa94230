"""Audits as a kind of run."""

from __future__ import annotations

from pathlib import Path

from vestige.audit.settings import AuditSettings
from vestige.core.kinds import Kind, Report
from vestige.core.results import AuditResults
from vestige.core.types import StoreError


def replay(folder: Path, *, overwrite: bool, report: Report) -> tuple[Path, AuditResults]:
    """Run what is unfinished in an audit's folder."""
    raise StoreError(f"{folder} does not say where its data are: run the same vestige audit again")


KIND = Kind(
    name="audit", settings=AuditSettings, record=AuditResults, replay=replay, template="audit"
)
