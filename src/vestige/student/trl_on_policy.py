"""On-policy distillation through TRL's ``DistillationTrainer``: free answers, whole vocabulary.

The student writes one answer to each prompt of a batch, as it is then, and learns from the
generalised Jensen-Shannon divergence to the teacher's probabilities on it. For GPUs and large
models; ``on_policy`` is our own loop, within a grammar.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from vestige.core.settings import OnPolicy, Optimisation
from vestige.core.types import ConfigError, MissingExtraError
from vestige.models.hf import LanguageModel
from vestige.models.weights import Weights
from vestige.student.checkpoint import Checkpoint
from vestige.student.trl import borrowed, trl_options, watcher

#: Of SFT alone.
SFT_OPTIONS = {"completion_only_loss", "max_length"}


def train_on_policy_with_trl(
    lm: LanguageModel,
    weights: Weights,
    teacher: LanguageModel,
    prompts: Sequence[Sequence[int]],
    settings: OnPolicy,
    optimisation: Optimisation,
    *,
    longest: int,
    seed: int,
    on_step: Callable[[int], None] = lambda step: None,
    checkpoint: Checkpoint | None = None,
) -> list[float]:
    """Train ``lm`` from the base on ``teacher``'s probabilities; it holds the result afterwards.

    Args:
        teacher: another model in memory with the same vocabulary, which is not changed.
        prompts: token ids, the trainer's own rendering left out; both models read the same.
        longest: tokens of an answer at most.

    Returns:
        The loss of every step.

    Raises as ``train_with_trl`` does.
    """
    library = _library()
    # The trainer drops what is left of an epoch below a whole batch: there must be one.
    numbers = [*range(len(prompts))] * -(-optimisation.batch // len(prompts))
    weights.train(optimisation.trainable, seed=seed)
    if lm.tokenizer.pad_token_id is None:
        lm.tokenizer.pad_token = lm.tokenizer.eos_token

    with tempfile.TemporaryDirectory() as passing, borrowed(lm.model), borrowed(teacher.model):
        scratch = str(checkpoint.folder) if checkpoint else passing
        own = {"beta": settings.beta, "max_completion_length": longest}
        options = own | trl_options(lm, optimisation, scratch, seed)
        trainer = _on_our_prompts(library, prompts)(
            model=lm.model,
            teacher_model=teacher.model,
            args=_config(library, options),
            train_dataset=library.Dataset.from_list([{"prompt": str(n)} for n in numbers]),
            processing_class=lm.tokenizer,
            callbacks=[watcher(optimisation.rate, on_step, checkpoint)],
        )
        trainer.remove_callback(library.PrinterCallback)  # it prints every loss to stdout
        with lm.autocast():  # drawing answers and the teacher's pass have none of the trainer's
            trainer.train(resume_from_checkpoint=checkpoint.latest() if checkpoint else None)
        return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def _on_our_prompts(library: SimpleNamespace, prompts: Sequence[Sequence[int]]) -> Any:
    """TRL's trainer on prompts' numbers, whose tokens are ours: no template is applied again, no
    token added."""

    class OnOurPrompts(library.Trainer):
        def _tokenize_prompts(self, prompts_asked: list[str]) -> tuple[list[list[int]], None, dict]:
            return [[*prompts[int(number)]] for number in prompts_asked], None, {}

    return OnOurPrompts


def _config(library: SimpleNamespace, options: dict[str, Any]) -> Any:
    """The trainer's settings: answers at temperature 1 over the whole vocabulary. Raises
    ``ConfigError`` for an option that TRL does not know."""
    drawing = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "disable_dropout": False}
    known = {name: value for name, value in options.items() if name not in SFT_OPTIONS}
    try:
        return library.Config(**drawing | known)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"students.optimisation.trainer_kwargs: {error}") from error


def _library() -> SimpleNamespace:
    """What is used of TRL and its libraries. Raises ``MissingExtraError`` without them."""
    try:
        from datasets import Dataset
        from transformers import PrinterCallback
        from trl.trainer.distillation_config import DistillationConfig
        from trl.trainer.distillation_trainer import DistillationTrainer
    except ImportError as error:
        raise MissingExtraError(error.name or "trl", "trl") from error
    return SimpleNamespace(
        Dataset=Dataset,
        PrinterCallback=PrinterCallback,
        Config=DistillationConfig,
        Trainer=DistillationTrainer,
    )
