"""Fine-tuning services: chat JSONL as they take it, and the body of the job request."""

from __future__ import annotations

import json
from pathlib import Path

from vestige.core.settings import ROWS
from vestige.handoff.trainers.task import Task, write_chat
from vestige.store import atomic_write


def write_openai(task: Task, folder: Path) -> None:
    """The file to upload and the body of the request for the job.

    The services name their own base, and scale the rate by a factor of their own: both are left.
    """
    write_chat(task.rows, folder)
    job = {
        "model": "NAME OF THE SERVICE'S MODEL",
        "training_file": f"ID OF THE UPLOADED {ROWS}",
        "seed": task.cell.seed,
        "method": {
            "type": "supervised",
            "supervised": {
                "hyperparameters": {
                    "n_epochs": max(1, round(task.epochs)),
                    "batch_size": task.optimisation.batch,
                    "learning_rate_multiplier": "auto",
                }
            },
        },
    }
    atomic_write(folder / "job.json", json.dumps(job, indent=1) + "\n")
