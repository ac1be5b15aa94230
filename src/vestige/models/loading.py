"""Loading a model as it was saved, or refusing it.

Only safetensors are read, no code of the model's folder is run, and no adapter that lies in the
folder is added. A tensor that is missing, left over, of another shape, not a floating point number
or not finite would be drawn at random or computed with without a word: it is an error here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from vestige.core.types import ModelError

#: What wrappers put before the names of the tensors that they save.
WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "module.": "DataParallel",
    "_fsdp_wrapped_module.": "FSDP",
    "base_model.model.": "PEFT",
}
ADAPTER = ("adapter_model.safetensors", "adapter_model.bin", "adapter_config.json")
SHOWN = 3  # names of tensors in an error
LONGEST = 240  # characters of a library's own reason
#: A folder that is not there: an adapter is looked for in it, and not beside the weights.
NO_ADAPTER = {"subfolder": "no-adapter"}
WHOLE = "give a folder that save_pretrained wrote"


def quiet_transformers() -> None:
    """No bars and advice of transformers between a command's own lines; errors are shown."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def load_tokenizer(folder: str) -> Any:
    """The tokenizer of a folder or hub id. Raises ``ModelError`` with the library's own reason."""
    return _explained(
        f"the tokenizer of {folder}", AutoTokenizer.from_pretrained, folder, trust_remote_code=False
    )


def load_weights(folder: str) -> tuple[nn.Module, list[str]]:
    """A causal language model in fp32 on the CPU, and what is to be said about its folder.

    Raises:
        ModelError: it cannot be loaded, or not every tensor is the folder's own; names them.
    """
    config = _read_config(folder)
    if config is not None:
        _check_code(folder, config)
        _check_types(folder, config)
    model, report = _explained(
        f"a language model from {folder}",
        AutoModelForCausalLM.from_pretrained,
        folder,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused by name below
        adapter_kwargs=dict(NO_ADAPTER),
    )
    check_report(folder, report, [name for name, _ in model.named_parameters()])
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError(f"{folder} holds an adapter that was added to the model; remove it there")
    broken = [name for name, part in model.named_parameters() if not _finite(part)]
    if broken:
        raise ModelError(
            f"{folder}: {_names(broken)} {'hold' if len(broken) > 1 else 'holds'} NaN or infinity; "
            "the training that wrote it diverged, or the file is damaged"
        )
    return model, _notes(folder)


def _finite(part: Tensor) -> bool:
    """Whether every number is one: a finite sum, which is quick, has finite terms only."""
    return bool(part.detach().sum().isfinite()) or bool(part.isfinite().all())


def check_report(folder: str, report: dict[str, Any], names: Sequence[str] = ()) -> None:
    """Raises ``ModelError`` unless the loader's report says that every tensor was in its place.

    Args:
        names: all of the model's tensors.
    """
    missing, unexpected = (sorted(report[key]) for key in ("missing_keys", "unexpected_keys"))
    mismatched = sorted(report["mismatched_keys"])
    faults = []
    if missing:
        faults.append(f"{_count(missing)} missing ({_names(missing)})")
    if unexpected:
        faults.append(f"{_count(unexpected)} of no use in it ({_names(unexpected)})")
    for name, saved, wanted in mismatched[:SHOWN]:
        faults.append(f"{name} is {tuple(saved)} and should be {tuple(wanted)}")
    faults += [str(text) for text in report.get("error_msgs", ())][:1]
    if faults:
        cause = _cause(missing, unexpected, bool(mismatched), names)
        raise ModelError(
            f"{folder} does not load as it was saved: {'; '.join(faults)}. {cause}. Missing "
            "tensors would be drawn at random"
        )


def _cause(
    missing: Sequence[str], unexpected: Sequence[str], mismatched: bool, names: Sequence[str]
) -> str:
    """What is likely to have happened, and what mends it."""
    for prefix, wrapper in WRAPPERS.items():
        if any(prefix in name for name in unexpected):
            return (
                f"Its names hold {prefix!r}: it was saved from inside {wrapper}; save the model "
                "that is wrapped, or take the prefix from the names"
            )
    if missing and not unexpected:
        layers = {_layer(name) for name in names} - {None}
        gone = {_layer(name) for name in missing}
        # Whole layers at the end: the configuration has more of them than were saved.
        if None not in gone and all(name in missing for name in names if _layer(name) in gone):
            return (
                f"config.json has {len(layers)} layers and the file {len(layers) - len(gone)}: set "
                f"num_hidden_layers as it was saved, or {WHOLE}"
            )
        return f"A shard was left out, or the weights were saved in part: {WHOLE}"
    if unexpected and not missing and not mismatched:
        return "config.json may be of a smaller model, or of another class than the weights"
    return f"config.json and the weights are of different models: {WHOLE}"


def _layer(name: str) -> int | None:
    """The number in a tensor's name, which is that of its layer."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _explained(wanted: str, load: Any, *args: Any, **options: Any) -> Any:
    """``load``'s result; whatever it raises becomes a ``ModelError`` with its reason."""
    try:
        return load(*args, **options)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        cut = reason if len(reason) <= LONGEST else f"{reason[:LONGEST]} ..."
        raise ModelError(
            f"cannot load {wanted}: {cut}; give a bundled name (vestige models list), a folder "
            "with config.json, tokenizer files and *.safetensors, or a hub id"
        ) from error


def _read_config(folder: str) -> dict[str, Any] | None:
    """The settings in a folder's ``config.json``; None where there is none, as for a hub id."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds a {type(config).__name__} where settings are expected")
    return config


def _check_code(folder: str, config: dict[str, Any]) -> None:
    """Raises ``ModelError`` where transformers could only go on by running the folder's code."""
    kind = config.get("model_type")
    if config.get("auto_map") and not _known(kind):
        raise ModelError(
            f"{folder} is a {kind!r} model that needs code from its own folder, and code of models "
            "is never run: save it as an architecture that transformers has, or use a version of "
            "transformers that has this one"
        )


def _known(kind: Any) -> bool:
    from transformers import CONFIG_MAPPING

    return isinstance(kind, str) and kind in CONFIG_MAPPING


def _check_types(folder: str, config: dict[str, Any]) -> None:
    """Raises ``ModelError`` for integers where weights are expected: quantised weights without
    their scales would be taken for numbers."""
    files = sorted(Path(folder).glob("model*.safetensors"))
    if config.get("quantization_config"):
        return  # its own loader knows what they are, or says what it lacks
    for file in files:
        with safe_open(str(file), framework="pt") as tensors:
            names = [
                name
                for name in tensors.keys()  # noqa: SIM118
                if name.endswith("weight") and not _floating(tensors.get_slice(name).get_dtype())
            ]
        if names:
            raise ModelError(
                f"{file}: {_names(names)} {'are' if len(names) > 1 else 'is'} quantised and "
                "config.json has no quantization_config to read them by; give the model in 16 or "
                "32 bits"
            )


def _floating(dtype: str) -> bool:
    return dtype in ("F64", "F32", "F16", "BF16")


def _notes(folder: str) -> list[str]:
    present = [name for name in ADAPTER if (Path(folder) / name).exists()]
    if not present:
        return []
    return [
        f"{folder} holds a whole model and an adapter ({', '.join(present)}): the model's own "
        "weights are used, and the adapter is not added"
    ]


def config_of(folder: str) -> Any:
    """The configuration of a folder or hub id. Raises ``ModelError``."""
    return _explained(
        f"the configuration of {folder}",
        AutoConfig.from_pretrained,
        folder,
        trust_remote_code=False,
    )


def _names(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _count(names: Sequence[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"
