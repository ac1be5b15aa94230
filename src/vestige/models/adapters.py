"""An adapter that was trained elsewhere: whether it is a plain LoRA, and its tensors.

The settings are an allow list. What changes how an adapter computes must have the value that the
recipe's student has; what only matters while it is trained, or is read off the tensors, may have
any; every other setting must be PEFT's default, and one that PEFT does not know is refused.
"""

from __future__ import annotations

import filecmp
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from vestige.core.settings import Trainable
from vestige.core.types import ConfigError, StoreError
from vestige.models import catalog

ADAPTER, TENSORS = "adapter_config.json", "adapter_model.safetensors"
#: Settings that may have any value: where an adapter is, how it was trained, how it is stored.
#: Which modules it is on is read off its tensors.
FREE = {
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform",
    "lora_dropout", "peft_version", "qalora_group_size", "revision", "runtime_config",
    "target_modules",
}  # fmt: skip
#: First factors that leave the base as it is. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA take their
#: first factors out of the base's weights: an adapter of these belongs to a changed base.
KEEPING = (True, False, "gaussian", "orthogonal", "eva")
#: Parts of a name that say that a model is a quantised copy.
QUANTISED = re.compile(r"[-_.](bnb|[48]bit|int[48]|nf4|fp8|gptq|awq|gguf)\b", re.IGNORECASE)


def read_config(folder: Path) -> dict[str, Any]:
    """An adapter's settings. Raises ``StoreError`` if the file does not hold settings."""
    path = folder / ADAPTER
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    if not isinstance(config, dict):
        raise StoreError(
            f"{path} holds a {type(config).__name__}, not an adapter's settings: save the adapter "
            "again with save_pretrained"
        )
    return config


def check_adapter(
    folder: Path, trainable: Trainable, names: set[str], *, base_given: bool = False
) -> None:
    """Whether an adapter is a plain LoRA of the recipe's rank and scale, on the recipe's base.

    Args:
        names: what the run's base is called.
        base_given: the user has said by what name adapters know the base.

    Raises:
        ConfigError: it is not; names the setting.
        StoreError: its configuration cannot be read.
    """
    path, config = folder / ADAPTER, read_config(folder)
    if not trainable.lora_rank:
        raise ConfigError(f"{folder} is an adapter, and the recipe tunes the weights themselves")
    wanted = {"peft_type": "LORA", "r": trainable.lora_rank, "lora_alpha": trainable.lora_scale}
    for key, value in wanted.items():
        if config.get(key) != value:
            raise _other(path, key, config.get(key), value)
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise _other(path, "task_type", config["task_type"], "CAUSAL_LM")
    start = config.get("init_lora_weights", True)
    if start not in KEEPING:
        raise ConfigError(
            f"{path}: init_lora_weights is {start!r}, which takes the adapter's first factors out "
            "of the base's own weights: it belongs to a changed base and is another student on "
            "the run's; train it with init_lora_weights=true"
        )
    checked = FREE | wanted.keys() | {"task_type", "init_lora_weights"}
    usual = _defaults()
    for key, value in config.items():
        if key in checked or (value or None) == (usual.get(key) or None):
            continue
        if key not in usual:
            raise ConfigError(
                f"{path}: {key} is {value!r}, a setting that the installed PEFT does not know; "
                "install the version that wrote it (peft_version), or train without it"
            )
        raise _other(path, key, value, usual[key])
    _check_base(path, config, names, base_given)


def _defaults() -> dict[str, Any]:
    """What PEFT takes for every setting that is not given."""
    from peft import LoraConfig

    return LoraConfig().to_dict()


def _other(path: Path, key: str, value: Any, wanted: Any) -> ConfigError:
    return ConfigError(f"{path}: {key} is {value!r}, the recipe's student has {wanted!r}")


def _check_base(path: Path, config: dict[str, Any], names: set[str], base_given: bool) -> None:
    """Raises ``ConfigError`` unless the adapter names the run's base."""
    base, own = str(config.get("base_model_name_or_path")), " or ".join(sorted(names))
    if not any(same_model(base, name) for name in names):
        remedy = (
            "a quantised copy has other weights than the model, so train on the model itself"
            if QUANTISED.search(base) and not any(QUANTISED.search(name) for name in names)
            else "if they are the same model, say so with --base"
        )
        raise ConfigError(
            f"{path}: the adapter belongs to {base}, the run's base is {own}; {remedy}"
        )
    if base_given:
        return
    if config.get("revision") not in (None, "main"):
        raise ConfigError(
            f"{path}: revision is {config['revision']!r}: the adapter belongs to that revision of "
            f"{base}; if it is what the run has as {own}, say so with --base {base}"
        )
    for name in names:
        if not same_weights(Path(base), Path(name)):
            raise ConfigError(
                f"{path}: the adapter belongs to {base}, whose files are not those of the run's "
                f"base, {name}; if they are the same model, say so with --base {base}"
            )


def same_model(one: str, other: str) -> bool:
    """Whether two names may be one model's: equal as hub ids; by their last part, where one is a
    folder or a bundled name."""
    parts = 2 if all(map(_is_hub_id, (one, other))) else 1
    return Path(one.lower()).parts[-parts:] == Path(other.lower()).parts[-parts:]


def _is_hub_id(name: str) -> bool:
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not Path(name).exists()


def same_weights(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files of weights; so do those that are not both here."""
    if not (one.is_dir() and other.is_dir()) or one.samefile(other):
        return True
    files = [sorted(p.name for p in folder.glob("*.safetensors")) for folder in (one, other)]
    return files[0] == files[1] and not any(filecmp.cmpfiles(one, other, files[0], False)[1:])


def adapter_tensors(folder: Path) -> dict[str, Tensor]:
    """An adapter's tensors, fp32, under the names that they have in a model.

    Raises:
        StoreError: there are no safetensors, they cannot be read, or they are not an adapter that
            was trained and saved whole; names the tensor.
    """
    path = folder / TENSORS
    if not path.exists():
        raise StoreError(
            f"{folder} has no {path.name}; other formats can run code when loaded and are refused: "
            "save the adapter again with save_pretrained"
        )
    try:
        saved = load_file(str(path))
    except Exception as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    for name, tensor in saved.items():
        _check_tensor(path, name, tensor)
    products: dict[str, list[bool]] = {}
    for name, tensor in saved.items():
        products.setdefault(re.sub(r"\.lora_[AB]\.", ".", name), []).append(bool(tensor.any()))
    if not any(map(all, products.values())):
        raise StoreError(
            f"{path}: one factor of every pair is zero, so the adapter changes nothing: it was "
            "saved before it was trained, or its tensors were not gathered when it was saved"
        )
    return {
        re.sub(r"\.(lora_[AB])\.", r".\1.default.", name): tensor.float()
        for name, tensor in saved.items()
    }


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    if "_orig_mod." in name:
        raise StoreError(
            f"{path}: {name} was saved from a compiled model, and PEFT finds no place for it: save "
            "the model inside (model._orig_mod.save_pretrained)"
        )
    if tensor.numel() == 0 or (".lora_" in name and tensor.ndim != 2):
        raise StoreError(
            f"{path}: {name} has the shape {tuple(tensor.shape)}, it was not gathered when it was "
            "saved: gather the parameters first (DeepSpeed ZeRO-3: "
            "stage3_gather_16bit_weights_on_model_save; FSDP: FULL_STATE_DICT)"
        )
    if not torch.isfinite(tensor).all():
        raise StoreError(f"{path}: {name} holds NaN or infinity: the training diverged")


def base_names(name: str, given: str) -> set[str]:
    """What an adapter may call the run's base."""
    return {given} if given else {name, catalog.path(name)}
