"""Two models at hand: what of them is compared."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from vestige.core.types import ModelError
from vestige.lineage.decision import Evidence
from vestige.lineage.unit_matching import Array, UnitMatch, match_units, rows_log_p
from vestige.models import catalog
from vestige.models.loading import load_weights
from vestige.models.passes import decoder_layers

TOKENS = 4096  # of the vocabulary, evenly spread, whose embeddings are compared; chosen
LAYERS = 8  # layers that are compared, evenly spread; chosen
#: Settings that make two architectures one; others do not change which weights there are.
SHAPE = (
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "n_embd", "n_layer", "n_head", "n_inner",
)  # fmt: skip
DEPTH = {"num_hidden_layers", "n_layer"}


def load(name: str) -> Any:
    """A model's weights, fp32 on the CPU. Raises ``ModelError``, ``ConfigError``."""
    return load_weights(catalog.path(name))[0].eval()


def compare(one: Any, other: Any, layers: int = LAYERS) -> Evidence:
    """What two loaded models' weights say.

    Args:
        layers: how many of the models' layers are compared, evenly spread; 0: all.

    Raises:
        ModelError: a model has no list of decoder layers.
    """
    differences = shape_differences(one.config, other.config)
    only_depth = bool(differences) and all(d.split(" ")[0] in DEPTH for d in differences)
    tokens = match_tokens(_embeddings(one), _embeddings(other))
    if differences and not only_depth:
        return Evidence(differences, only_depth, [], tokens)
    mine, theirs = _layers(one), _layers(other)
    if only_depth:
        found, compared = _best_layers(mine, theirs, layers)
    else:
        pairs = [(mine[i], theirs[i]) for i in spread(len(mine), layers)]
        found, compared = [m for a, b in pairs if (m := match_layers(a, b))], 1
    return Evidence(
        differences, only_depth, found, tokens, identical=_identical(one, other), compared=compared
    )


def match_tokens(one: Tensor, other: Tensor) -> tuple[float, float] | None:
    """How alike the embeddings of the same tokens are, as ``rows_log_p``; tokens that only one
    model has were added to it. None where embeddings have another width."""
    count = min(len(one), len(other))
    if one.shape[1] != other.shape[1]:
        return None
    chosen = torch.tensor(spread(count, TOKENS))
    return rows_log_p(_array(one[chosen]), _array(other[chosen]))


def shape_differences(one: Any, other: Any) -> list[str]:
    """Settings of shape in which two configurations differ, in words."""
    own, others = (c.get_text_config(decoder=True).to_dict() for c in (one, other))
    return [
        f"{key} is {own.get(key)!r} and {others.get(key)!r}"
        for key in SHAPE
        if own.get(key) != others.get(key)
    ]


def match_layers(one: nn.Module, other: nn.Module) -> UnitMatch | None:
    """The MLP units of two layers; None where a layer has no two matrices of them."""
    mine, theirs = unit_vectors(one), unit_vectors(other)
    return match_units(mine, theirs) if mine and theirs else None


def unit_vectors(layer: nn.Module) -> tuple[Array, Array] | None:
    """The vectors of a layer's MLP units in the first and in the last matrix of them, [units,
    width] each: the hidden side is the longest dimension that two matrices share."""
    linear = [part for part in layer.modules() if isinstance(part, (nn.Linear, Conv1D))]
    matrices = [m for m in map(_rows_out, linear) if m.shape[0] != m.shape[1]]
    sizes = Counter(size for matrix in matrices for size in matrix.shape)
    if not (shared := [size for size, count in sizes.items() if count > 1]):
        return None
    units = max(shared)
    first, second = [m if m.shape[0] == units else m.T for m in matrices if units in m.shape][:2]
    return _array(first), _array(second)


def _rows_out(part: nn.Module) -> Tensor:
    weight: Any = part.weight
    return weight.detach().T if isinstance(part, Conv1D) else weight.detach()


def _best_layers(
    mine: nn.ModuleList, theirs: nn.ModuleList, layers: int
) -> tuple[list[UnitMatch], int]:
    """Of models of other depths: the best partner of each of some layers, and among how many
    combinations it was looked for."""
    found = []
    chosen = spread(min(len(mine), len(theirs)), layers)
    shorter, longer = sorted((mine, theirs), key=len)
    for i in chosen:
        every = [m for part in longer if (m := match_layers(shorter[i], part))]
        if every:
            found.append(min(every, key=lambda match: match.log_p))
    return found, len(longer) ** max(1, len(found))


def spread(count: int, wanted: int) -> list[int]:
    """``wanted`` of ``count`` places, evenly spread, or all."""
    if not wanted or wanted >= count:
        return list(range(count))
    return sorted({round(place) for place in np.linspace(0, count - 1, wanted)})


def _layers(model: Any) -> nn.ModuleList:
    layers = decoder_layers(model)
    if layers is None:
        raise ModelError(f"{type(model).__name__} has no list of decoder layers to compare")
    return layers


def _embeddings(model: Any) -> Tensor:
    return model.get_input_embeddings().weight.detach()


def _array(tensor: Tensor) -> Array:
    return tensor.float().cpu().numpy().astype(np.float64)


def _identical(one: Any, other: Any) -> bool:
    own, others = dict(one.named_parameters()), dict(other.named_parameters())
    return own.keys() == others.keys() and all(torch.equal(own[n], others[n]) for n in own)
