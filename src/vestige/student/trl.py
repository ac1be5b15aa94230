"""Students through TRL: ``SFTTrainer`` on prompt/completion rows, completion-only loss."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from vestige.core.settings import Optimisation
from vestige.core.types import ConfigError, MissingExtraError, Row, TrainingError
from vestige.models.hf import LanguageModel
from vestige.models.weights import Weights
from vestige.student.checkpoint import Checkpoint
from vestige.student.loop import USUAL
from vestige.student.objectives import Objective
from vestige.student.packs import encode_rows
from vestige.student.trainer_penalties import WithPenalties, penalties_of

#: Attributes that accelerate puts on a model that it has prepared.
LEFT_BEHIND = {"forward", "_original_forward", "_is_accelerate_prepared"}


def train_with_trl(
    lm: LanguageModel,
    weights: Weights,
    rows: Sequence[Row],
    optimisation: Optimisation,
    *,
    seed: int,
    on_step: Callable[[int], None] = lambda step: None,
    save: Path | None = None,
    checkpoint: Checkpoint | None = None,
    objective: Objective = USUAL,
) -> list[float]:
    """Fine-tune from the base on ``rows``; the model holds the result afterwards.

    The loss is TRL's completion-only cross-entropy over the whole vocabulary. ``trainable`` picks
    full tuning of some layers or LoRA (PEFT), exactly as in the packed loop. Under ``accelerate
    launch`` the processes share each batch: ``optimisation.batch`` rows a step, however many they
    are.

    Args:
        save: where to write the PEFT adapter, or the whole model. Needed where the processes
            shard the model (FSDP), which then holds a part of the result in each.
        objective: penalties that are added to the loss.
        checkpoint: where the trainer keeps its own checkpoints, to go on from the last whole one.

    Returns:
        The loss of every step.

    Raises:
        TrainingError: a loss is not finite.
        ConfigError: ``trainer_kwargs`` holds an option that TRL does not know.
        MissingExtraError: TRL is not installed.
    """
    library = _library()
    weights.train(optimisation.trainable, seed=seed)
    with tempfile.TemporaryDirectory() as passing, borrowed(lm.model):
        scratch = str(checkpoint.folder) if checkpoint else passing
        options = trl_options(lm, optimisation, scratch, seed)
        watch = watcher(optimisation.rate, on_step, checkpoint)
        trainer = _trainer(library, lm, rows, options, watch)
        trainer.penalties = penalties_of(lm, objective)
        trainer.train(resume_from_checkpoint=checkpoint.latest() if checkpoint else None)
        if save is not None:
            trainer.save_model(str(save))
        return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def _library() -> SimpleNamespace:
    """What is used of TRL and its libraries. Raises ``MissingExtraError`` without them."""
    try:
        from datasets import Dataset
        from datasets.utils.logging import disable_progress_bar
        from transformers import PrinterCallback
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer
    except ImportError as error:
        raise MissingExtraError(error.name or "trl", "trl") from error
    disable_progress_bar()
    return SimpleNamespace(
        Dataset=Dataset, PrinterCallback=PrinterCallback, SFTConfig=SFTConfig, SFTTrainer=SFTTrainer
    )


def watcher(rate: float, on_step: Callable[[int], None], checkpoint: Checkpoint | None) -> Any:
    """A callback that stops a training that diverges, tells each step, and asks for checkpoints.

    Args:
        rate: the learning rate, for the message.
    """
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                loss = float(logs["loss"])
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"training diverged at step {state.global_step}: loss {loss}; lower the "
                        f" rate (now {rate:g}) or use precision=fp32"
                    )

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            on_step(state.global_step)
            if checkpoint and checkpoint.due():
                control.should_save = True
                checkpoint.saved()

    return Watch()


def _trainer(
    library: SimpleNamespace,
    lm: LanguageModel,
    rows: Sequence[Row],
    options: dict[str, Any],
    watch: Any,
) -> Any:
    """The trainer of ``rows``. Raises ``ConfigError`` for an option that TRL does not know."""
    tokenizer = lm.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    try:
        config = library.SFTConfig(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"students.optimisation.trainer_kwargs: {error}") from error

    trainer_class: Any = type("Trainer", (WithPenalties, library.SFTTrainer), {})
    trainer = trainer_class(
        model=lm.model,
        args=config,
        train_dataset=library.Dataset.from_list([as_example(lm, row) for row in rows]),
        processing_class=tokenizer,
        callbacks=[watch],
    )
    trainer.remove_callback(library.PrinterCallback)  # it prints every loss to stdout
    return trainer


@contextlib.contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Give a model back as it was: in evaluation mode, without what a trainer hung on it.

    Accelerate marks a model as prepared and puts a ``forward`` of its own on it. A second training
    of the same model would find the mark, leave out autocast, and fail in bf16.
    """
    before = {id(part): set(vars(part)) for part in model.modules()}
    try:
        yield
    finally:
        for part in model.modules():
            for name in LEFT_BEHIND - before.get(id(part), set()):
                vars(part).pop(name, None)
        model.eval()


def trl_options(
    lm: LanguageModel, optimisation: Optimisation, scratch: str, seed: int
) -> dict[str, Any]:
    """SFTConfig's arguments; the user's ``trainer_kwargs`` have the last word.

    Raises:
        ConfigError: the batch cannot be shared evenly among the processes of ``accelerate launch``.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if optimisation.batch % processes:
        raise ConfigError(
            f"optimisation.batch={optimisation.batch} rows cannot be shared by {processes} "
            "processes: make it a multiple"
        )
    options: dict[str, Any] = {
        "output_dir": scratch,
        "max_steps": optimisation.steps,
        "per_device_train_batch_size": optimisation.batch // processes,
        "learning_rate": optimisation.rate,
        "lr_scheduler_type": "linear" if optimisation.decay else "constant_with_warmup",
        "warmup_steps": optimisation.warmup,
        "adam_beta2": optimisation.beta2,
        "weight_decay": 0.0,
        "max_grad_norm": optimisation.clip,
        "completion_only_loss": True,
        "max_length": None,
        "logging_steps": 1,
        "save_strategy": "no",
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": lm.device.type == "cpu",
        "bf16": lm.precision == "bf16",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "seed": seed,
    }
    return options | optimisation.trainer_kwargs


def as_example(lm: LanguageModel, row: Row) -> dict[str, list[int]]:
    """A row as the tokens of the packed loop; the completion, with its end, is what is scored.

    Given text, TRL would add a second beginning-of-text token, or an end-of-text token after the
    end of the turn, where a model's tokenizer has them.
    """
    (example,) = encode_rows(lm, [lm.prompt_ids(row.messages)], [row.completion])
    mask = [0] * len(example.prompt) + [1] * len(example.completion)
    return {"input_ids": [*example.prompt, *example.completion], "completion_mask": mask}
