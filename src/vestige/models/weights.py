"""Which of a model's weights are trained, what changed, and the way back to the base.

Frozen matrices are kept in the precision that the model computes in, so that no forward pass
converts them again; the base's fp32 values stay at hand in main memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from vestige.core.settings import Trainable
from vestige.core.types import ConfigError, StoreError
from vestige.models.frozen import Below
from vestige.models.hf import LanguageModel

#: Added to the seed for LoRA factors of another start; larger than seeds that people use. Students
#: rest on it.
OTHER_START = 1_000_003


class Weights:
    """The trainable state of one loaded model. One object for each ``LanguageModel``.

    Attributes:
        linear: what the decoder layers' linear maps are called, such as ``q_proj``.
        untouched: whether the model is the base as it was loaded.
    """

    def __init__(self, lm: LanguageModel, tuned: Sequence[Trainable] | None = None) -> None:
        """Args: tuned: all that will ever be trained, to keep nothing else in fp32; None = any."""
        self.lm = lm
        self._bare = lm.model
        self._compact = lm.precision == "bf16" and lm.device.type == "cpu"
        self._layers = lm.layers
        #: What autocast converts anyway: a table or a decay in bf16 would be another number.
        self._matrices = {id(part.weight) for part in self._layers.modules() if is_linear(part)}
        every = range(len(self._layers))
        named = [Trainable()] if tuned is None else tuned
        ranges = {trainable: trainable.layer_range(len(every)) for trainable in named}
        self._exact = {i for trainable, r in ranges.items() if not trainable.lora_rank for i in r}
        first = min((r.start for r in ranges.values()), default=len(every))
        # Where upper layers read more of the lower ones than states, these cannot be skipped.
        lm.below = Below(lm.layers, first if lm.verified.reuse else 0)
        self.linear = linear_names(lm)
        self._base = {n: self._original(n, p) for n, p in self._layers.named_parameters()}
        self._lora = False
        self._shifted: set[str] = set()  # what ``shift`` moved last, and nothing else did since
        self.freeze()

    def _original(self, name: str, parameter: nn.Parameter) -> Tensor:
        exact = layer_of(name) in self._exact
        compact = self._compact and id(parameter) in self._matrices and not exact
        dtype = torch.bfloat16 if compact else None
        return parameter.detach().to(dtype=dtype, copy=True)

    def freeze(self) -> None:
        """Back to the base, with nothing trainable."""
        self._shifted = set()
        self.untouched = True
        if self._lora:
            self.lm.model.unload()  # type: ignore[operator]
            self.lm.model, self._lora = self._bare, False
        with torch.no_grad():
            for name, parameter in self._layers.named_parameters():
                compact = self._compact and id(parameter) in self._matrices
                dtype = torch.bfloat16 if compact else self._base[name].dtype
                parameter.data = self._base[name].to(dtype)  # a fresh tensor or the base's own
        for parameter in self.lm.model.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None

    def train(self, trainable: Trainable, *, seed: int) -> list[nn.Parameter]:
        """Start from the base with ``what`` trainable; ``seed`` draws LoRA's first factors."""
        self.freeze()
        chosen = trainable.layer_range(len(self._layers))
        exact = (
            chosen.start >= self.lm.below.first
            if trainable.lora_rank
            else set(chosen) <= self._exact
        )
        if not exact:
            raise ConfigError(f"layers {chosen} were not kept exact: name them when loading")
        self.untouched = False
        if trainable.lora_rank:
            return self._attach_lora(trainable, seed)
        parameters = []
        for name, parameter in self._layers.named_parameters():
            if layer_of(name) in chosen:
                parameter.data = self._base[name].clone()
                parameters.append(parameter.requires_grad_(True))
        return parameters

    def _attach_lora(self, trainable: Trainable, seed: int) -> list[nn.Parameter]:
        from peft import get_peft_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + OTHER_START * (trainable.lora_start == "other"))
            wrapped = get_peft_model(self._bare, lora_config(self.lm, trainable))  # type: ignore[arg-type]
        self.lm.model, self._lora = wrapped.eval(), True
        return [p for p in wrapped.parameters() if p.requires_grad]

    def changed(self) -> dict[str, Tensor]:
        """The trained tensors by name, in fp32 on the CPU: all that differs from the base."""
        return {
            name: parameter.detach().float().cpu().contiguous()
            for name, parameter in self.lm.model.named_parameters()
            if parameter.requires_grad
        }

    def deltas(self) -> dict[str, Tensor]:
        """Tuned minus base, fp32, by the layers' own parameter names; not for LoRA."""
        return {
            name: parameter.detach().float() - self._base[name].float()
            for name, parameter in self._layers.named_parameters()
            if parameter.requires_grad
        }

    def shift(self, deltas: Mapping[str, Tensor]) -> None:
        """The base plus ``deltas``, with nothing trainable."""
        if not self._shifted or self._shifted != deltas.keys():
            self.freeze()
        parameters = dict(self._layers.named_parameters())
        with torch.no_grad():
            for name, delta in deltas.items():
                parameter = parameters[name]
                moved = self._base[name].float() + delta.to(parameter.device)
                parameter.data = moved.to(parameter.dtype)
        self._shifted, self.untouched = set(deltas), not deltas

    def save(self, path: Path) -> None:
        """Write ``changed()`` as safetensors."""
        save_file(self.changed(), str(path))

    def export(self, folder: Path) -> None:
        """Write the model as it stands for other engines: its folder with the tokenizer, or a PEFT
        adapter alone where LoRA is attached."""
        self.lm.model.save_pretrained(folder)  # type: ignore[operator]
        self.lm.tokenizer.save_pretrained(folder)

    def load(self, path: Path, trainable: Trainable) -> None:
        """The base with the tensors of ``path`` in place; nothing is trainable afterwards.

        Raises:
            StoreError: the file is unreadable or belongs to another model or ``what``.
        """
        parameters = dict(self._named(trainable))
        try:
            tensors: dict[str, Any] = load_file(str(path))
        except Exception as error:
            raise StoreError(
                f"cannot read weights from {path}: {error}; delete its stage folder"
            ) from error
        # Shapes as well: LoRA of another rank, or a model of another width, has the same names.
        if shapes(tensors) != shapes(parameters):
            self.freeze()
            raise StoreError(f"{path} holds other tensors than {trainable} trains in this model")
        with torch.no_grad():
            for name, parameter in parameters.items():
                compact = self._compact and id(parameter) in self._matrices
                parameter.data = tensors[name].to(
                    self.lm.device, torch.bfloat16 if compact else torch.float32
                )
                parameter.requires_grad_(False)

    def _named(self, trainable: Trainable) -> list[tuple[str, nn.Parameter]]:
        self.train(trainable, seed=0)
        return [(n, p) for n, p in self.lm.model.named_parameters() if p.requires_grad]


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """The shape of each tensor."""
    return {name: tensor.shape for name, tensor in tensors.items()}


def layer_of(name: str) -> int:
    """The decoder layer that a parameter such as ``3.mlp.up_proj.weight`` belongs to."""
    return int(name.split(".", 1)[0])


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear map, as GPT-2's ``Conv1D`` is too."""
    return isinstance(module, (nn.Linear, Conv1D))


def linear_names(lm: LanguageModel) -> list[str]:
    """What the linear maps of the decoder layers are called, such as ``q_proj``."""
    linear = [n for n, module in lm.layers.named_modules() if is_linear(module)]
    return sorted({name.rpartition(".")[2] for name in linear})


def lora_config(lm: LanguageModel, trainable: Trainable) -> Any:
    """PEFT's configuration for ``what``: every linear map of the chosen decoder layers, by name."""
    from peft import LoraConfig

    chosen = {id(lm.layers[i]) for i in trainable.layer_range(len(lm.layers))}
    target_modules = [
        f"{path}.{name}"
        for path, block in lm.causal_lm.named_modules()
        if id(block) in chosen
        for name, module in block.named_modules()
        if is_linear(module)
    ]
    if not target_modules:
        raise ConfigError("this model's layers have no linear maps for LoRA: use lora_rank=0")
    return LoraConfig(
        r=trainable.lora_rank,
        lora_alpha=trainable.lora_scale,
        target_modules=target_modules,
        task_type="CAUSAL_LM",
    )
