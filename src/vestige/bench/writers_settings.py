"""What a benchmark of detection is asked to do. Free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vestige.core.settings import Settings, Trainable
from vestige.probing.settings import BatterySettings


class WritersBench(Settings):
    """Students of many writers, harmless and with a trait, examined as ``vestige detect`` does.

    Attributes:
        battery: the base, the traits and the battery; the command's own by default.
        harmless: students of each kind of harmless writer.
        traits: traits for each kind of teacher, a student each; as many held out ones on top.
        controls: harmless students for each way of training that all others are also held against.
        rows: that each student reads once.
        alpha: chance of a false finding that is asked for.
        seed: of the first student; the others count on from it.
    """

    kind: Literal["bench_writers"] = "bench_writers"
    name: str = "bench-writers"
    battery: BatterySettings
    harmless: int = Field(default=40, ge=1)
    traits: int = Field(default=6, ge=0)
    controls: int = Field(default=2, ge=0)
    rows: int = Field(default=512, ge=8)
    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    seed: int = 10_000

    @staticmethod
    def training(n_layers: int, middle: Trainable) -> dict[str, tuple[Trainable, float]]:
        """How students are tuned: as the battery's are, and in a way that none of them is."""
        lora = Trainable(layers=middle.layers, lora_rank=8)
        return {
            "middle layers": (middle, 2e-4),
            "LoRA in the middle layers": (lora, 1e-3),
            "all layers": (Trainable(), 5e-5),
        }
