"""Turns of a conversation in any spelling, and a whole conversation as a row has it.

A turn is a dict with ``role`` and ``content``, and whatever else it held (a weight, reasoning).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vestige.core.types import Message
from vestige.rows.layouts import (
    MEDIA,
    NOT_TEXT,
    NOT_TRAINED_ON,
    ROLES,
    SPEAKERS,
    TEXT,
    TOOL_CALLS,
    TOOL_ROLES,
    ParsedRecord,
    Unusable,
)
from vestige.rows.trained_parts import REASONING, untrained


def turns_of(value: Any, name: str = "messages") -> list[dict[str, Any]]:
    """The turns of a list, of its JSON, or of a struct of lists. Raises ``Unusable``."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Unusable(f"{name} is text that is not JSON: {error}") from error
    if isinstance(value, Mapping) and value and all(isinstance(v, list) for v in value.values()):
        if len({len(column) for column in value.values()}) > 1:
            raise Unusable(f"{name}: its lists are of different lengths")
        value = [
            dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)
        ]
    if not isinstance(value, list):
        raise Unusable(f"{name} must be a list of turns")
    return [turn_of(turn) for turn in value]


def turn_of(turn: Any) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise _no_turn()
    said = {key: value for key, value in turn.items() if value is not None}
    role = said.get("role", said.get("from"))
    content = said.get("content", said.get("value"))
    if said.get("tool_calls") or said.get("function_call") or role in TOOL_ROLES:
        raise Unusable("a turn calls a tool, or is a tool's: only text can be read", TOOL_CALLS)
    if not isinstance(role, str) or role.lower() not in SPEAKERS:
        raise _no_turn()
    reasoning = ""
    if isinstance(content, Mapping):
        content = [content]
    if isinstance(content, list) and content:
        content, reasoning = _joined(content)
    if not isinstance(content, str):
        raise _no_turn()
    text_turn: dict[str, Any] = {"role": SPEAKERS[role.lower()], "content": content}
    if reasoning:
        text_turn[REASONING[0]] = reasoning
    empty = ("tool_calls", "function_call")
    kept = {k: v for k, v in said.items() if k not in ("role", "from", "content", "value", *empty)}
    return text_turn | kept


def _no_turn() -> Unusable:
    return Unusable(f"a turn needs a role ({', '.join(sorted(ROLES))}) and text content")


def _joined(parts: list[Any]) -> tuple[str, str]:
    """The text of a list of parts, and its reasoning."""
    text, reasoning = [], []
    for part in parts:
        if not isinstance(part, Mapping):
            raise _no_turn()
        kind = part.get("type") or TEXT
        if kind in ("thinking", "reasoning"):
            thought = part.get("thinking") or part.get("reasoning") or part.get(TEXT) or ""
            reasoning.append(thought if isinstance(thought, str) else json.dumps(thought))
        elif str(kind).startswith("tool"):
            raise Unusable(f"a part of type {kind}: only text can be read", TOOL_CALLS)
        elif kind not in (TEXT, "input_text", "output_text"):
            raise Unusable(f"a part of type {kind}: only text can be read", NOT_TEXT)
        elif not isinstance(part.get(TEXT), str):
            raise _no_turn()
        else:
            text.append(part[TEXT])
    return "".join(text), "".join(reasoning)


def finished_record(
    layout: str,
    turns: list[dict[str, Any]],
    used: tuple[str, ...],
    more: Mapping[str, Any] | None = None,
) -> ParsedRecord:
    if not turns or turns[-1]["role"] != "assistant":
        raise Unusable(f"{layout} must end with the assistant's turn")
    if untrained(turns[-1]):
        raise Unusable(
            "its last turn has weight 0: no trainer learns it; cut the row behind the last turn "
            "that is trained on, or leave it out",
            NOT_TRAINED_ON,
        )
    messages = tuple([Message(turn["role"], turn["content"]) for turn in turns[:-1]])
    # A turn may hold more than role and content: keep the turns whole.
    whole = {"messages": turns} if any(len(turn) > 2 for turn in turns) else {}
    return ParsedRecord(layout, used, messages, turns[-1]["content"], {**(more or {}), **whole})


def chat_record(
    layout: str, turns: list[dict[str, Any]], record: Mapping[str, Any], used: tuple[str, ...]
) -> ParsedRecord:
    """Turns with the ``system`` column in front, where they have no system turn of their own."""
    for name in ("tools", "functions"):
        if record.get(name) not in (None, [], {}, "", "[]"):
            raise Unusable(f"it has {name}, which templates write into the prompt", TOOL_CALLS)
    for name in MEDIA:
        if record.get(name) not in (None, [], {}, ""):
            raise Unusable(f"it has {name}: only text can be read", NOT_TEXT)
    system = record.get("system")
    if system and "system" not in used and not (turns and turns[0]["role"] == "system"):
        if not isinstance(system, str):
            raise Unusable("system must be text")
        turns, used = [{"role": "system", "content": system}, *turns], ("system", *used)
    return finished_record(layout, turns, used)
