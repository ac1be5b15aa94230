"""What a base model is made of, as far as a trainer's settings must say it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vestige.core.types import ConfigError, ModelError
from vestige.experiment.settings import Experiment, Student
from vestige.models import catalog

if TYPE_CHECKING:
    from vestige.models.chat import Chat


@dataclass(frozen=True)
class Shape:
    """What a configuration must say of a base model.

    Attributes:
        targets: linear maps that LoRA is put on, by name.
        layers: the path of the decoder layers, such as ``model.layers``.
        count: how many there are.
        chat: how the base is asked.
        end: the token that ends a turn where it is not the one that ends a text; else empty.
    """

    targets: tuple[str, ...]
    layers: str
    count: int
    chat: Chat
    end: str


def shape_of(recipe: Experiment, student: Student, target: str) -> Shape | None:
    """The shape of a student's base, read without its weights; None for a service's model.

    Raises:
        ConfigError: the base is asked plainly, so that no trainer would render it alike.
        ModelError: the base is not found from here.
    """
    name = student.base or recipe.model
    if target == "openai":
        return None
    config = base_config(name)
    if target == "accelerate":
        return None
    style = student.chat if student.base else recipe.chat
    if catalog.chat_style(name, style) == "plain":
        raise ConfigError(
            f"{name} is asked plainly (chat=plain): it has no chat template that {target} would "
            "render; train it with engine=packed or trl, or export --for accelerate"
        )
    import torch
    from transformers import AutoModelForCausalLM

    from vestige.models.hf import LanguageModel
    from vestige.models.loading import load_tokenizer
    from vestige.models.weights import lora_config

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    lm = LanguageModel(model, load_tokenizer(catalog.path(name)), precision="fp32")
    lm.use_date(recipe.date)
    trainable = student.optimisation.trainable
    targets: tuple[str, ...] = ()
    if trainable.lora_rank:
        named = list(lora_config(lm, trainable).target_modules)
        leaves = dict.fromkeys(path.rsplit(".", 1)[-1] for path in sorted(named))
        targets = tuple(leaves) if trainable.layers is None else tuple(sorted(named))
    path = next(p for p, module in lm.causal_lm.named_modules() if module is lm.layers)
    end = lm.tokenizer.convert_ids_to_tokens(lm.end_id)
    return Shape(targets, path, len(lm.layers), lm, "" if end == lm.tokenizer.eos_token else end)


def base_config(name: str) -> Any:
    """A base's configuration. Raises ``ModelError`` where the base is not found."""
    from vestige.models.loading import config_of

    path = catalog.path(name)
    try:
        return config_of(path)
    except ModelError as error:
        if os.path.exists(path) or os.path.isabs(path):
            raise
        raise ModelError(
            f"{path} is not a folder below {os.getcwd()}, and no model of that name can be read "
            f"({error}); if the run's base is a folder, export from where the run was made"
        ) from error
