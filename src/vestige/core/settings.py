"""How models are trained, as frozen settings. Free of torch, so that recipes load at once."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from vestige.core.types import ConfigError


class Settings(BaseModel):
    """Base of everything a recipe holds: frozen; unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


#: What a key or password is called; ``pad_token`` and ``max_tokens`` are none.
SECRET = re.compile(
    r"((api|access|secret|private|auth)_?)?key|((hf|hub|api|access|auth)_?)?token"
    r"|(.*_)?(secret|password)",
    re.IGNORECASE,
)


def without_secrets(value: Any) -> Any:
    """``value`` as it is. Raises ``ValueError`` if it names a key or password at any depth."""
    parts = value.items() if isinstance(value, dict) else [("", v) for v in value]
    for name, part in parts:
        if SECRET.fullmatch(str(name)):
            raise ValueError(
                f"{name} would be kept with the run: leave it out and set it in the environment "
                "(HF_TOKEN, or what the library's documentation names)"
            )
        if isinstance(part, (dict, list, tuple)):
            without_secrets(part)
    return value


#: A library's own options, as they are given to it and kept with the run.
Passed = Annotated[dict[str, Any], AfterValidator(without_secrets)]


class Trainable(Settings):
    """What training may change.

    Attributes:
        layers: first and past-the-last decoder layer; None = all. Embeddings stay frozen.
        lora_rank: 0 tunes the weights themselves; otherwise LoRA on every linear map of ``layers``.
        lora_alpha: LoRA's scale; None = twice the rank.
        lora_start: LoRA's first random factors. ``seed``: drawn with the seed, and so the same for
            a teacher and its students, as where one script with one seed trains both; ``other``,
            for students: drawn with another. They then share the base alone with their teachers.
    """

    layers: tuple[int, int] | None = None
    lora_rank: int = Field(default=0, ge=0)
    lora_alpha: int | None = Field(default=None, ge=1)
    lora_start: Literal["seed", "other"] = "seed"

    @model_validator(mode="after")
    def _fits(self) -> Trainable:
        if self.lora_start == "other" and not self.lora_rank:
            raise ValueError("lora_start goes with lora_rank")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As it was written before there was another start, unless that was set."""
        return {k: v for k, v in handler(self).items() if (k, v) != ("lora_start", "seed")}

    @property
    def lora_scale(self) -> int:
        """LoRA's alpha, named or twice the rank."""
        return self.lora_alpha or 2 * self.lora_rank

    def layer_range(self, n_layers: int) -> range:
        """The layers as a range. Raises ``ConfigError`` if the model has fewer."""
        first, last = self.layers or (0, n_layers)
        if not 0 <= first < last <= n_layers:
            raise ConfigError(f"layers {first}..{last} do not fit a model of {n_layers} layers")
        return range(first, last)


class Optimisation(Settings):
    """How to train: AdamW without weight decay, linear warm-up, gradient norm clipped.

    Attributes:
        batch: rows a step.
        prompts_per_batch: prompts that they come from; 1 is the cheapest, as a prompt is computed
            once, more make one batch like the next.
        decay: fall linearly to zero after warm-up; False keeps the rate constant.
    """

    steps: int = Field(default=32, ge=1)
    batch: int = Field(default=16, ge=1)
    prompts_per_batch: int = Field(default=1, ge=1)
    rate: float = Field(default=2e-4, gt=0)
    warmup: int = Field(default=5, ge=0)
    decay: bool = False
    beta2: float = Field(default=0.99, gt=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    trainable: Trainable = Trainable()
    trainer_kwargs: Passed = {}  # TRL's own options, for engine "trl"


class OnPolicy(Settings):
    """How a student learns from a teacher's probabilities on what it writes itself.

    Attributes:
        beta: of the generalised Jensen-Shannon divergence: 1 = KL(student || teacher), reverse;
            0 = KL(teacher || student), forward.
        share: of the steps on rows that the student writes; the others read the base's rows.
    """

    beta: float = Field(default=1.0, ge=0, le=1)
    share: float = Field(default=1.0, ge=0, le=1)


class Preference(Settings):
    """How a student learns from pairs of rows that a teacher ranked (DPO).

    Attributes:
        beta: what the log-probabilities' gains on the base are multiplied by.
    """

    beta: float = Field(default=0.1, gt=0)


#: The day that chat templates write where they ask for one. Never change it: runs rest on it.
DATE = "2026-01-01"
ROWS, JOB, TRAINED = "rows.jsonl", "student.json", "model"  # what an exported student's folder has


class Job(Settings):
    """A student by itself, as it is exported for training under ``accelerate launch``."""

    base: str
    chat: Literal["auto", "plain"]
    precision: Literal["auto", "bf16", "fp32"]
    seed: int
    date: str = DATE  # that the chat template writes, if it writes one
    optimisation: Optimisation
