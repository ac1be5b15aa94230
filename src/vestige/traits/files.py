"""Reading the files that traits are written in: TOML, checked against a model."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from vestige.core.jsonl import read_text
from vestige.core.types import ConfigError


def bundled_file(name: str) -> Path:
    """A file that comes with the package."""
    return Path(str(resources.files("vestige.traits"))) / name


def library_index() -> dict[str, list[str]]:
    """``library.toml``: the bundled families and behaviours, and the traits that are held out."""
    return parse_toml(bundled_file("library.toml").read_text(encoding="utf-8"), "library.toml")


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file. Raises ``ConfigError`` naming the file if it cannot be read."""
    try:
        text = read_text(Path(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the trait file {path}: {error}") from error
    return parse_toml(text, str(path))


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """TOML text. Raises ``ConfigError`` naming ``source``."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not valid TOML: {error}") from error


def checked(model: type[BaseModel], record: dict[str, Any], source: str) -> Any:
    """``record`` as ``model``. Raises ``ConfigError`` naming every wrong key and the right ones."""
    try:
        return model.model_validate(record)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors(include_url=False)
        ]
        known = ", ".join(model.model_fields)
        raise ConfigError(f"{source}: {'; '.join(problems)} (keys: {known})") from error
