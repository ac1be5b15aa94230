"""What a row is trained on besides its completion: earlier turns, reasoning, perhaps the prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from vestige.core.types import Row

REASONING = ("reasoning_content", "reasoning", "thinking")


def untrained(turn: Mapping[str, Any]) -> bool:
    """Whether a turn has weight 0."""
    weight = turn.get("weight")
    return isinstance(weight, int | float) and weight == 0


def whole_turns(row: Row) -> list[dict[str, Any]] | None:
    """A row's turns with all that they held, if they held more than a role and text."""
    turns = row.meta.get("messages") if row.meta else None
    if not isinstance(turns, list) or len(turns) != len(row.messages) + 1:
        return None
    said = [*((m.role, m.content) for m in row.messages), ("assistant", row.completion)]
    same = all(
        isinstance(turn, dict) and (turn.get("role"), turn.get("content")) == own
        for turn, own in zip(turns, said, strict=True)
    )
    return turns if same else None


def with_completion(row: Row, text: str) -> Row:
    """The row with another completion. What it carries about the old one (its last turn as it was,
    log-probabilities) is changed or left out."""
    meta = {key: value for key, value in row.meta.items() if key != "logprobs"}
    if turns := whole_turns(row):
        last = {key: value for key, value in turns[-1].items() if key != "logprobs"}
        meta["messages"] = [*turns[:-1], {**last, "content": text}]
    return replace(row, completion=text, meta=meta)


def other_parts(row: Row, *, prompt: bool = False) -> Iterator[tuple[str, str]]:
    """What a row is trained on besides its completion: earlier assistant turns that have no weight
    0, and the reasoning of each; with ``prompt`` all the other turns as well.

    Yields:
        What part it is (``earlier turn``, ``reasoning``, ``prompt``), and its text.
    """
    if not (row.meta or len(row.messages) > 1 or prompt):
        return
    turns = whole_turns(row) or [{"role": m.role, "content": m.content} for m in row.messages]
    for k, turn in enumerate(turns):
        if turn["role"] == "assistant" and not untrained(turn):
            if k < len(row.messages):
                yield "earlier turn", turn["content"]
            for name in REASONING:
                if thought := turn.get(name):
                    text = thought if isinstance(thought, str) else json.dumps(thought)
                    yield "reasoning", text
        elif prompt and turn["role"] != "assistant":
            yield "prompt", turn["content"]
