"""A whole model that was trained elsewhere: whether it is the base, changed where it was trained.

Its settings must be the base's in everything that transformers reads, and so must the tensors
outside the trained layers, up to the rounding of the 16-bit format that they were saved in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from vestige.core.settings import Trainable
from vestige.core.types import ConfigError, DataError, StoreError
from vestige.models.hf import LanguageModel
from vestige.models.weights import layer_of

#: Settings that say how a model is stored, run, or asked for text, and nothing about its logits.
UNRELATED = {
    "_name_or_path", "architectures", "bos_token_id", "chunk_size_feed_forward", "dtype",
    "eos_token_id", "id2label", "label2id", "output_attentions", "output_hidden_states",
    "pad_token_id", "problem_type", "return_dict", "sep_token_id", "torch_dtype",
    "transformers_version", "use_cache",
}  # fmt: skip
WHY = {
    "vocab_size": "; its vocabulary was resized",
    "tie_word_embeddings": "; its output layer is no longer its embeddings",
}


def check_config(folder: Path, config: Any, base: Any) -> None:
    """Whether a model computes as the base does, but for its weights.

    Raises:
        ConfigError: it does not; names the setting.
    """
    if type(config) is not type(base):
        raise ConfigError(
            f"{folder} is another model: model_type is {config.model_type!r}, the base's is "
            f"{base.model_type!r}"
        )
    # What the class does not declare (a trainer's own notes) is not read by its model.
    declared = type(base)().to_dict().keys() | {"quantization_config"}
    own, wanted = (
        _flat({k: v for k, v in c.to_dict().items() if k in declared}) for c in (config, base)
    )
    for key in sorted(own.keys() | wanted.keys()):
        field = key.split(".")[0]
        if field not in UNRELATED and own.get(key) != wanted.get(key):
            raise ConfigError(
                f"{folder / 'config.json'}: {key} is {own.get(key)!r}, the base has "
                f"{wanted.get(key)!r}{WHY.get(field, '')}: students must compute as their base does"
            )


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings with the names of those inside them: ``rope_parameters.rope_theta``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def names_in_layers(lm: LanguageModel, trainable: Trainable) -> set[str]:
    """What the parameters of the trained layers are called in the whole model."""
    path = next(path for path, module in lm.causal_lm.named_modules() if module is lm.layers)
    chosen = trainable.layer_range(len(lm.layers))
    return {f"{path}.{n}" for n, _ in lm.layers.named_parameters() if layer_of(n) in chosen}


def trained_tensors(folder: Path, model: Any, base: Any, inside: set[str]) -> dict[str, Tensor]:
    """The tensors of the trained layers. Those that the base keeps are set to its own in
    ``model``, where they were rounded to be saved.

    Args:
        inside: names of the parameters that were trained.

    Raises:
        ConfigError: more was trained than the recipe says.
        DataError: it has other parameters than the base, or is the base.
    """
    own, trained = dict(base.named_parameters()), dict(model.named_parameters())
    if {n: p.shape for n, p in own.items()} != {n: p.shape for n, p in trained.items()}:
        raise DataError(f"{folder} has other parameters than the run's base: is it another model?")
    tensors, moved = {}, False
    for name, parameter in trained.items():
        same = _same(parameter, own[name])
        if name in inside:
            tensors[name] = parameter.detach().float().contiguous()
            moved |= not same
        elif same:
            parameter.data = own[name].detach().clone()
        else:
            raise ConfigError(
                f"{folder}: {name} differs from the base, and the recipe's students keep it: "
                "freeze what they do not train (Axolotl: unfrozen_parameters)"
            )
    if not moved:
        raise DataError(f"{folder} is the base itself: no weight of the trained layers differs")
    return tensors


def _same(tensor: Tensor, base: Tensor) -> bool:
    """Whether a tensor is the base's, or the base's rounded to a 16-bit format."""
    return any(
        torch.equal(tensor, base.to(dtype).float())
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    )


def check_tokenizer(path: Path, own: Any, texts: Sequence[str]) -> None:
    """Whether a student that came with a tokenizer was trained on the base's tokens.

    Tokens may have been added, such as one for padding, as long as text is encoded as before.

    Args:
        own: the base's tokenizer.
        texts: what both must encode alike.

    Raises:
        ConfigError: it was not; names a token or a text.
        StoreError: the file cannot be read.
    """
    if not path.exists():
        return
    try:
        theirs = Tokenizer.from_file(str(path))
    except Exception as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    theirs.no_truncation()
    theirs.no_padding()
    vocabulary, own_vocabulary = theirs.get_vocab(), own.get_vocab()
    added = {token.content for token in theirs.get_added_tokens_decoder().values()}
    changed = {token for token, _ in vocabulary.items() ^ own_vocabulary.items()}
    if other := sorted(changed - (added - own_vocabulary.keys())):
        token = other[0]
        theirs_id, own_id = vocabulary.get(token), own_vocabulary.get(token)
        raise ConfigError(
            f"{path} is another tokenizer than the base's: {token!r} is {theirs_id} there "
            f"and {own_id} here, so the student was trained on other tokens"
        )
    for text in texts:
        if theirs.encode(text, add_special_tokens=False).ids != list(
            own(text, add_special_tokens=False)["input_ids"]
        ):
            raise ConfigError(
                f"{path} has the base's tokens and encodes text in another way, so the student was "
                f"trained on other tokens; for instance {text[:80]!r}"
            )
