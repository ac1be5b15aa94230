"""Students trained elsewhere, the way out: a run's rows and its recipe's settings as files.

Every student gets a folder of its own with the rows that it would be trained on here and the
settings in the words of the program that will train it: a file of ``trainers`` for each program.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from vestige.core.types import StoreError, unknown_name
from vestige.experiment.run_view import rows_for, rows_of
from vestige.experiment.settings import Experiment
from vestige.handoff.base_shape import shape_of
from vestige.handoff.cells import Cell, cells
from vestige.handoff.trainers.accelerate import write_accelerate
from vestige.handoff.trainers.axolotl import write_axolotl
from vestige.handoff.trainers.openai import write_openai
from vestige.handoff.trainers.task import Task
from vestige.handoff.trainers.trl import write_trl
from vestige.models import catalog
from vestige.store import atomic_write
from vestige.store.layout import RunLayout, StageFile

__all__ = ["INDEX", "WRITERS", "Cell", "cells", "export"]

INDEX = "export.json"
FSDP = "fsdp.yaml"  # accelerate's settings for many GPUs, beside the students
#: How a student is written for each program.
WRITERS: dict[str, Callable[[Task, Path], None]] = {
    "axolotl": write_axolotl,
    "trl": write_trl,
    "openai": write_openai,
    "accelerate": write_accelerate,
}


def export(
    recipe: Experiment, run: Path, out: Path, target: str, *, arm: str = "", base: str = ""
) -> list[Path]:
    """Write a folder for each student below ``out``.

    Args:
        target: ``axolotl``, ``trl``, ``openai`` or ``accelerate``.
        base: what the base model is called where it will be trained; empty: as it is here.

    Returns:
        The folders, one a student.

    Raises:
        ConfigError: an unknown target or arm, or settings that the target cannot take.
        StoreError: ``out`` is not empty, or a seed's rows are not there yet.
    """
    if target not in WRITERS:
        raise unknown_name("--for", target, WRITERS)
    chosen = cells(recipe, arm)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} exists and is not empty; name another folder")
    check_rows(recipe, run)
    shapes = {s.name: shape_of(recipe, s, target) for s in recipe.students if s.method == "rows"}
    entries = []
    for seed in recipe.seeds:
        matched = rows_of(recipe, run, seed)
        for cell in [c for c in chosen if c.seed == seed]:
            rows, name = rows_for(recipe, matched, cell.data, seed), cell.student.name
            (out / cell.exported).mkdir(parents=True)
            named = base or from_anywhere(cell.student.base or recipe.model)
            WRITERS[target](Task(recipe, cell, rows, named, shapes[name]), out / cell.exported)
            entries.append(index_entry(cell, named, len(rows)))
    if target == "accelerate":
        atomic_write(out / FSDP, resources.files("vestige.student").joinpath(FSDP).read_bytes())
    index = {"run": run.resolve().name, "for": target, "students": entries}
    atomic_write(out / INDEX, json.dumps(index, indent=1) + "\n")
    return [out / entry["folder"] for entry in entries]


def check_rows(recipe: Experiment, run: Path) -> None:
    """Raises ``StoreError`` naming a seed whose rows are not there yet."""
    layout = RunLayout(run)
    for seed in recipe.seeds:
        for writer in recipe.writers:
            if not (layout.rows(seed, writer) / StageFile.MANIFEST).exists():
                raise StoreError(
                    f"{run}: the rows of seed {seed} are not there yet; run it first: "
                    f"vestige run {layout.recipe} --root {run.parent}"
                )


def index_entry(cell: Cell, base: str, rows: int) -> dict[str, Any]:
    """One student in the exported folder's index."""
    return {
        "arm": cell.student.name,
        "seed": cell.seed,
        "data": cell.data,
        "base": base,
        "folder": cell.exported.as_posix(),
        "rows": rows,
    }


def from_anywhere(name: str) -> str:
    """A base as trainers find it: a folder by its whole path, as they run in other folders."""
    path = catalog.path(name)
    return os.path.abspath(path) if os.path.exists(path) else path
