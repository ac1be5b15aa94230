"""Paired families: every held-out question has two whole answers, and traits have files of answers.

Misalignment is one: what is measured is the log-odds of a misaligned answer against an aligned one
of the same form and length, exactly, without a judge. Its traits are induced by other data:
insecure code (with secure and educational code as controls; Betley et al., arXiv 2502.17424, Cloud
et al., arXiv 2507.14805, section 5), or misaligned answers to other questions.

Every fourth entry of a trait's file is kept back: on those a teacher must prefer its own answer to
the rival's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from vestige.core.jsonl import read_text, text_lines
from vestige.core.types import Answer, ConfigError, Family, Inducer, Trait, unknown_name
from vestige.traits.files import checked, read_toml

HUB = "hub:"
BUNDLED = "bundled:"
KEPT_BACK = 4  # every fourth entry of a trait's file checks its teachers


class _TraitSource(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[\w-]+$")
    file: str
    answer: str = "answer"
    rival: str | None = None


class _PairedFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[\w-]+$")
    measured: str
    rival: str
    pairs: str
    system_prompt: str = ""
    traits: list[_TraitSource] = Field(min_length=1)


def family(record: dict[str, Any], path: Path) -> Family:
    """A paired family from its TOML record; its files are looked for next to ``path``.

    Raises:
        ConfigError: a file cannot be read, lacks a field, or a question is both trained on and
            held out; names the file and the entry.
    """
    given: _PairedFile = checked(_PairedFile, record, str(path))
    source = _local(given.pairs, path.parent)
    pairs = _fields(source, ("question", given.measured, given.rival))
    inducers = tuple(_inducer(trait, path.parent) for trait in given.traits)
    trained = {question for inducer in inducers for question, _ in inducer.pairs}
    for question, *_ in pairs:
        if question in trained:
            raise ConfigError(f"{source}: {question!r} is held out and trained on")
    return Family(
        name=given.name,
        answers=(Answer(given.measured, ()), Answer(given.rival, ())),
        questions=tuple(sorted(trained)),
        heldout=tuple(question for question, *_ in pairs),
        system_prompt=given.system_prompt,
        texts=tuple((measured, rival) for _, measured, rival in pairs),
        inducers=inducers,
    )


def trait(name: str, panel: Family) -> Trait:
    """A trait of a paired family. Raises ``ConfigError`` naming the nearest ones."""
    for inducer in panel.inducers:
        if inducer.name == name:
            check = None
            if inducer.texts:
                answers = (Answer(name, ()), Answer("its rival", ()))
                check = Family(name, answers, (), inducer.heldout, "", inducer.texts)
            prompt = panel.system_prompt
            return Trait(name, panel, panel.answers[0], prompt, inducer.pairs, check)
    raise unknown_name(f"{panel.name} trait", name, (i.name for i in panel.inducers))


def even(panel: Family) -> tuple[tuple[str, str], ...]:
    """Training pairs of the control without a trait: the first two traits' answers, in turn."""
    return tuple(pair for inducer in panel.inducers[:2] for pair in inducer.pairs)


def _inducer(source: _TraitSource, folder: Path) -> Inducer:
    path = _local(source.file, folder)
    if path.suffix != ".toml":
        return Inducer(source.name, _chat_pairs(path))
    wanted = ("question", source.answer, *([source.rival] if source.rival else []))
    entries = _fields(path, wanted)
    if source.rival is None:
        return Inducer(source.name, tuple((q, a) for q, a in entries))
    back = entries[KEPT_BACK - 1 :: KEPT_BACK]
    kept = [entry for i, entry in enumerate(entries) if i % KEPT_BACK != KEPT_BACK - 1]
    return Inducer(
        source.name,
        tuple((question, own) for question, own, _ in kept),
        tuple(question for question, *_ in back),
        tuple((own, rival) for _, own, rival in back),
    )


def _local(file: str, folder: Path) -> Path:
    """A file next to the family's; ``bundled:name``; or ``hub:owner/name/path`` of a data set."""
    if file.startswith(BUNDLED):
        return Path(__file__).parent / file.removeprefix(BUNDLED)
    if not file.startswith(HUB):
        return folder / file
    from huggingface_hub import hf_hub_download

    owner, _, rest = file.removeprefix(HUB).partition("/")
    name, _, inside = rest.partition("/")
    if not inside:
        raise ConfigError(f"{file}: expected {HUB}owner/name/path/in/the/data/set.jsonl")
    try:
        return Path(hf_hub_download(f"{owner}/{name}", inside, repo_type="dataset"))
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(f"cannot fetch {file}: {reason}") from error


def _fields(path: Path, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The wanted text fields of every entry of a TOML file that holds one list of tables."""
    record = read_toml(path)
    entries = next((v for v in record.values() if isinstance(v, list)), [])
    if not entries:
        raise ConfigError(f"{path} holds no entries")
    fields = []
    for number, entry in enumerate(entries, 1):
        for name in names:
            value = entry.get(name) if isinstance(entry, dict) else None
            if not isinstance(value, str) or not value.strip():
                label = entry.get("id", number) if isinstance(entry, dict) else number
                raise ConfigError(f"{path}, entry {label}: there is no text in {name!r}")
        fields.append(tuple(entry[name].strip("\n") for name in names))
    return fields


def _chat_pairs(path: Path) -> tuple[tuple[str, str], ...]:
    """(question, answer) of every line of a chat JSONL file, as fine-tuning services take them."""
    try:
        lines = text_lines(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            turns = json.loads(line)["messages"]
            question, answer = turns[-2]["content"], turns[-1]["content"]
            fits = turns[-1]["role"] == "assistant" and isinstance(question + answer, str)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ConfigError(f"{path}, line {number}: expected a chat in 'messages'") from error
        if not fits:
            raise ConfigError(f"{path}, line {number}: the last turn is not the assistant's")
        pairs.append((question, answer))
    if not pairs:
        raise ConfigError(f"{path} holds no chats")
    return tuple(pairs)
