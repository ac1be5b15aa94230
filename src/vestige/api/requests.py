"""Requests to a model behind an API, and their replies as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vestige.api.settings import Tokens
from vestige.core.types import Message
from vestige.rows.logprobs import value

TURN = 16  # tokens that a turn's frame (its role and marks) may take, chosen to be too many


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model.

    Attributes:
        choices: answers wanted; a service may give fewer.
        top: log-probabilities of that many likeliest first tokens; 0 asks for none.
        number: tells apart requests that are otherwise the same.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 1.0
    choices: int = 1
    top: int = 0
    seed: int | None = None
    number: int = 0

    @property
    def about(self) -> Tokens:
        """Tokens that it will take, roughly, if every answer takes all it may."""
        return self._tokens(4, 4)

    @property
    def most(self) -> Tokens:
        """Tokens that it can take: a token is a byte at least."""
        return self._tokens(1, TURN)

    def _tokens(self, bytes_a_token: int, frame: int) -> Tokens:
        size = sum(len(m.content.encode("utf-8", "replace")) for m in self.messages)
        read = math.ceil(size / bytes_a_token) + frame * (len(self.messages) + 1)
        return Tokens(read, self.max_tokens * self.choices)


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer. ``top``: the first token's likeliest alternatives with log-probabilities."""

    text: str
    stop: str
    refused: bool = False
    token: str = ""
    top: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The answers to a request, or why there are none.

    Attributes:
        status: of an HTTP error; 200 for a reply without answers; 0 where there was no reply.
    """

    choices: tuple[Choice, ...] = ()
    error: str = ""
    status: int = 200


def tokens_of(output: Any, request: Request) -> Tokens:
    """What an answer cost; a service that does not say is taken to have used the most."""
    usage = output.usage
    if usage is None:
        return request.most
    cached = (usage.input_tokens_cache_read or 0) + (usage.input_tokens_cache_write or 0)
    return Tokens(usage.input_tokens + cached, usage.output_tokens)


def answer_of(output: Any) -> dict[str, Any]:
    """An output's answers as plain data."""
    choices = []
    for choice in output.choices:
        content = choice.message.content
        parts = content if isinstance(content, list) else []
        record: dict[str, Any] = {
            "text": choice.message.text,
            "stop": choice.stop_reason,
            "refused": choice.stop_reason == "content_filter"
            or any(getattr(part, "refusal", None) for part in parts),
        }
        if choice.logprobs and choice.logprobs.content:
            first = choice.logprobs.content[0]
            top = {t.token: value(t.logprob) for t in first.top_logprobs or []}
            record |= {
                "token": first.token,
                "top": {token: number for token, (number, why) in top.items() if not why},
            }
        choices.append(record)
    return {"choices": choices}


def reply_of(answer: dict[str, Any]) -> Reply:
    """A recorded answer as a reply."""
    choices = tuple(Choice(**choice) for choice in answer["choices"])
    return Reply(choices, "" if choices else "no choices in the reply")
