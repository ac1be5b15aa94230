"""Training that does not move along given directions: their part of the gradient is taken out.

For a parameter's gradient g and its directions d_1 ... d_k, made orthonormal to q_1 ... q_r,
g <- g - strength * sum over i of (q_i . g) q_i. With strength 1 nothing of g is left along them.
AdamW scales each entry of g by itself afterwards, so that the step itself may keep a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vestige.core.types import ConfigError
from vestige.models.hf import LanguageModel
from vestige.student.objectives import Term

#: Directions whose rest, once the ones before are taken out, is shorter than this share of the
#: longest are taken for repeated. Chosen for fp32.
SMALLEST = 1e-6


def read_directions(term: Term) -> dict[str, Tensor]:
    """Directions by the name of their parameter: [k, *shape].

    Raises:
        ConfigError: there is no file of them, or it cannot be read.
    """
    if not term.file:
        raise ConfigError("project_out needs directions: a safetensors file in its setting 'file'")
    try:
        return load_file(term.file)
    except Exception as error:
        raise ConfigError(f"project_out: cannot read {term.file}: {error}") from error


def orthonormal(directions: Tensor) -> Tensor:
    """An orthonormal basis of the rows' span, fp32: [k, n] -> [r, n] with r <= k."""
    _, values, basis = torch.linalg.svd(directions.double(), full_matrices=False)
    return basis[values > SMALLEST * values.max()].float()


def make(lm: LanguageModel, term: Term) -> Callable[[Mapping[str, nn.Parameter]], None]:
    """The hook, which changes the gradients of the parameters that have directions."""
    directions = {
        name: orthonormal(tensor.flatten(1)) for name, tensor in read_directions(term).items()
    }

    def hook(parameters: Mapping[str, nn.Parameter]) -> None:
        for name, basis in directions.items():
            gradient = gradient_of(name, parameters, basis.shape[1])
            basis = basis.to(gradient.device, gradient.dtype)
            flat = gradient.flatten()
            along = basis.T @ (basis @ flat)
            gradient.sub_(term.strength * along.view_as(gradient))

    return hook


def gradient_of(name: str, parameters: Mapping[str, nn.Parameter], size: int) -> Tensor:
    """The gradient of a parameter of ``size`` entries.

    Raises:
        ConfigError: there is no such parameter in training.
    """
    parameter = parameters.get(name)
    if parameter is None or parameter.grad is None or parameter.numel() != size:
        raise ConfigError(
            f"project_out: {name} with {size} entries is no trained parameter; trained are "
            f"{', '.join(list(parameters)[:3])} ..."
        )
    return parameter.grad
