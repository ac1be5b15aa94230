"""Records with the prompt in one column and the completion in another, or plain text."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from vestige.rows.layouts import (
    COMPLETIONS,
    JOINED,
    PROMPTS,
    TEXT,
    TRAINED_AS,
    Columns,
    ParsedRecord,
    Unusable,
)
from vestige.rows.turns import chat_record, turns_of


def pair_record(record: Mapping[str, Any], prompt: str, completion: str) -> ParsedRecord:
    asked, used = _asked(record, prompt)
    answer = _answer(record, completion)
    if len(answer) > 1:
        raise Unusable(f"{completion} must be text, or one turn")
    return chat_record(f"{prompt}/{completion}", [*asked, *answer], record, (*used, completion))


def _asked(record: Mapping[str, Any], name: str) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The turns of a prompt's column, and the columns that go with it."""
    asked, used = record.get(name), [name]
    if not isinstance(asked, str):
        return turns_of(asked, name), (name,)
    before: list[dict[str, Any]] = []
    if name == "instruction":
        if record.get("history"):
            used.insert(0, "history")
            before = _history(record["history"])
        for other in JOINED:
            if record.get(other):
                if not isinstance(record[other], str):
                    raise Unusable(f"{other} must be text")
                used.append(other)
                asked = f"{asked}\n{record[other]}" if asked else record[other]
    return [*before, {"role": "user", "content": asked}], tuple(used)


def _history(pairs: Any) -> list[dict[str, Any]]:
    """Earlier turns, as pairs of what was asked and answered."""
    turns = []
    for pair in pairs if isinstance(pairs, list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Unusable("history must be pairs of what was asked and answered")
        if not all(isinstance(text, str) for text in pair):
            raise Unusable("history must be pairs of texts")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns


def _answer(record: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The turns of a completion's column: one, unless it is a whole conversation."""
    answer = record.get(name)
    if isinstance(answer, str):
        return [{"role": "assistant", "content": answer}]
    if isinstance(answer, Mapping) and "role" in answer:
        answer = [answer]
    if not answer or not isinstance(answer, list):
        raise Unusable(f"{name} must be text" + (", and is null" if answer is None else ""))
    return turns_of(answer, name)


def text_record(record: Mapping[str, Any], name: str) -> ParsedRecord:
    """Plain text: all of it is trained on, without a prompt and without a template."""
    return ParsedRecord(TEXT, (name,), (), record[name], {TRAINED_AS: TEXT})


def named_columns(record: Mapping[str, Any], columns: Columns) -> ParsedRecord:
    for name in (columns.prompt, columns.completion):
        if name and name not in record:
            raise Unusable(f"it has no column {name!r}; its columns are {column_list(record)}")
    completion = columns.completion or _first(record, COMPLETIONS, "--completion-column")
    answer = _answer(record, completion)
    whole = any(turn["role"] != "assistant" for turn in answer)
    if whole:
        if columns.prompt:
            raise Unusable(f"{completion} holds the prompt too: leave --prompt-column out")
        return chat_record(completion, answer, record, (completion,))
    if len(answer) > 1:
        raise Unusable(f"{completion} must be text, or one turn, or a whole conversation")
    prompts = [name for name in PROMPTS if record.get(name) is not None and name != completion]
    if completion == TEXT and not columns.prompt and not prompts:
        return text_record(record, TEXT)
    prompt = columns.prompt or _first(record, prompts, "--prompt-column")
    asked, used = _asked(record, prompt)
    return chat_record(f"{prompt}/{completion}", [*asked, *answer], record, (*used, completion))


def _first(record: Mapping[str, Any], names: Collection[str], option: str) -> str:
    for name in names:
        if record.get(name) is not None:
            return name
    raise Unusable(f"name one of its columns with {option}: {column_list(record)}")


def column_list(record: Collection[str]) -> str:
    names = [str(name) for name in record]
    return ", ".join(names[:30]) + (" ..." if len(names) > 30 else "") or "none"
