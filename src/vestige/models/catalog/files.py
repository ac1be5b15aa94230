"""Whether the files of a pulled model, or of a folder of the user's, are whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from vestige.core.types import ModelError
from vestige.models.catalog.entries import SOURCE_FILE, entry, folder_of


def verify(name: str, *, full: bool = False) -> None:
    """Check a pulled model: sizes and the weights' header; ``full``: the sha256 of every file.

    Raises:
        ModelError: it is not pulled, or a file is damaged; names the file and the command.
    """
    model, folder = entry(name), folder_of(name)
    fix = f"run: vestige models pull {name} --force" + (" --accept-terms" if model.terms else "")
    if not folder.exists():
        raise ModelError(f"{name} is not pulled; run: vestige models pull {name}")
    source_file = folder / SOURCE_FILE
    try:
        source = json.loads(source_file.read_text(encoding="utf-8"))
        files = {file: (int(f["bytes"]), str(f["sha256"])) for file, f in source["files"].items()}
        pinned = source["gguf"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{source_file} is missing or damaged ({error!r}); {fix}") from error
    if pinned != model.gguf_sha256:
        raise ModelError(f"{source_file}: made from other weights than this version's; {fix}")
    for name_of_file, (size, pinned_sum) in files.items():
        file = folder / name_of_file
        if not file.is_file():
            raise ModelError(f"{file} is missing; {fix}")
        if file.stat().st_size != size:
            raise ModelError(f"{file} has {file.stat().st_size} bytes, not {size}; {fix}")
        if file.suffix == ".safetensors":
            _check_header(file, fix)
        if full and sha256(file) != pinned_sum:
            raise ModelError(f"{file} is damaged (its sha256 differs); {fix}")


def check_local(folder: Path) -> None:
    """Raises ``ModelError`` unless ``folder`` holds a model whose weights are safetensors."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is a file; give the folder that holds config.json")
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        hint = "it holds an adapter: name its base model" if adapter else "is it a model's folder?"
        raise ModelError(f"{folder} has no config.json; {hint}")
    if not weights:
        pickles = [p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern)]
        hint = (
            f"{', '.join(sorted(pickles))} can run code when loaded and is refused: save the "
            "weights again with save_pretrained"
            if pickles
            else "it must hold the weights as *.safetensors"
        )
        raise ModelError(f"{folder} has no *.safetensors; {hint}")
    for file in weights:
        _check_header(file, "copy or save the model again")


def _check_header(file: Path, fix: str) -> None:
    """A safetensors file: 8 bytes of header length, JSON header, then exactly the data it names."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            size = file.stat().st_size
            if length > size - 8:
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
        ends = [t["data_offsets"][1] for key, t in header.items() if key != "__metadata__"]
        if 8 + length + max(ends, default=0) != size:
            raise ValueError("it is cut short, or too long")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(f"{file} is not a whole safetensors file ({error}); {fix}") from error


def sha256(file: Path) -> str:
    """The sum of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
