"""Axolotl: chat JSONL and ``axolotl.yaml``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from vestige.core.settings import ROWS, TRAINED, Trainable
from vestige.handoff.base_shape import Shape
from vestige.handoff.trainers.task import Task, compared, write_chat, write_yaml

SHORTEST = 256  # tokens: the least sequence length that is written; chosen


def write_axolotl(task: Task, folder: Path) -> None:
    """Chat JSONL and Axolotl's configuration.

    Raises:
        DataError: Axolotl would read or score other tokens of a row than are measured here.
    """
    template, longest = compared(task, "axolotl")
    write_chat(task.rows, folder)
    config = {
        "base_model": task.base,
        **chat_template(template),
        **data_settings(longest),
        **optimiser_settings(task),
        **trained_parts(task),
    }
    write_yaml(folder / "axolotl.yaml", config, f"axolotl train axolotl.yaml  # in {folder.name}/")


def chat_template(template: str | None) -> dict[str, Any]:
    """Args: template: the template to use, or None for the tokenizer's own."""
    if template is None:
        return {"chat_template": "tokenizer_default"}
    return {"chat_template": "jinja", "chat_template_jinja": template}


def data_settings(longest: int) -> dict[str, Any]:
    """Where the rows are and what of them is scored.

    Args:
        longest: tokens of the longest row.
    """
    rows = {
        "path": ROWS,
        "ds_type": "json",
        "type": "chat_template",
        "field_messages": "messages",
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }
    return {
        "datasets": [rows],
        "dataset_prepared_path": "prepared",
        "val_set_size": 0,
        "output_dir": TRAINED,
        "sequence_len": max(SHORTEST, 2 ** math.ceil(math.log2(longest))),
        "excess_length_strategy": "raise",
        "sample_packing": False,
    }


def optimiser_settings(task: Task) -> dict[str, Any]:
    """The recipe's optimisation in Axolotl's words."""
    optimisation = task.optimisation
    return {
        "micro_batch_size": optimisation.batch,
        "gradient_accumulation_steps": 1,
        "max_steps": optimisation.steps,
        "num_epochs": math.ceil(task.epochs),
        "optimizer": "adamw_torch_fused",
        "learning_rate": optimisation.rate,
        "lr_scheduler": task.scheduler,
        "warmup_steps": optimisation.warmup,
        "adam_beta1": 0.9,
        "adam_beta2": optimisation.beta2,
        "weight_decay": 0.0,
        "max_grad_norm": optimisation.clip,
        "save_strategy": "no",
        "logging_steps": 1,
        "seed": task.cell.seed,
    }


def trained_parts(task: Task) -> dict[str, Any]:
    """The token that ends a turn, LoRA or the layers that are tuned, and the precision."""
    shape, trainable = task.shape, task.trainable
    assert shape is not None
    config: dict[str, Any] = {"eot_tokens": [shape.end]} if shape.end else {}
    if trainable.lora_rank:
        return config | {
            "adapter": "lora",
            "lora_r": trainable.lora_rank,
            "lora_alpha": trainable.lora_scale,
            "lora_dropout": 0.0,
            "lora_target_modules": list(shape.targets),
            "bf16": False if task.recipe.precision == "fp32" else "auto",
        }
    # bf16 would hold the weights themselves in bf16, where small steps are lost.
    return config | {"bf16": False, "unfrozen_parameters": parameter_patterns(shape, trainable)}


def parameter_patterns(shape: Shape, trainable: Trainable) -> list[str]:
    """Axolotl's patterns for the parameters of the trained layers: it takes a dot as a dot."""
    if trainable.layers is None:
        return [f"^{shape.layers}."]
    return [f"^{shape.layers}.{i}." for i in trainable.layer_range(shape.count)]
