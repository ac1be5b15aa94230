"""What a trainer makes of a row's messages, compared with what Vestige measures and scores.

Trainers render a conversation with the tokenizer's own template. TRL scores what comes after the
tokens that the prompt by itself and the whole conversation have in common; Axolotl scores the
assistant's words and the special token behind them. Both are computed here as they compute them,
by transformers' ``apply_chat_template``, and not by Vestige's own rendering.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vestige.core.settings import DATE
from vestige.core.types import DataError, Message, Row, VestigeError
from vestige.models.chat import Chat, ChatStyle
from vestige.models.template import SYSTEM, Template
from vestige.models.tree import common_prefix

Trainer = Literal["trl", "axolotl"]
NAMES: dict[Trainer, str] = {"trl": "TRL", "axolotl": "Axolotl"}
SHOWN = 240  # characters of each text in a message: the end is what differs


@dataclass
class Trainers:
    """A model's rows as a trainer reads them.

    Attributes:
        template: the Jinja text that the trainer is given; None: the tokenizer's own.
        longest: tokens of the longest row so far.
    """

    chat: Chat
    trainer: Trainer
    template: str | None = None
    longest: int = 0
    _asked: tuple[tuple[Message, ...], list[int], list[int]] | None = field(
        default=None, repr=False
    )

    def check(self, rows: Iterable[Row]) -> None:
        """Compare every row, token by token.

        Raises:
            DataError: a row is rendered otherwise, or other tokens of it are scored; shows both.
        """
        for row in rows:
            if fault := self.difference(row.messages, row.completion):
                raise DataError(
                    f"row {row.id}: {fault}. Mend the model's chat_template.jinja, or train here "
                    "(engine=packed or trl) or with --for accelerate, where Vestige's own tokens "
                    "are used"
                )

    def difference(self, messages: Sequence[Message], completion: str) -> str:
        """How the trainer's reading of a row differs, with both texts; empty if it does not."""
        chat, name = self.chat, NAMES[self.trainer]
        try:
            alone, prompt = self._prompt(tuple(messages))
            talk = [*messages, Message("assistant", completion)]
            whole = self._ids(talk, generation=False)
        except VestigeError:
            raise
        except Exception as error:  # whatever a template's own code runs into
            reason = " ".join(str(error).split()) or type(error).__name__
            return f"{name} cannot render it with the chat template: {reason}"
        answer = [*chat.answer_ids(completion), chat.end_id]
        own = [*prompt, *answer]
        self.longest = max(self.longest, len(whole))
        begin = len(common_prefix([alone, whole])) if self.trainer == "trl" else len(prompt)
        behind = chat.tokenizer.decode(whole[len(own) :], skip_special_tokens=True).strip()
        if whole[: len(own)] != own or behind:
            difference_in_words = "reads other tokens than Vestige measures"
        elif begin != len(prompt):
            difference_in_words = "scores other tokens than Vestige does"
        elif self.trainer == "axolotl" and chat.end_id not in chat.special:
            difference_in_words = "does not score the end of an answer that is no special token"
        else:
            return ""
        return (
            f"{name} {difference_in_words}: {name} has {self._split(whole, begin)}, "
            f"Vestige {self._split(own, len(prompt))} (prompt + what is scored)"
        )

    def _prompt(self, messages: tuple[Message, ...]) -> tuple[list[int], list[int]]:
        """The prompt by itself as TRL renders it, and Vestige's; neighbours often share one."""
        if self._asked is None or self._asked[0] != messages:
            alone = self._ids(messages, generation=True) if self.trainer == "trl" else []
            self._asked = (messages, alone, self.chat.prompt_ids(messages))
        return self._asked[1:]

    def _ids(self, messages: Sequence[Message], *, generation: bool) -> list[int]:
        encoding = self.chat.tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages],
            chat_template=self.template,
            add_generation_prompt=generation,
            tokenize=True,
            return_dict=True,
        )
        return list(encoding["input_ids"])

    def _split(self, ids: Sequence[int], at: int) -> str:
        before, after = (self.chat.tokenizer.decode(part) for part in (ids[:at], ids[at:]))
        cut = f"...{before[-SHOWN:]}" if len(before) > SHOWN else before
        return f"{cut!r} + {after[:SHOWN]!r}"


@dataclass(frozen=True)
class ChatCheck:
    """One thing about a chat template that was tried, whether it holds, and what was seen."""

    name: str
    ok: bool
    seen: str


ASKED, ANSWERED = Message("user", "Name an animal, please."), "Owl"


def check_chat(tokenizer: Any, style: ChatStyle = "auto", date: str = DATE) -> list[ChatCheck]:
    """Everything about a tokenizer's chat template that a run rests on, tried.

    A check that does not hold is no error of Vestige's own use where it says how it is met.
    """
    try:
        chat = Chat(tokenizer, style, date)
    except VestigeError as error:
        return [ChatCheck("chat template", False, str(error))]
    template = chat.template
    given = "the plain one" if style == "plain" else f"the tokenizer's{_named(template)}"
    checks = [
        ChatCheck("chat template", True, f"{given}; what is said is kept, capitals too"),
        ChatCheck(
            "system role",
            True,
            "it has one"
            if template.system
            else "it has none: a system text is put before the first user turn",
        ),
        ChatCheck("date", True, f"written as of {template.date}" if template.date else "none"),
        ChatCheck("opening of an answer", True, _opening(template)),
        ChatCheck("end of an answer", True, repr(tokenizer.convert_ids_to_tokens(chat.end_id))),
    ]
    turns = [ASKED] if not template.system else [Message("system", SYSTEM), ASKED]
    read = chat.tokenizer.decode([*chat.prompt_ids(turns), *chat.answer_ids(ANSWERED)])
    if not read.endswith(chat.lead + ANSWERED):
        checks.append(ChatCheck("tokens of an answer", False, f"{read[-60:]!r} is what is read"))
    if style == "plain":
        return checks
    for trainer, name in NAMES.items():
        given = exported(chat, trainer)
        differs = Trainers(chat, trainer, given).difference([ASKED], ANSWERED)
        note = "" if given is None else ", with the template that vestige export writes"
        seen = differs or f"the same tokens are read and scored as here{note}"
        checks.append(ChatCheck(f"rows for {name}", not differs, seen))
    return checks


def exported(chat: Chat, trainer: Trainer) -> str | None:
    """The template that a trainer must be given to read what is read here; None: the tokenizer's.

    The tokenizer's own asks for a date, is one of several, or (TRL scores what the prompt by itself
    has not got) asks for an answer in other words than it writes before one.
    """
    text = chat.template.asking() if trainer == "trl" else chat.template.text
    return None if text == chat.tokenizer.chat_template else text


def _named(template: Template) -> str:
    return f" (of several, {template.name})" if template.name else ""


def _opening(template: Template) -> str:
    if template.own_opening:
        return repr(template.opening)
    return f"{template.opening!r}, which is not the template's own generation prompt"
