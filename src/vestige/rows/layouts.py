"""The layouts of records that people have: names of columns, roles, and reasons to refuse one.

``docs/formats.md`` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from vestige.core.types import Message

#: Reasons why a record gives no row.
MALFORMED = "malformed"
TOOL_CALLS = "tool_calls"
NOT_TEXT = "not_text"
NOT_TRAINED_ON = "not_trained_on"
NO_PROMPT = "no_prompt"
NO_ANSWER = "no_answer"
ROLES = {"system", "user", "assistant", "developer"}
SPEAKERS = {role: role for role in ROLES} | {
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bot": "assistant",
}  # fmt: skip
TOOL_ROLES = {
    "tool", "function", "observation", "function_call", "tool_call", "tool_response", "ipython",
}  # fmt: skip
CHAT = ("messages",)
CHATS = ("messages", "conversations", "conversation")
#: Prompt and completion, in the order in which they are looked for.
PAIRS = (
    ("prompt", "completion"), ("prompt", "response"), ("instruction", "output"),
    ("instruction", "response"), ("question", "response"), ("question", "answer"),
    ("query", "response"),
)  # fmt: skip
PROMPTS = ("prompt", "instruction", "question", "query")
COMPLETIONS = ("completion", "response", "output", "answer")
JOINED = ("input", "context")  # follow an instruction on a line of their own
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
#: Columns that change what a chat is or say that it is more than text.
BESIDE = frozenset(("system", "tools", "functions", *MEDIA))
TEXT = "text"
TRAINED_AS = "trained_as"  # in a row's meta: "text" where it is trained on without a chat template
EXPECTED = (
    'expected {"messages": [{"role": ..., "content": ...}, ...]} ending with the assistant, '
    'or {"prompt": ..., "completion": ...}'
)
BY_HAND = "any other columns are named with --prompt-column and --completion-column"


class Unusable(ValueError):
    """Why a record gives no row: a reason to count by, and the details."""

    def __init__(self, detail: str, reason: str = MALFORMED) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns that the user names; empty: found by their usual names."""

    prompt: str = ""
    completion: str = ""

    def __bool__(self) -> bool:
        return bool(self.prompt or self.completion)


USUAL = Columns()


class ParsedRecord(NamedTuple):
    """A record as a row has it.

    Attributes:
        layout: what the record was read as.
        used: its columns that were read.
        more: what belongs into the row's ``meta`` besides the other columns.
    """

    layout: str
    used: tuple[str, ...]
    messages: tuple[Message, ...]
    completion: str
    more: Mapping[str, Any] = {}
