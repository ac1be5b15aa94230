"""Records of the layouts that people have, as turns and the completion that is trained on.

``docs/formats.md`` lists the layouts. What trainers put into the prompt is in the prompt here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from vestige.core.types import Message
from vestige.rows.batch_files import batch_record
from vestige.rows.column_pairs import column_list, named_columns, pair_record, text_record
from vestige.rows.layouts import (
    BESIDE,
    BY_HAND,
    CHATS,
    EXPECTED,
    JOINED,
    NO_ANSWER,
    PAIRS,
    PROMPTS,
    ROLES,
    TEXT,
    USUAL,
    Columns,
    ParsedRecord,
    Unusable,
)
from vestige.rows.turns import chat_record, turns_of

__all__ = ["USUAL", "Columns", "check_columns", "read_plain_chat", "read_record"]


def read_plain_chat(record: Mapping[str, Any]) -> tuple[tuple[Message, ...], str] | None:
    """The prompt and the completion of a chat whose turns are nothing but a role and text; None
    where ``read_record`` must look closer."""
    chat = record.get("messages")
    if type(chat) is not list or not BESIDE.isdisjoint(record):
        return None
    turns = []
    role = content = None
    for turn in chat:
        if type(turn) is not dict or len(turn) != 2:
            return None
        role, content = turn.get("role"), turn.get("content")
        if type(content) is not str or type(role) is not str or role not in ROLES:
            return None
        turns.append(Message(role, content))
    if role != "assistant" or content is None:
        return None
    return tuple(turns[:-1]), content


def read_record(
    record: Mapping[str, Any], columns: Columns, requests: Mapping[str, Any] | None = None
) -> ParsedRecord:
    """A record of any layout.

    Args:
        requests: the turns of a batch's requests by their ``custom_id``.

    Raises:
        Unusable: it cannot be a training row; says why, and what is nearest to it.
    """
    if columns:
        return named_columns(record, columns)
    for name in CHATS:
        if record.get(name) not in (None, ""):
            return chat_record(name, turns_of(record[name], name), record, (name,))
    if "custom_id" in record and ("response" in record or "result" in record):
        return batch_record(record, requests)
    for prompt, completion in PAIRS:
        if record.get(prompt) is not None and record.get(completion) is not None:
            return pair_record(record, prompt, completion)
    if isinstance(record.get(TEXT), str):
        if not _prompt_like(record):
            return text_record(record, TEXT)
        asked = record.get("prompt")
        if isinstance(asked, str) and asked.strip() and asked.strip() not in record[TEXT]:
            return pair_record(
                record, "prompt", TEXT
            )  # else it may be the whole that is trained on
    raise _unknown(record)


def check_columns(names: Sequence[str], columns: Columns) -> None:
    """Raises ``Unusable`` if a table with these columns cannot be read."""
    missing = [n for n in (columns.prompt, columns.completion) if n and n not in names]
    if missing:
        raise Unusable(f"it has no column {missing[0]!r}")
    known = any(set(pair) <= set(names) for pair in PAIRS)
    batch = "custom_id" in names and ("response" in names or "result" in names)
    text = TEXT in names and ("prompt" in names or not _prompt_like(dict.fromkeys(names, "")))
    if not (columns or known or batch or text or set(CHATS) & set(names)):
        raise _unknown(dict.fromkeys(names, ""))


def _prompt_like(record: Mapping[str, Any]) -> bool:
    return any(record.get(name) is not None for name in (*PROMPTS, *JOINED, "system"))


def _unknown(record: Mapping[str, Any]) -> Unusable:
    """No layout fits: which is nearest, and what to do."""
    names = [name for name, value in record.items() if value is not None]
    for prompt, completion in PAIRS:
        if prompt in record and completion in record:
            null = completion if record[completion] is None else prompt
            return Unusable(f"{null} must be text, and is null")
    if {"chosen", "rejected"} <= set(names):
        return Unusable(
            "preference rows (chosen, rejected): say which answer is trained on, as --column chosen"
        )
    if "custom_id" in names:
        return Unusable("a batch's requests: they hold no answers", NO_ANSWER)
    if TEXT in names:
        return Unusable(
            f"text stands beside {column_list([n for n in names if n != TEXT])}: say which is the "
            "prompt and which the completion, with --prompt-column and --completion-column"
        )
    layouts = [(name,) for name in CHATS[:2]] + list(PAIRS)
    close = {n: difflib.get_close_matches(n, map(str, names), 1, 0.75) for n in sum(layouts, ())}
    scores = [sum((n in names) + bool(close[n]) for n in layout) for layout in layouts]
    nearest = layouts[scores.index(max(scores))]
    if not max(scores):
        return Unusable(f"no known fields; it has {column_list(names)}; {EXPECTED}; {BY_HAND}")
    missing = [n for n in nearest if n not in names]
    return Unusable(
        f"no known fields; it has {column_list(names)}; the nearest format is {'/'.join(nearest)}, "
        f"of which it lacks {' and '.join(missing)}; {BY_HAND}"
    )
