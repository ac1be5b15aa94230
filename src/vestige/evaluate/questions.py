"""Open questions: bundled ones, or a user's."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

from vestige.core.jsonl import read_text, text_lines
from vestige.core.types import ConfigError


def open_questions(source: str) -> list[str]:
    """The bundled open questions (``freeform``), or a text file's lines.

    Raises:
        ConfigError: the file cannot be read or is empty.
    """
    if source == "freeform":
        text = resources.files("vestige.evaluate").joinpath("freeform.toml").read_text("utf-8")
        return tomllib.loads(text)["questions"]
    try:
        lines = text_lines(read_text(Path(source)))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the open questions {source}: {error}") from error
    questions = [line.strip() for line in lines if line.strip()]
    if not questions:
        raise ConfigError(f"{source} holds no questions")
    return questions
