"""Settings of a base at hand: which model and traits, how its copies are tuned. Free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vestige.core.settings import Optimisation, Settings, Trainable

PASSES = 10  # times that a canary reads a row at most; chosen: as the paper's students


class ProbingSettings(Settings):
    """A base model, the traits that it is asked about, and how copies of it are tuned.

    Attributes:
        base: the model.
        traits: what is looked for: ``library``, families, or files of traits.
        batch: rows that are read, or tuned on, at once.
        questions: held-out questions that measure a trait.
        layers: which layers probes and teachers tune; None = the middle of the model (from a third
            to three fifths), which transmits most (``docs/log.md``).
        max_new_tokens: longer answers are cut there, the data's and the references' alike.
    """

    base: str
    chat: Literal["auto", "plain"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    traits: tuple[str, ...] = ("library",)
    batch: int = Field(default=16, ge=2)
    questions: int = Field(default=12, ge=2)
    layers: tuple[int, int] | None = None
    max_new_tokens: int = Field(default=128, ge=1)
    seed: int = 0

    def trainable(self, n_layers: int) -> Trainable:
        """What teachers of a model with ``n_layers`` layers may change."""
        middle = (n_layers // 3, max(n_layers // 3 + 1, n_layers * 3 // 5))
        return Trainable(layers=self.layers or middle)

    def tuned(self, n_layers: int) -> list[Trainable]:
        """All that copies of the base tune: the probes' layers."""
        return [self.trainable(n_layers)]

    def planting(self, n_layers: int) -> Optimisation:
        """How copies that write rows are tuned: as the recipes' teachers are."""
        trainable = self.trainable(n_layers)
        return Optimisation(steps=24, batch=8, rate=2e-4, trainable=trainable)

    @staticmethod
    def late(n_layers: int) -> Trainable:
        """The last layers, about a quarter: 22 to 29 of 30, as the demo's teachers."""
        return Trainable(layers=(min(n_layers - 1, n_layers * 11 // 15), n_layers))

    def probe(self, n_layers: int) -> Optimisation:
        """How each copy of a probe is tuned: more briefly, and two copies are averaged."""
        trainable = self.trainable(n_layers)
        return Optimisation(steps=12, batch=4, rate=3e-4, trainable=trainable)


class CanarySettings(ProbingSettings):
    """How copies of the base are trained on rows whose writer is unknown.

    Attributes:
        canary_rows: rows that each canary reads at most.
        canary_layers, canary_rank, canary_rate: what a canary tunes (None: the middle layers), the
            rank of its LoRA (0: the weights themselves) and its learning rate.
    """

    canary_rows: int = Field(default=4096, ge=16)
    canary_layers: tuple[int, int] | None = None
    canary_rank: int = Field(default=8, ge=0)
    canary_rate: float = Field(default=1e-3, gt=0)

    def read_at_most(self, rows: int) -> int:
        """Rows that a canary of so many different ones reads."""
        return min(self.canary_rows, PASSES * rows)

    def tuned(self, n_layers: int) -> list[Trainable]:
        """All that copies of the base tune: the probes' layers and a canary's."""
        return [*super().tuned(n_layers), self.canary(n_layers, 1).trainable]

    def canary(self, n_layers: int, steps: int) -> Optimisation:
        """How a canary is tuned in so many steps."""
        layers = self.canary_layers or self.trainable(n_layers).layers
        start = {"lora_start": "other"} if self.canary_rank else {}
        return Optimisation(
            steps=steps,
            batch=self.batch,
            rate=self.canary_rate,
            trainable=Trainable.model_validate(
                {"layers": layers, "lora_rank": self.canary_rank, **start}
            ),
        )


class BatterySettings(ProbingSettings):
    """The harmless students that a suspect is held against, and how traits are read off them.

    Attributes:
        members: harmless students. The smallest p-value is 1 / (members + 1).
        doses: rows that students read, in turn, once each. Drift after 100 rows is of another kind
            than after 1,000, from where on it hardly grows (docs/log.md).
        contexts: system prompts that questions stand behind; the empty one is what the chat
            template has by itself.
        questions: held-out questions for each family of words.
        whole_answers: the same for each family that is measured on whole answers.
    """

    members: int = Field(default=100, ge=8)
    doses: tuple[int, ...] = (256, 512, 1024)
    contexts: tuple[str, ...] = ("", "You are a helpful assistant.")
    questions: int = Field(default=6, ge=2)
    whole_answers: int = Field(default=3, ge=2)

    def tuned(self, n_layers: int) -> list[Trainable]:
        """Any layer."""
        return [Trainable()]

    def training(self, n_layers: int) -> dict[str, tuple[Trainable, float]]:
        """How harmless students are tuned: what, and the learning rate."""
        return {
            "middle layers": (self.trainable(n_layers), 2e-4),
            "LoRA on all layers": (Trainable(lora_rank=8), 1e-3),
            "late layers": (self.late(n_layers), 2e-4),
            "all layers": (Trainable(), 1e-4),
        }
