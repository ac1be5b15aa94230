"""What every trainer's files are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vestige.core.settings import ROWS, Optimisation, Trainable
from vestige.core.types import Row
from vestige.experiment.settings import Experiment
from vestige.handoff.base_shape import Shape
from vestige.handoff.cells import Cell
from vestige.rows.files import atomic_lines, row_to_chat
from vestige.store import atomic_write

if TYPE_CHECKING:
    from vestige.models.trainers import Trainer


@dataclass(frozen=True)
class Task:
    """One student to be exported."""

    recipe: Experiment
    cell: Cell
    rows: Sequence[Row]
    base: str
    shape: Shape | None

    @property
    def trainable(self) -> Trainable:
        """What training may change."""
        return self.optimisation.trainable

    @property
    def optimisation(self) -> Optimisation:
        """How the student is trained."""
        return self.cell.student.optimisation

    @property
    def scheduler(self) -> str:
        """The learning rate's course, in the words of transformers."""
        return "linear" if self.optimisation.decay else "constant_with_warmup"

    @property
    def epochs(self) -> float:
        """How often the student sees each row."""
        return self.optimisation.steps * self.optimisation.batch / len(self.rows)


def compared(task: Task, trainer: Trainer) -> tuple[str | None, int]:
    """The chat template to give to a trainer, None for the tokenizer's own, and the longest row's
    tokens. Raises ``DataError`` where it would read or score a row otherwise than is done here."""
    from vestige.models.trainers import Trainers, exported

    assert task.shape is not None
    read = Trainers(task.shape.chat, trainer, exported(task.shape.chat, trainer))
    read.check(task.rows)
    return read.template, read.longest


def write_chat(rows: Sequence[Row], folder: Path) -> None:
    """Chat JSONL with ``messages`` alone: services refuse keys that they do not know."""
    with atomic_lines(folder / ROWS) as write:
        for row in rows:
            write({"messages": row_to_chat(row)["messages"]})


def write_yaml(path: Path, config: dict[str, Any], command: str) -> None:
    """A trainer's settings, with the command that uses them in the first line."""
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
    atomic_write(path, f"# {command}\n{text}")
