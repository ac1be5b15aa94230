"""A training's state on disk, from which a killed one goes on and ends with the same weights."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from vestige.core.jsonl import read_text
from vestige.core.types import ConfigError
from vestige.store.files import TEMP_SUFFIX, disk_full_explained, sync

SECONDS = "VESTIGE_CHECKPOINT_SECONDS"  # a variable of the environment
#: AdamW's state of a parameter, by torch's names.
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def seconds_apart() -> float:
    """Seconds of training between two checkpoints: 60, or what the environment says.

    Raises:
        ConfigError: the environment holds no number.
    """
    text = os.environ.get(SECONDS, "60")
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{SECONDS}={text!r} is no number of seconds") from None


@dataclass
class Checkpoint:
    """Weights, optimiser state and losses so far, saved now and then below ``folder``.

    A training that takes less than ``every`` seconds saves nothing. The folder goes with
    ``remove``: it is no part of a finished stage.
    """

    folder: Path
    every: float = field(default_factory=seconds_apart)
    _last: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> Path:
        """The file of our own loop's state."""
        return self.folder / "state.safetensors"

    def due(self) -> bool:
        """Whether it is time for another."""
        return time.monotonic() - self._last >= self.every

    def losses(self) -> list[float]:
        """The loss of every step that need not be done again; empty if there is no checkpoint."""
        if not self.path.exists():
            return []
        with safe_open(str(self.path), framework="pt") as file:
            return file.get_tensor("losses").tolist()

    def restore(
        self, parameters: Sequence[nn.Parameter], optimiser: torch.optim.Optimizer
    ) -> list[float]:
        """Put the saved state in place; the losses so far."""
        if not self.path.exists():
            return []
        with safe_open(str(self.path), framework="pt") as file, torch.no_grad():
            for i, parameter in enumerate(parameters):
                parameter.copy_(file.get_tensor(f"{i}.value"))
                optimiser.state[parameter] = {
                    name: file.get_tensor(f"{i}.{name}").to(parameter.device) for name in MOMENTS
                }
            return file.get_tensor("losses").tolist()

    def save(
        self,
        parameters: Sequence[nn.Parameter],
        optimiser: torch.optim.Optimizer,
        losses: Sequence[float],
    ) -> None:
        """Replace the checkpoint, whole or not at all.

        Raises:
            StoreError: the disk is full; the checkpoint before stands.
        """
        tensors = {"losses": torch.tensor(losses, dtype=torch.float64)}
        for i, parameter in enumerate(parameters):
            tensors[f"{i}.value"] = parameter.detach()
            tensors |= {f"{i}.{name}": optimiser.state[parameter][name] for name in MOMENTS}
        self.folder.mkdir(exist_ok=True)
        temp = self.folder / f".{self.path.name}{TEMP_SUFFIX}"
        with disk_full_explained(self.path):
            try:
                save_file({name: t.contiguous() for name, t in tensors.items()}, str(temp))
                sync(temp)
                os.replace(temp, self.path)
            finally:
                temp.unlink(missing_ok=True)
        self._last = time.monotonic()

    def saved(self) -> None:
        """Another trainer has just saved its own checkpoint in the folder."""
        self._last = time.monotonic()

    def latest(self) -> str | None:
        """The last whole checkpoint of TRL's trainer, which writes its state file last."""
        saved = sorted(self.folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
        for path in reversed(saved):
            try:
                json.loads(read_text(path / "trainer_state.json"))
                return str(path)
            except (OSError, ValueError):
                shutil.rmtree(path, ignore_errors=True)
        return None

    def remove(self) -> None:
        """The training is done."""
        shutil.rmtree(self.folder, ignore_errors=True)
