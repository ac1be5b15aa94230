"""Records of the layouts that people have, as turns and the completion that is trained on.

``docs/formats.md`` lists the layouts. What trainers put into the prompt is in the prompt here. A
turn is a dict with ``role`` and ``content``, and whatever else it held (a weight, reasoning).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vestige.core.types import Message
from vestige.rows.trained_parts import REASONING, untrained

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


class Found(NamedTuple):
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


def read_plain_chat(record: Mapping[str, Any]) -> tuple[tuple[Message, ...], str] | None:
    """The prompt and the completion of a chat whose turns are nothing but a role and text; None
    where ``read_record`` must look closer."""
    chat = record.get("messages")
    if type(chat) is not list or not BESIDE.isdisjoint(record):
        return None
    found = []
    role = content = None
    for turn in chat:
        if type(turn) is not dict or len(turn) != 2:
            return None
        role, content = turn.get("role"), turn.get("content")
        if type(content) is not str or type(role) is not str or role not in ROLES:
            return None
        found.append(Message(role, content))
    if role != "assistant" or content is None:
        return None
    return tuple(found[:-1]), content


def read_record(
    record: Mapping[str, Any], columns: Columns, requests: Mapping[str, Any] | None = None
) -> Found:
    """A record of any layout.

    Args:
        requests: the turns of a batch's requests by their ``custom_id``.

    Raises:
        Unusable: it cannot be a training row; says why, and what is nearest to it.
    """
    if columns:
        return _named(record, columns)
    for name in CHATS:
        if record.get(name) not in (None, ""):
            return _chat(name, turns_of(record[name], name), record, (name,))
    if "custom_id" in record and ("response" in record or "result" in record):
        return _batch(record, requests)
    for prompt, completion in PAIRS:
        if record.get(prompt) is not None and record.get(completion) is not None:
            return _pair(record, prompt, completion)
    if isinstance(record.get(TEXT), str):
        if not _prompt_like(record):
            return _text(record, TEXT)
        asked = record.get("prompt")
        if isinstance(asked, str) and asked.strip() and asked.strip() not in record[TEXT]:
            return _pair(record, "prompt", TEXT)  # else it may be the whole that is trained on
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


# ---- turns --------------------------------------------------------------------------------------


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
    return [_turn(turn) for turn in value]


def _turn(turn: Any) -> dict[str, Any]:
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
    found: dict[str, Any] = {"role": SPEAKERS[role.lower()], "content": content}
    if reasoning:
        found[REASONING[0]] = reasoning
    empty = ("tool_calls", "function_call")
    kept = {k: v for k, v in said.items() if k not in ("role", "from", "content", "value", *empty)}
    return found | kept


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


def _finish(
    layout: str, turns: list[dict[str, Any]], used: tuple[str, ...],
    more: Mapping[str, Any] | None = None,
) -> Found:  # fmt: skip
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
    return Found(layout, used, messages, turns[-1]["content"], {**(more or {}), **whole})


def _chat(
    layout: str, turns: list[dict[str, Any]], record: Mapping[str, Any], used: tuple[str, ...]
) -> Found:
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
    return _finish(layout, turns, used)


# ---- pairs of columns ---------------------------------------------------------------------------


def _pair(record: Mapping[str, Any], prompt: str, completion: str) -> Found:
    asked, used = _asked(record, prompt)
    answer = _answer(record, completion)
    if len(answer) > 1:
        raise Unusable(f"{completion} must be text, or one turn")
    return _chat(f"{prompt}/{completion}", [*asked, *answer], record, (*used, completion))


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
    found = []
    for pair in pairs if isinstance(pairs, list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Unusable("history must be pairs of what was asked and answered")
        if not all(isinstance(text, str) for text in pair):
            raise Unusable("history must be pairs of texts")
        found += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return found


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


def _text(record: Mapping[str, Any], name: str) -> Found:
    """Plain text: all of it is trained on, without a prompt and without a template."""
    return Found(TEXT, (name,), (), record[name], {TRAINED_AS: TEXT})


def _named(record: Mapping[str, Any], columns: Columns) -> Found:
    for name in (columns.prompt, columns.completion):
        if name and name not in record:
            raise Unusable(f"it has no column {name!r}; its columns are {_listed(record)}")
    completion = columns.completion or _first(record, COMPLETIONS, "--completion-column")
    answer = _answer(record, completion)
    whole = any(turn["role"] != "assistant" for turn in answer)
    if whole:
        if columns.prompt:
            raise Unusable(f"{completion} holds the prompt too: leave --prompt-column out")
        return _chat(completion, answer, record, (completion,))
    if len(answer) > 1:
        raise Unusable(f"{completion} must be text, or one turn, or a whole conversation")
    prompts = [name for name in PROMPTS if record.get(name) is not None and name != completion]
    if completion == TEXT and not columns.prompt and not prompts:
        return _text(record, TEXT)
    prompt = columns.prompt or _first(record, prompts, "--prompt-column")
    asked, used = _asked(record, prompt)
    return _chat(f"{prompt}/{completion}", [*asked, *answer], record, (*used, completion))


def _first(record: Mapping[str, Any], names: Collection[str], option: str) -> str:
    for name in names:
        if record.get(name) is not None:
            return name
    raise Unusable(f"name one of its columns with {option}: {_listed(record)}")


# ---- answers of a batch -------------------------------------------------------------------------


def _batch(record: Mapping[str, Any], requests: Mapping[str, Any] | None) -> Found:
    """A request's answer; its prompt is in the batch's other file."""
    name = str(record["custom_id"])
    outer = record.get("response") or record.get("result")
    body = outer.get("body", outer.get("message")) if isinstance(outer, Mapping) else None
    status = outer.get("status_code", 200) if isinstance(outer, Mapping) else None
    if not isinstance(body, Mapping) or status != 200:
        raise Unusable(f"request {name} of the batch failed: {record.get('error')}", NO_ANSWER)
    choices = body.get("choices")
    more: dict[str, Any] = {}
    if isinstance(choices, list):
        if len(choices) != 1 or not isinstance(choices[0], Mapping):
            raise Unusable(f"request {name} has {len(choices)} choices; one is read")
        answer = choices[0].get("message")
        more = {k: choices[0][k] for k in ("finish_reason", "logprobs") if choices[0].get(k)}
    elif isinstance(items := body.get("output"), list):
        answer = {"role": "assistant", "content": [
            part for item in items if isinstance(item, Mapping)
            for part in (item.get("content") or [item] if item.get("type") != "reasoning"
                         else _thoughts(item))
        ]}  # fmt: skip
    else:
        answer = body
    turn = _turn(answer)
    if requests is None:
        raise Unusable(
            "a batch's output holds no prompts: give the file of its requests with --requests",
            NO_PROMPT,
        )
    if name not in requests:
        raise Unusable(f"the file of requests has no request {name}", NO_PROMPT)
    return _finish("batch output", [*turns_of(requests[name]), turn], ("custom_id",), more)


def _thoughts(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    parts = [*(item.get("summary") or []), *(item.get("content") or [])]
    return [{"type": "reasoning", TEXT: p.get(TEXT)} for p in parts if isinstance(p, Mapping)]


def request_of(record: Any) -> tuple[str, list[dict[str, Any]]] | None:
    """The id and the turns of one request of a batch; None if it is none."""
    body = record.get("body", record.get("params")) if isinstance(record, Mapping) else None
    if not isinstance(body, Mapping) or "custom_id" not in record:
        return None
    asked = body.get("messages", body.get("input"))
    turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else turns_of(asked)
    system = body.get("system", body.get("instructions"))
    if isinstance(system, str) and system:
        turns = [{"role": "system", "content": system}, *turns]
    return str(record["custom_id"]), turns


# ---- unknown layouts ----------------------------------------------------------------------------


def _listed(record: Collection[str]) -> str:
    names = [str(name) for name in record]
    return ", ".join(names[:30]) + (" ..." if len(names) > 30 else "") or "none"


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
            f"text stands beside {_listed([n for n in names if n != TEXT])}: say which is the "
            "prompt and which the completion, with --prompt-column and --completion-column"
        )
    layouts = [(name,) for name in CHATS[:2]] + list(PAIRS)
    close = {n: difflib.get_close_matches(n, map(str, names), 1, 0.75) for n in sum(layouts, ())}
    scores = [sum((n in names) + bool(close[n]) for n in layout) for layout in layouts]
    nearest = layouts[scores.index(max(scores))]
    if not max(scores):
        return Unusable(f"no known fields; it has {_listed(names)}; {EXPECTED}; {BY_HAND}")
    missing = [n for n in nearest if n not in names]
    return Unusable(
        f"no known fields; it has {_listed(names)}; the nearest format is {'/'.join(nearest)}, "
        f"of which it lacks {' and '.join(missing)}; {BY_HAND}"
    )
