"""``vestige train`` under accelerate: chat JSONL and ``student.json``."""

from __future__ import annotations

from pathlib import Path

from vestige.core.settings import JOB, ROWS, Job
from vestige.handoff.trainers.task import Task
from vestige.models import catalog
from vestige.rows.files import write_rows
from vestige.store import atomic_write


def write_accelerate(task: Task, folder: Path) -> None:
    """The rows and the student, for ``accelerate launch -m vestige train``."""
    recipe, student = task.recipe, task.cell.student
    write_rows(folder / ROWS, task.rows)
    job = Job(
        base=task.base,
        chat=catalog.chat_style(
            student.base or recipe.model, student.chat if student.base else recipe.chat
        ),
        precision=recipe.precision,
        seed=task.cell.seed,
        date=recipe.date,
        optimisation=student.optimisation,
    )
    atomic_write(folder / JOB, job.model_dump_json(indent=1) + "\n")
