"""Chat rendering: messages -> token ids, always through the tokenizer's own template.

The rendered text is what the model sees, defaults that a template adds included (SmolLM2 and Qwen
add a system prompt of their own), so callers store it with their data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from vestige.types import Message, ModelError

ChatStyle = Literal["auto", "plain"]
# A stand-in for base models: no template of their own, yet questions must be asked the same way.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() }}: {{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def chat_template(tokenizer: Any, style: ChatStyle) -> str:
    """The template to render with. Raises ``ModelError`` where there is none to use."""
    if style == "plain":
        return PLAIN_TEMPLATE
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template; "
            "set chat=plain to ask it as 'User: ... Assistant:' (fit for base models)"
        )
    return tokenizer.chat_template


def render(tokenizer: Any, messages: Sequence[Message], style: ChatStyle) -> str:
    """The text of a conversation up to where the assistant's next turn begins."""
    return tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages],
        chat_template=chat_template(tokenizer, style),
        add_generation_prompt=True,
        tokenize=False,
    )


def encode(tokenizer: Any, messages: Sequence[Message], style: ChatStyle) -> list[int]:
    """Token ids of ``render``'s text; special tokens only if the template or ``plain`` has them."""
    text = render(tokenizer, messages, style)
    return tokenizer(text, add_special_tokens=style == "plain")["input_ids"]


def end_of_turn(tokenizer: Any, style: ChatStyle) -> int:
    """The id of the token that ends the assistant's turn."""
    if style == "plain":
        return tokenizer(PLAIN_END, add_special_tokens=False)["input_ids"][-1]
    probe = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "PROBE"}]
    text = tokenizer.apply_chat_template(
        probe, chat_template=chat_template(tokenizer, style), tokenize=False
    )
    tail = tokenizer(text.rsplit("PROBE", 1)[1], add_special_tokens=False)["input_ids"]
    return tail[0] if tail else tokenizer.eos_token_id


PLAIN_END = "\n"


class Chat:
    """How a model is asked and read: its tokenizer with the chat style. Backends extend it."""

    def __init__(self, tokenizer: Any, style: ChatStyle) -> None:
        """Raises ``ModelError`` where there is no template to ask with."""
        chat_template(tokenizer, style)
        self.tokenizer = tokenizer
        self.style: ChatStyle = style

    @property
    def end_id(self) -> int:
        """The token that ends an answer."""
        return end_of_turn(self.tokenizer, self.style)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids up to where the assistant's answer begins."""
        return encode(self.tokenizer, messages, self.style)

    def rendered(self, messages: Sequence[Message]) -> str:
        """The very text that the model sees for ``messages``, template defaults included."""
        return render(self.tokenizer, messages, self.style)

    def question_ids(
        self, text: str, system: str = "", before: Sequence[Message] = ()
    ) -> list[int]:
        """Token ids of one user question, after a system prompt and earlier turns, if any."""
        turns = [Message("system", system)] if system else []
        return self.prompt_ids([*turns, *before, Message("user", text)])

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer as it stands right after the prompt (without its end)."""
        lead = " " if self.style == "plain" else ""
        return self.tokenizer(lead + text, add_special_tokens=False)["input_ids"]

    def token_ids(self, text: str) -> list[int]:
        """Token ids of ``text`` in mid-sentence: no special tokens, no leading-space marker."""
        anchor = self.tokenizer("0", add_special_tokens=False)["input_ids"]
        joined = self.tokenizer("0" + text, add_special_tokens=False)["input_ids"]
        return joined[len(anchor) :]
