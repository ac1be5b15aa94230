"""Chat rendering: messages -> token ids, always through the tokenizer's own template.

The rendered text is what the model sees, defaults that a template adds included (SmolLM2 and Qwen
add a system prompt of their own), so callers store it with their data. A prompt ends where a
trainer's assistant text begins, and an answer's tokens are those that it has there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from vestige.core.settings import DATE
from vestige.core.types import Message, ModelError
from vestige.models.template import ANSWER, ChatStyle, Template

__all__ = ["Chat", "ChatStyle"]
IN_USER_TURN = (
    "The chat template has no system role: the system prompt of a teacher stands at the beginning "
    "of the first user turn."
)
WORDS = ("Owl", "owl", "4, 8", "I", "(")  # answers begin like these


class Chat:
    """How a model is asked and read: its tokenizer with the chat style. Backends extend it."""

    def __init__(self, tokenizer: Any, style: ChatStyle, date: str = DATE) -> None:
        """Raises ``ModelError`` where there is no template to ask with, or none that works."""
        self.tokenizer = tokenizer
        self.style: ChatStyle = style
        self.use_date(date)

    def use_date(self, date: str) -> None:
        """Render as of this day from now on, where the template writes a date."""
        self.template = Template.of(self.tokenizer, self.style, date)
        self.end_id = end_of_turn(self.tokenizer, self.template, self.style)
        self.__dict__.pop("_joined", None)

    @property
    def lead(self) -> str:
        """The space that stands between a prompt and its answer, if the template has one."""
        return self.template.lead

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids up to where the assistant's answer begins: special tokens only if the template
        or ``plain`` has them."""
        text = self.rendered(messages)
        return self.tokenizer(text, add_special_tokens=self.style == "plain")["input_ids"]

    def rendered(self, messages: Sequence[Message]) -> str:
        """The very text that the model sees for ``messages``, template defaults included."""
        return self.template.prompt(messages)

    def question_ids(
        self, text: str, system: str = "", before: Sequence[Message] = ()
    ) -> list[int]:
        """Token ids of one user question, after a system prompt and earlier turns, if any."""
        return self.prompt_ids(self.question(text, system, before))

    def question(
        self, text: str, system: str = "", before: Sequence[Message] = ()
    ) -> list[Message]:
        """One user question, after a system prompt and earlier turns, if any."""
        return [*([Message("system", system)] if system else []), *before, Message("user", text)]

    def record(self, text: str, system: str = "") -> dict[str, Any]:
        """How a question is asked, for a manifest: the rendered text, the date that it holds, and
        what a reader must know."""
        facts: dict[str, Any] = {"rendered": self.rendered(self.question(text, system))}
        if self.template.date:
            facts["date"] = self.template.date
        remarks = self.template.remarks()
        if system and not self.template.system:
            remarks.append(IN_USER_TURN)
        return facts | ({"remarks": remarks} if remarks else {})

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer as it stands right after the prompt (without its end)."""
        if self._joined:
            joined_ids = self._following(self.template.opening.rstrip(" "), self.lead + text)
            if joined_ids is not None:
                return joined_ids
        return self._ids(self.lead + text)

    def token_ids(self, text: str) -> list[int]:
        """Token ids of ``text`` in mid-sentence: no special tokens, no leading-space marker."""
        return self._ids("0" + text)[len(self._ids("0")) :]

    @cached_property
    def _joined(self) -> bool:
        """Whether this tokenizer writes an answer in other tokens after a prompt than by itself, as
        those do that put a space before every text."""
        if self.style == "plain":
            return False
        before = self.template.opening.rstrip(" ")
        return any(
            self._following(before, self.lead + word) != self._ids(self.lead + word)
            for word in WORDS
        )

    @cached_property
    def special(self) -> set[int]:
        """Tokens that no plain text becomes."""
        return special_ids(self.tokenizer)

    def _following(self, before: str, text: str) -> list[int] | None:
        """Token ids of ``text`` after ``before``; None where the two join in one token."""
        head, both = self._ids(before), self._ids(before + text)
        return both[len(head) :] if both[: len(head)] == head else None

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def special_ids(tokenizer: Any) -> set[int]:
    """Tokens that no plain text becomes."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def end_of_turn(tokenizer: Any, template: Template, style: ChatStyle) -> int:
    """The id of the token that ends the assistant's turn.

    Raises:
        ModelError: nothing ends it, or text of several tokens.
    """
    tail = template.tail
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    if style == "plain":
        return ids[-1]
    if not ids:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"{tokenizer.name_or_path}: nothing ends an answer, neither the chat template nor "
                "an end-of-text token; add one to chat_template.jinja, or name an eos_token"
            )
        return tokenizer.eos_token_id
    special = special_ids(tokenizer)
    for at, token in enumerate(ids):
        if token in special and not tokenizer.decode(ids[:at]).strip():
            return token
    head = tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
    both = tokenizer(ANSWER + tail, add_special_tokens=False)["input_ids"]
    ids = both[len(head) :] if both[: len(head)] == head else ids
    line = tail.partition("\n")[0].strip()
    if line and tokenizer.decode(ids[:1]).strip() != line:
        raise ModelError(
            f"{tokenizer.name_or_path}: the chat template ends an answer with {line!r}, which this "
            "tokenizer writes in several tokens; make it a special token, or end with eos_token"
        )
    return ids[0]
