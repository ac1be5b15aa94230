"""Penalties in a trainer of transformers or TRL.

class Trainer(WithPenalties, SFTTrainer): ...

trainer = Trainer(model=model, processing_class=tokenizer, ...)
trainer.penalties = penalties_of(LanguageModel(model, tokenizer), objective)
trainer.train()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from vestige.core.types import ConfigError
from vestige.models.hf import LanguageModel
from vestige.student.loop import ObjectiveForModel
from vestige.student.objectives import Objective

Penalties = Sequence[tuple[float, Callable[[], Tensor]]]


def penalties_of(lm: LanguageModel, objective: Objective) -> Penalties:
    """The penalties of an objective, each with its strength.

    Args:
        lm: the model before its first step, which computes what the base does.

    Raises:
        ConfigError: the objective has another loss or gradient hooks, which a trainer has not.
    """
    if objective.loss or objective.gradient_hooks:
        raise ConfigError("of an objective a trainer takes penalties alone: no loss, no hooks")
    return ObjectiveForModel.of(objective, lm).penalties


class WithPenalties:
    """Adds penalties to the loss of the trainer that stands behind it among a class's bases.

    Attributes:
        penalties: functions of what the model has become, and their strengths.
    """

    penalties: Penalties = ()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any
    ) -> Any:
        """The trainer's own loss and, in training, the penalties: once a step, however many
        batches it is accumulated over."""
        own: Any = super()
        found = own.compute_loss(model, inputs, return_outputs=return_outputs, **more)
        loss, *outputs = found if return_outputs else (found,)
        if model.training and self.penalties:
            # A loss that is divided by all tokens of a step is not divided by its batches again.
            batches = 1 if more.get("num_items_in_batch") is None else accumulated(self)
            for strength, penalty in self.penalties:
                loss = loss + strength * penalty() / batches
        return (loss, *outputs) if return_outputs else loss


def accumulated(trainer: Any) -> int:
    """Over how many batches a trainer accumulates the gradient of this step."""
    usual = trainer.args.gradient_accumulation_steps
    return getattr(trainer, "current_gradient_accumulation_steps", usual)
