"""Log-probabilities of a row's tokens, in the forms in which services and engines write them.

- chat: ``{"content": [{"token": "4", "logprob": -0.1, "top_logprobs": [{"token": ...}]}]}``, or the
  list alone;
- completions: ``{"tokens": [...], "token_logprobs": [...], "top_logprobs": [{"4": -0.1}, ...]}``;
- vLLM's engine: ``[{"19": {"logprob": -0.1, "rank": 1, "decoded_token": "4"}, ...}, ...]``, one
  object of token ids for each token;

beside a row, inside its last turn, or in a service's whole answer. A token may be named by its id,
``token_id:19``. NaN, null, infinities and -9999, which services write for a token that is not among
the likeliest, are values that are not there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

ABSENT = -9999.0  # nats; what services write for a token that is not among the likeliest
ROUNDING = 1e-3  # nats above zero that rounding may make
NO_VALUE = "no value (null or NaN)"
_BY_ID = re.compile(r"token_id:(\d+)")

Token = str | int  # as it is spelt, or its id


@dataclass(frozen=True, slots=True)
class Position:
    """What is known of one token.

    Attributes:
        token: the token that was drawn; None where only the choices are given, which hold it.
        choices: log-probabilities, nats, of every choice that has a usable one.
        reason: why there are none; empty if there are some.
    """

    token: Token | None
    choices: dict[Token, float] = field(default_factory=dict)
    reason: str = ""


def value(given: Any) -> tuple[float, str]:
    """A log-probability, or NaN and why it cannot be used."""
    try:
        number = math.nan if given is None else float(given)
    except (TypeError, ValueError):
        return math.nan, "not a number"
    if math.isnan(number):
        return math.nan, NO_VALUE
    if math.isinf(number):
        return math.nan, "infinite"
    if number <= ABSENT:
        return math.nan, f"{ABSENT:.0f}, which stands for no value"
    return (min(number, 0.0), "") if number <= ROUNDING else (math.nan, "above zero")


def carried(meta: Mapping[str, Any]) -> list[Any]:
    """What a row's other fields hold of log-probabilities, in any form; nothing where none do."""
    return [values for values in _places(meta) if values is not None]


def _places(meta: Mapping[str, Any]) -> Iterator[Any]:
    yield meta.get("logprobs")
    for turns in meta.values():
        if isinstance(turns, list) and turns and isinstance(turns[-1], Mapping):
            yield turns[-1].get("logprobs")  # of the last turn
    for name in ("response", "body", "message"):
        if isinstance(inner := meta.get(name), Mapping):
            yield from _places(inner)
    for choice in _list(meta.get("choices")):
        if isinstance(choice, Mapping):
            yield from _places(choice)


def positions(values: Any) -> list[Position] | None:
    """Every token's choices; None if the form is not known."""
    if isinstance(values, str):
        try:
            values = json.loads(values)
        except ValueError:
            return None
    if isinstance(values, Mapping):
        if isinstance(values.get("tokens"), list):
            return _completions(values)
        values = values.get("content")
    if not isinstance(values, list):
        return None
    if any(isinstance(entry, Mapping) and "token" in entry for entry in values):
        return [_chat(entry) for entry in values]
    if all(entry is None or _pairs(entry) is not None for entry in values):
        return [_offline(entry) for entry in values]
    return None


def _chat(entry: Any) -> Position:
    if not isinstance(entry, Mapping):
        return Position(None, reason=NO_VALUE)
    own = _token(entry.get("token"))
    top = entry.get("top_logprobs")
    if isinstance(top, Mapping):
        pairs = list(top.items())
    else:
        pairs = [
            (one.get("token"), one.get("logprob")) for one in _list(top) if isinstance(one, Mapping)
        ]
    return _position(own, pairs, entry.get("logprob"))


def _completions(values: Mapping[str, Any]) -> list[Position]:
    own, top = _list(values.get("token_logprobs")), _list(values.get("top_logprobs"))
    return [
        _position(
            _token(token),
            (_pairs(top[i]) if i < len(top) else None) or [],
            own[i] if i < len(own) else None,
        )
        for i, token in enumerate(values["tokens"])
    ]


def _offline(entry: Any) -> Position:
    # A table of all ids, as Parquet makes of such objects, has nothing under most of them.
    pairs = [(key, one) for key, one in _pairs(entry) or [] if one is not None]
    values = [
        (int(key), one.get("logprob") if isinstance(one, Mapping) else one) for key, one in pairs
    ]
    return _position(None, values, None)


def _position(own: Token | None, pairs: list[tuple[Any, Any]], its: Any) -> Position:
    choices: dict[Token, float] = {}
    reasons = []
    if own is not None and not any(_token(key) == own for key, _ in pairs):
        pairs = [*pairs, (own, its)]
    for key, entry in pairs:
        number, reason = value(entry)
        if reason:
            reasons.append(reason)
        elif (token := _token(key)) is not None:
            choices[token] = number
    return Position(own, choices, "" if choices else (reasons or [NO_VALUE])[0])


def _token(name: Any) -> Token | None:
    if isinstance(name, str) and (by_id := _BY_ID.fullmatch(name)):
        return int(by_id[1])
    return name if isinstance(name, str | int) and not isinstance(name, bool) else None


def _pairs(entry: Any) -> list[tuple[Any, Any]] | None:
    """The items of an object, or of a Parquet map, whose keys are token ids or texts."""
    if isinstance(entry, Mapping):
        return list(entry.items())
    if isinstance(entry, list) and all(isinstance(p, tuple) and len(p) == 2 for p in entry):
        return entry
    return None


def _list(entries: Any) -> list[Any]:
    return entries if isinstance(entries, list) else []
