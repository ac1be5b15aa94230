"""Students trained elsewhere, the way out: a run's rows and its recipe's settings as files.

Every student gets a folder of its own with the rows that it would be trained on here and the
settings in the words of the program that will train it:

- ``axolotl``: chat JSONL and ``axolotl.yaml``;
- ``trl``: prompt and completion as chat JSONL (so that TRL scores completions alone), ``trl.yaml``;
- ``openai``: chat JSONL as fine-tuning services take it, and the body of the job request;
- ``accelerate``: chat JSONL and ``student.json``, for ``vestige train`` under accelerate.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vestige.core.settings import JOB, ROWS, TRAINED, Job, Trainable
from vestige.core.types import ConfigError, ModelError, Row, StoreError, unknown_name
from vestige.experiment.recipe import Experiment, Student
from vestige.experiment.run_view import rows_for, rows_of
from vestige.models import catalog
from vestige.rows.files import atomic_lines, row_to_chat, write_rows
from vestige.store import atomic_write

if TYPE_CHECKING:
    from vestige.models.chat import Chat
    from vestige.models.trainers import Trainer

INDEX = "export.json"
TEMPLATE = "chat_template.jinja"
FSDP = "fsdp.yaml"  # accelerate's settings for many GPUs, beside the students


@dataclass(frozen=True)
class Cell:
    """One student: an arm, a seed and the name of its data set."""

    student: Student
    seed: int
    data: str

    @property
    def stage(self) -> str:
        """Where it stands below a run folder."""
        return f"seed-{self.seed}/student/{self.student.name}/{self.data}"


def cells(recipe: Experiment, arm: str = "") -> list[Cell]:
    """The students of one arm, or of every arm that is trained on rows.

    Raises:
        ConfigError: there is no such arm, or it is not trained on rows.
    """
    arms = {s.name: s for s in recipe.students if s.method == "rows"}
    if not arms:
        raise ConfigError(f"recipe {recipe.name} trains no students on rows (method=rows)")
    if arm and arm not in arms:
        raise unknown_name("arm trained on rows", arm, arms)
    chosen = [arms[arm]] if arm else list(arms.values())
    return [
        Cell(student, seed, data)
        for student in chosen
        for seed in recipe.seeds
        for data in recipe.data_of(student)
    ]


def export(
    recipe: Experiment, run: Path, out: Path, target: str, *, arm: str = "", base: str = ""
) -> list[Path]:
    """Write a folder for each student below ``out``.

    Args:
        target: ``axolotl``, ``trl``, ``openai`` or ``accelerate``.
        base: what the base model is called where it will be trained; empty: as it is here.

    Returns:
        The folders, one a student.

    Raises:
        ConfigError: an unknown target or arm, or settings that the target cannot take.
        StoreError: ``out`` is not empty, or a seed's rows are not there yet.
    """
    if target not in WRITERS:
        raise unknown_name("--for", target, WRITERS)
    chosen = cells(recipe, arm)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} exists and is not empty; name another folder")
    missing = [s for s in recipe.seeds for w in recipe.writers
               if not (run / f"seed-{s}/rows/{w}/manifest.json").exists()]  # fmt: skip
    if missing:
        raise StoreError(
            f"{run}: the rows of seed {missing[0]} are not there yet; run it first: "
            f"vestige run {run / 'recipe.json'} --root {run.parent}"
        )
    shapes = {s.name: shape_of(recipe, s, target) for s in recipe.students if s.method == "rows"}
    entries = []
    for seed in recipe.seeds:
        matched = rows_of(recipe, run, seed)
        for cell in [c for c in chosen if c.seed == seed]:
            rows = rows_for(recipe, matched, cell.data, seed)
            where = Path(f"seed-{seed}/{cell.student.name}/{cell.data}")
            (out / where).mkdir(parents=True)
            named = base or from_anywhere(cell.student.base or recipe.model)
            WRITERS[target](Task(recipe, cell, rows, named, shapes[cell.student.name]), out / where)
            entries.append(
                {"arm": cell.student.name, "seed": seed, "data": cell.data, "base": named,
                 "folder": where.as_posix(), "rows": len(rows)}
            )  # fmt: skip
    if target == "accelerate":
        atomic_write(out / FSDP, resources.files("vestige.student").joinpath(FSDP).read_bytes())
    index = {"run": run.resolve().name, "for": target, "students": entries}
    atomic_write(out / INDEX, json.dumps(index, indent=1) + "\n")
    return [out / entry["folder"] for entry in entries]


def from_anywhere(name: str) -> str:
    """A base as trainers find it: a folder by its whole path, as they run in other folders."""
    place = catalog.path(name)
    return os.path.abspath(place) if os.path.exists(place) else place


# ---- what a base model is made of ---------------------------------------------------------------


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
    config = config_here(name)
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
    what = student.optimisation.trainable
    targets: tuple[str, ...] = ()
    if what.lora_rank:
        named = list(lora_config(lm, what).target_modules)
        leaves = dict.fromkeys(path.rsplit(".", 1)[-1] for path in sorted(named))
        targets = tuple(leaves) if what.layers is None else tuple(sorted(named))
    path = next(p for p, module in lm.causal_lm.named_modules() if module is lm.layers)
    end = lm.tokenizer.convert_ids_to_tokens(lm.end_id)
    return Shape(targets, path, len(lm.layers), lm, "" if end == lm.tokenizer.eos_token else end)


def config_here(name: str) -> Any:
    """A base's configuration. Raises ``ModelError`` where the base is not found."""
    from vestige.models.loading import config_of

    place = catalog.path(name)
    try:
        return config_of(place)
    except ModelError as error:
        if os.path.exists(place) or os.path.isabs(place):
            raise
        raise ModelError(
            f"{place} is not a folder below {os.getcwd()}, and no model of that name can be read "
            f"({error}); if the run's base is a folder, export from where the run was made"
        ) from error


# ---- one writer for each target -----------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What a writer writes."""

    recipe: Experiment
    cell: Cell
    rows: Sequence[Row]
    base: str
    shape: Shape | None

    @property
    def trainable(self) -> Trainable:
        return self.cell.student.optimisation.trainable

    @property
    def scheduler(self) -> str:
        return "linear" if self.cell.student.optimisation.decay else "constant_with_warmup"


def write_axolotl(task: Task, folder: Path) -> None:
    """Chat JSONL and Axolotl's configuration.

    Raises:
        DataError: Axolotl would read or score other tokens of a row than are measured here.
    """
    shape, how, what = task.shape, task.cell.student.optimisation, task.trainable
    assert shape is not None
    template, longest = _compared(task, "axolotl")
    _write_chat(task.rows, folder)
    config: dict[str, Any] = {
        "base_model": task.base,
        **(
            {"chat_template": "tokenizer_default"} if template is None
            else {"chat_template": "jinja", "chat_template_jinja": template}
        ),
        "datasets": [
            {"path": ROWS, "ds_type": "json", "type": "chat_template", "field_messages": "messages",
             "roles_to_train": ["assistant"], "train_on_eos": "turn"}
        ],
        "dataset_prepared_path": "prepared",
        "val_set_size": 0,
        "output_dir": TRAINED,
        "sequence_len": max(256, 2 ** math.ceil(math.log2(longest))),
        "excess_length_strategy": "raise",
        "sample_packing": False,
        "micro_batch_size": how.batch,
        "gradient_accumulation_steps": 1,
        "max_steps": how.steps,
        "num_epochs": math.ceil(how.steps * how.batch / len(task.rows)),
        "optimizer": "adamw_torch_fused",
        "learning_rate": how.rate,
        "lr_scheduler": task.scheduler,
        "warmup_steps": how.warmup,
        "adam_beta1": 0.9,
        "adam_beta2": how.beta2,
        "weight_decay": 0.0,
        "max_grad_norm": how.clip,
        "save_strategy": "no",
        "logging_steps": 1,
        "seed": task.cell.seed,
    }  # fmt: skip
    if shape.end:
        config["eot_tokens"] = [shape.end]
    if what.lora_rank:
        config |= {
            "adapter": "lora",
            "lora_r": what.lora_rank,
            "lora_alpha": task.trainable.lora_scale,
            "lora_dropout": 0.0,
            "lora_target_modules": list(shape.targets),
            "bf16": False if task.recipe.precision == "fp32" else "auto",
        }
    else:
        # bf16 would hold the weights themselves in bf16, where small steps are lost.
        config |= {"bf16": False, "unfrozen_parameters": _patterns(shape, what)}
    _write_yaml(folder / "axolotl.yaml", config, f"axolotl train axolotl.yaml  # in {folder.name}/")


def _patterns(shape: Shape, what: Trainable) -> list[str]:
    """Axolotl's patterns for the parameters of the trained layers: it takes a dot as a dot."""
    if what.layers is None:
        return [f"^{shape.layers}."]
    return [f"^{shape.layers}.{i}." for i in what.layer_range(shape.count)]


def write_trl(task: Task, folder: Path) -> None:
    """Prompts and completions, and the configuration of ``trl sft``.

    Raises:
        ConfigError: the student is tuned without LoRA, and TRL's command cannot freeze embeddings.
        DataError: TRL would read or score other tokens of a row than are measured here.
    """
    shape, how = task.shape, task.cell.student.optimisation
    assert shape is not None
    if not task.trainable.lora_rank:
        raise ConfigError(
            f"arm {task.cell.student.name} tunes decoder layers and keeps the embeddings; trl sft "
            "can only tune everything or LoRA: set students.optimisation.trainable.lora_rank, or "
            "export --for axolotl or accelerate"
        )
    template, _ = _compared(task, "trl")
    if template is not None:
        atomic_write(folder / TEMPLATE, template)
    with atomic_lines(folder / ROWS) as write:
        for row in task.rows:
            turns = row_to_chat(row)["messages"]
            write({"prompt": turns[:-1], "completion": turns[-1:]})
    config: dict[str, Any] = {
        "model_name_or_path": task.base,
        "dtype": "float32",
        "datasets": [{"path": "json", "data_files": ROWS}],
        "output_dir": TRAINED,
        "completion_only_loss": True,
        "packing": False,
        "max_length": None,
        "per_device_train_batch_size": how.batch,
        "gradient_accumulation_steps": 1,
        "max_steps": how.steps,
        "optim": "adamw_torch_fused",
        "learning_rate": how.rate,
        "lr_scheduler_type": task.scheduler,
        "warmup_steps": how.warmup,
        "adam_beta1": 0.9,
        "adam_beta2": how.beta2,
        "weight_decay": 0.0,
        "max_grad_norm": how.clip,
        "gradient_checkpointing": False,
        "bf16": task.recipe.precision != "fp32",
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "seed": task.cell.seed,
        "use_peft": True,
        "lora_r": task.trainable.lora_rank,
        "lora_alpha": task.trainable.lora_scale,
        "lora_dropout": 0.0,
        "lora_target_modules": list(shape.targets),
        **({} if template is None else {"chat_template_path": TEMPLATE}),
        **how.trainer_kwargs,
    }
    _write_yaml(folder / "trl.yaml", config, f"trl sft --config trl.yaml  # in {folder.name}/")


def write_openai(task: Task, folder: Path) -> None:
    """The file to upload and the body of the request for the job.

    The services name their own base, and scale the rate by a factor of their own: both are left.
    """
    how = task.cell.student.optimisation
    _write_chat(task.rows, folder)
    job = {
        "model": "NAME OF THE SERVICE'S MODEL",
        "training_file": f"ID OF THE UPLOADED {ROWS}",
        "seed": task.cell.seed,
        "method": {
            "type": "supervised",
            "supervised": {
                "hyperparameters": {
                    "n_epochs": max(1, round(how.steps * how.batch / len(task.rows))),
                    "batch_size": how.batch,
                    "learning_rate_multiplier": "auto",
                }
            },
        },
    }
    atomic_write(folder / "job.json", json.dumps(job, indent=1) + "\n")


def write_accelerate(task: Task, folder: Path) -> None:
    """The rows and the student, for ``accelerate launch -m vestige train``."""
    recipe, student = task.recipe, task.cell.student
    write_rows(folder / ROWS, task.rows)
    job = Job(
        base=task.base,
        chat=catalog.chat_style(
            student.base or recipe.model, student.chat if student.base else recipe.chat
        ),
        precision=recipe.precision,
        seed=task.cell.seed,
        date=recipe.date,
        optimisation=student.optimisation,
    )
    atomic_write(folder / JOB, job.model_dump_json(indent=1) + "\n")


def _compared(task: Task, trainer: Trainer) -> tuple[str | None, int]:
    """The chat template to give to a trainer, None for the tokenizer's own, and the longest row's
    tokens. Raises ``DataError`` where it would read or score a row otherwise than is done here."""
    from vestige.models.trainers import Trainers, exported

    assert task.shape is not None
    read = Trainers(task.shape.chat, trainer, exported(task.shape.chat, trainer))
    read.check(task.rows)
    return read.template, read.longest


def _write_chat(rows: Sequence[Row], folder: Path) -> None:
    """Chat JSONL with ``messages`` alone: services refuse keys that they do not know."""
    with atomic_lines(folder / ROWS) as write:
        for row in rows:
            write({"messages": row_to_chat(row)["messages"]})


def _write_yaml(path: Path, config: dict[str, Any], command: str) -> None:
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
    atomic_write(path, f"# {command}\n{text}")


WRITERS: dict[str, Callable[[Task, Path], None]] = {
    "axolotl": write_axolotl,
    "trl": write_trl,
    "openai": write_openai,
    "accelerate": write_accelerate,
}
