"""TRL: prompt and completion as chat JSONL, so that completions alone are scored, ``trl.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vestige.core.settings import ROWS, TRAINED
from vestige.core.types import ConfigError
from vestige.handoff.trainers.task import Task, compared, write_yaml
from vestige.rows.files import atomic_lines, row_to_chat
from vestige.store import atomic_write

TEMPLATE = "chat_template.jinja"


def write_trl(task: Task, folder: Path) -> None:
    """Prompts and completions, and the configuration of ``trl sft``.

    Raises:
        ConfigError: the student is tuned without LoRA, and TRL's command cannot freeze embeddings.
        DataError: TRL would read or score other tokens of a row than are measured here.
    """
    if not task.trainable.lora_rank:
        raise ConfigError(
            f"arm {task.cell.student.name} tunes decoder layers and keeps the embeddings; trl sft "
            "can only tune everything or LoRA: set students.optimisation.trainable.lora_rank, or "
            "export --for axolotl or accelerate"
        )
    template, _ = compared(task, "trl")
    if template is not None:
        atomic_write(folder / TEMPLATE, template)
    with atomic_lines(folder / ROWS) as write:
        for row in task.rows:
            turns = row_to_chat(row)["messages"]
            write({"prompt": turns[:-1], "completion": turns[-1:]})
    config = {
        **data_settings(task),
        **optimiser_settings(task),
        **lora_settings(task),
        **({} if template is None else {"chat_template_path": TEMPLATE}),
        **task.optimisation.trainer_kwargs,
    }
    write_yaml(folder / "trl.yaml", config, f"trl sft --config trl.yaml  # in {folder.name}/")


def data_settings(task: Task) -> dict[str, Any]:
    """The base, where the rows are, and what of them is scored."""
    return {
        "model_name_or_path": task.base,
        "dtype": "float32",
        "datasets": [{"path": "json", "data_files": ROWS}],
        "output_dir": TRAINED,
        "completion_only_loss": True,
        "packing": False,
        "max_length": None,
    }


def optimiser_settings(task: Task) -> dict[str, Any]:
    """The recipe's optimisation in TRL's words."""
    optimisation = task.optimisation
    return {
        "per_device_train_batch_size": optimisation.batch,
        "gradient_accumulation_steps": 1,
        "max_steps": optimisation.steps,
        "optim": "adamw_torch_fused",
        "learning_rate": optimisation.rate,
        "lr_scheduler_type": task.scheduler,
        "warmup_steps": optimisation.warmup,
        "adam_beta1": 0.9,
        "adam_beta2": optimisation.beta2,
        "weight_decay": 0.0,
        "max_grad_norm": optimisation.clip,
        "gradient_checkpointing": False,
        "bf16": task.recipe.precision != "fp32",
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "seed": task.cell.seed,
    }


def lora_settings(task: Task) -> dict[str, Any]:
    """The adapter that is trained."""
    assert task.shape is not None
    return {
        "use_peft": True,
        "lora_r": task.trainable.lora_rank,
        "lora_alpha": task.trainable.lora_scale,
        "lora_dropout": 0.0,
        "lora_target_modules": list(task.shape.targets),
    }
