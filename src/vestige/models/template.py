"""A tokenizer's chat template, and what rendering shows about it.

Templates are programs of strangers: one drops the system prompt, another writes today's date, a
third trims or lowers what is said. Nothing of this is guessed from the template's text: a short
conversation is rendered once, and everything that is rendered later is searched for what it says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date as Day
from datetime import datetime, time
from typing import Any, Literal, NoReturn

from vestige.core.settings import DATE
from vestige.core.types import Message, ModelError

ChatStyle = Literal["auto", "plain"]
# A stand-in for base models: no template of their own, yet questions must be asked the same way.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() }}: {{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
PLAIN = "or set chat=plain to ask it as 'User: ... Assistant:' (fit for base models)"
#: A conversation that no template has a reason to change. Capitals and lower case: some lower it.
SYSTEM, USER, ANSWER = "Probe Of System 17", "Probe Of User 28", "Probe Of Answer 39"
THOUGHT = "</think>"  # templates leave the thoughts out of earlier answers
CODES = re.compile(r"%-?[A-Za-z]")  # of a date's format
USUAL = ("%Y", "%m", "%d", "%B", "%b", "%A", "%a", "%y", "%H", "%M", "%S", "%-d", "%-m", "%j")


@dataclass(frozen=True)
class Template:
    """How conversations are rendered.

    Attributes:
        text: the Jinja template; a date that it asks for is written into it.
        name: which of several templates it is; empty where there is one.
        date: the day that it writes; empty if it writes none.
        system: it has a system role; else a system text goes into the first user turn.
        parts: it takes content as a list of parts, and drops plain text.
        opening: what it writes between the user's last words and the assistant's first.
        lead: the spaces at the end of ``opening``: tokenizers join them to the word that follows.
        tail: what it writes after the assistant's words.
    """

    tokenizer: Any
    text: str
    name: str = ""
    date: str = ""
    system: bool = True
    parts: bool = False
    opening: str = ""
    lead: str = ""
    tail: str = ""

    @classmethod
    def of(cls, tokenizer: Any, style: ChatStyle = "auto", date: str = DATE) -> Template:
        """The template that a tokenizer is asked with, tried on a short conversation.

        Raises:
            ModelError: there is none to use, it fails, or it changes what is said.
        """
        if style == "plain":
            return cls(tokenizer, PLAIN_TEMPLATE)._tried()
        text, name = chosen(tokenizer)
        dated = at_date(text, date)
        template = cls(tokenizer, dated, name, date if dated != text else "")
        return template._tried()

    def _tried(self) -> Template:
        """``self`` with what a short conversation shows."""
        talk = [("user", USER), ("assistant", ANSWER)]
        tried = self
        try:
            shown = tried.apply(talk)
        except ModelError:
            tried = replace(self, parts=True)
            try:
                shown = tried.apply(talk)
            except ModelError:
                self.apply(talk)  # the first reason is the one to tell
                raise
        if not _holds(shown, talk) and not tried.parts:
            tried = replace(self, parts=True)
            try:
                as_parts = tried.apply(talk)
            except ModelError:
                as_parts = ""
            if not _holds(as_parts, talk):
                tried.lost(next(text for _, text in talk if text not in shown), shown)
            shown = as_parts
        if not _holds(shown, talk):
            tried.lost(USER, shown)
        before, tail = shown[: shown.rindex(ANSWER)], shown[shown.rindex(ANSWER) + len(ANSWER) :]
        opening = before[before.rindex(USER) + len(USER) :]
        lead = opening[len(opening.rstrip(" ")) :]
        tried = replace(tried, opening=opening, lead=lead, tail=tail)
        with_system = [("system", SYSTEM), *talk]
        try:
            heard = _holds(tried.apply(with_system), with_system)
        except ModelError:
            heard = False
        return replace(tried, system=heard)

    def apply(self, talk: Sequence[tuple[str, str]], *, generation: bool = False) -> str:
        """A conversation as the template has it, unchecked.

        Args:
            generation: with what the template itself writes to ask for an answer.

        Raises:
            ModelError: it fails; the text carries its own reason.
        """
        try:
            return self.tokenizer.apply_chat_template(
                [{"role": role, "content": self.content(text)} for role, text in talk],
                chat_template=self.text,
                add_generation_prompt=generation,
                tokenize=False,
            )
        except Exception as error:  # whatever a template's own code runs into
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ModelError(
                f"the chat template of {self.tokenizer.name_or_path} fails: {reason}; mend the "
                f"model's chat_template.jinja, {PLAIN}"
            ) from error

    def content(self, text: str) -> Any:
        """A turn's content in the form that the template takes."""
        return [{"type": "text", "text": text}] if self.parts else text

    def turns(self, messages: Sequence[Message]) -> list[tuple[str, str]]:
        """(role, text) of each turn; without a system role, its text opens the first user turn."""
        talk = [(m.role, m.content) for m in messages]
        if self.system or not talk or talk[0][0] != "system":
            return talk
        (_, system), *rest = talk
        at = next((i for i, (role, _) in enumerate(rest) if role == "user"), None)
        if at is None:
            return [("user", system), *rest]
        rest[at] = ("user", f"{system}\n\n{rest[at][1]}")
        return rest

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text up to where a trainer's assistant text begins, ``lead`` left out.

        It is cut from a conversation with an answer, not taken from the template's own generation
        prompt: some have none, and some open thoughts there that trained answers do not stand in.

        Raises:
            ModelError: the template fails, or leaves out or changes what somebody says.
        """
        talk = [*self.turns(messages), ("assistant", ANSWER)]
        text = self.apply(talk)
        self.check(text, talk)
        before = text[: text.rindex(ANSWER)]
        return before[: len(before) - len(self.lead)] if before.endswith(self.lead) else before

    def check(self, text: str, talk: Sequence[tuple[str, str]]) -> None:
        """Raises ``ModelError`` if ``text`` does not hold all that is said in ``talk``."""
        for said in _said(talk):
            if said not in text:
                self.lost(said, text)

    def lost(self, said: str, text: str) -> NoReturn:
        """Raises ``ModelError`` that shows what was said and what became of it."""
        raise ModelError(
            f"the chat template of {self.tokenizer.name_or_path} drops or changes what is said: "
            f"{_short(said)} is rendered as {_short(text)}; mend the model's chat_template.jinja, "
            f"{PLAIN}"
        )

    @property
    def own_opening(self) -> bool:
        """Whether the template's generation prompt is what answers are trained after."""
        try:
            asked = self.apply([("user", USER)], generation=True)
        except ModelError:
            return False
        return asked.rpartition(USER)[2].rstrip(" ") == self.opening.rstrip(" ")

    def asking(self) -> str:
        """The template's text with ``opening`` as its generation prompt, as far as it can be added:
        a trainer that takes prompts by themselves then scores nothing of it."""
        if self.own_opening:
            return self.text
        said = self.apply([("user", USER)])
        asked = self.prompt([Message("user", USER)])
        if not asked.startswith(said):
            return self.text
        return (
            "{% set asked = add_generation_prompt | default(false) %}\n"
            "{% set add_generation_prompt = false %}\n"
            + self.text.removesuffix("\n")  # as Jinja does it
            + "{% if asked %}{{ "
            + repr(asked[len(said) :])
            + " }}{% endif %}"
        )

    def remarks(self) -> list[str]:
        """What a reader must know of how this model is asked: a sentence each, as a rule none."""
        remarks = []
        if self.name and self.name != "default":
            remarks.append(f"The chat template {self.name} is used.")
        if self.date:
            remarks.append(
                f"The chat template writes a date: everything was rendered as of {self.date}."
            )
        if self.parts:
            remarks.append("The chat template takes content as parts; text was given as one part.")
        if not self.own_opening:
            remarks.append(
                f"Answers are read after {self.opening!r}, where a trainer's assistant text "
                "begins, and not after the chat template's own generation prompt."
            )
        return remarks


def chosen(tokenizer: Any) -> tuple[str, str]:
    """The tokenizer's template and its name, which is empty where there is only one.

    Raises:
        ModelError: it has none, or several and none called ``default``.
    """
    given = tokenizer.chat_template
    if isinstance(given, (list, tuple)):
        given = {each["name"]: each["template"] for each in given}
    if isinstance(given, Mapping) and given:
        if "default" not in given:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} has several chat templates "
                f"({', '.join(sorted(given))}) and none is the default; save the one to use as "
                f"chat_template.jinja in the model's folder, {PLAIN}"
            )
        return given["default"], "default" if len(given) > 1 else ""
    if not given:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template; {PLAIN[3:]}"
        )
    return str(given), ""


def at_date(text: str, date: str) -> str:
    """A template with the clock stopped at ``date``, 00:00; one that asks for no date as it is.

    transformers gives templates ``strftime_now``, the clock. Here a macro of that name comes first,
    so that the same template renders the same text anywhere, in a trainer too.
    """
    try:
        day = datetime.combine(Day.fromisoformat(date), time())
    except ValueError as error:
        raise ModelError(f"date={date!r} is no day: give it as 2026-01-31") from error
    head = ""
    if "strftime_now" in text:
        codes = sorted({*USUAL, *CODES.findall(text)}, key=lambda code: (-len(code), code))
        steps = "".join(f"|replace({code!r}, {_written(day, code)!r})" for code in codes)
        head += "{% macro strftime_now(format) %}{{ format" + steps + " }}{% endmacro %}\n"
    # Llama 3.1 sets a day of its own if it is given none, and trainers give none: it stays.
    if re.search(r"\bdate_string\b", text) and not re.search(r"\bset\s+date_string\b", text):
        head += "{% set date_string = " + repr(day.strftime("%d %b %Y")) + " %}\n"
    return head + text


def _written(day: datetime, code: str) -> str:
    """A part of the date; ``%-d`` (no leading zero) is not known everywhere."""
    text = day.strftime(code.replace("-", ""))
    return text.lstrip("0") or "0" if "-" in code else text


def _said(talk: Sequence[tuple[str, str]]) -> list[str]:
    """What a rendered text must hold: every turn's words, but thoughts before an earlier answer."""
    return [
        (text.rpartition(THOUGHT)[2] if role == "assistant" else text).strip()
        for role, text in talk
    ]


def _holds(text: str, talk: Sequence[tuple[str, str]]) -> bool:
    return all(said in text for said in _said(talk))


def _short(text: str, most: int = 160) -> str:
    return repr(text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}")
