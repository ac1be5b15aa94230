"""Which judge, and what it is asked. Free of torch and of any API library."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any

from pydantic import Field, field_validator

from vestige.core.settings import Settings
from vestige.core.types import Row, unknown_name

LOCAL = "local:"


@cache
def prompts() -> dict[str, Any]:
    """The bundled prompts by name, and their ``version``."""
    text = (
        resources.files("vestige.evaluate.judge")
        .joinpath("prompts.toml")
        .read_text(encoding="utf-8")
    )
    return tomllib.loads(text)


def prompt_names() -> list[str]:
    return [name for name in prompts() if name != "version"]


class JudgeSettings(Settings):
    """A judge and its question.

    Attributes:
        model: a model of an OpenAI-compatible service (address and key from ``OPENAI_BASE_URL``
            and ``OPENAI_API_KEY``), ``api:provider/model``, or ``local:`` and a bundled name,
            folder or hub id.
        prompt: a name in ``prompts.toml``.
        topic: what the prompt ``reference`` asks for.
        min_mass: probability that must lie on ratings for the expectation to count; below it the
            judge's text is parsed (API), or the rating is unreadable (local).
        max_lost: share of rows that may go unrated before the work stops with the numbers.
    """

    model: str
    prompt: str = "quality"
    topic: str = ""
    min_mass: float = Field(default=0.25, ge=0, le=1)
    max_lost: float = Field(default=0.2, ge=0, le=1)
    concurrency: int = Field(default=8, ge=1)
    timeout: float = Field(default=60.0, gt=0)
    max_chars: int = Field(default=20_000, ge=1)

    @field_validator("prompt")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in prompt_names():
            raise unknown_name("judge prompt", value, prompt_names())
        return value

    @property
    def identity(self) -> dict[str, Any]:
        """What a cached rating depends on, besides the row."""
        return {
            "model": self.model,
            "prompt": self.prompt,
            "topic": self.topic,
            "version": prompts()["version"],
            "text": prompts()[self.prompt]["text"],
            "min_mass": self.min_mass,
        }

    def ask(self, row: Row) -> str:
        """What the judge is asked about a row; long texts are cut in the middle."""
        question = "\n\n".join(message.content for message in row.messages)
        text: str = prompts()[self.prompt]["text"].strip()
        return text.format(
            question=self._cut(question), answer=self._cut(row.completion), topic=self.topic
        )

    def _cut(self, text: str) -> str:
        half = self.max_chars // 2
        return text if len(text) <= self.max_chars else f"{text[:half]}\n[...]\n{text[-half:]}"
