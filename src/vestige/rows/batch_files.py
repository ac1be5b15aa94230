"""The two files of a service's batch: the requests and, by ``custom_id``, the answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vestige.core.jsonl import lines
from vestige.core.types import DataError
from vestige.rows.encodings import as_utf8
from vestige.rows.file_kinds import is_known
from vestige.rows.file_sets import find
from vestige.rows.layouts import NO_ANSWER, NO_PROMPT, TEXT, ParsedRecord, Unusable
from vestige.rows.open_files import open_raw
from vestige.rows.packing import unpacked
from vestige.rows.places import endings, shown
from vestige.rows.turns import finished_record, turn_of, turns_of


def batch_record(record: Mapping[str, Any], requests: Mapping[str, Any] | None) -> ParsedRecord:
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
        parts = [part for item in items if isinstance(item, Mapping) for part in _parts_of(item)]
        answer = {"role": "assistant", "content": parts}
    else:
        answer = body
    turn = turn_of(answer)
    if requests is None:
        raise Unusable(
            "a batch's output holds no prompts: give the file of its requests with --requests",
            NO_PROMPT,
        )
    if name not in requests:
        raise Unusable(f"the file of requests has no request {name}", NO_PROMPT)
    return finished_record("batch output", [*turns_of(requests[name]), turn], ("custom_id",), more)


def _parts_of(item: Mapping[str, Any]) -> Sequence[Any]:
    """The parts of content of one item of a response; those of a reasoning item are reasoning."""
    if item.get("type") != "reasoning":
        return item.get("content") or [item]
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


def read_requests(path: Path | str) -> dict[str, Any]:
    """The turns of a batch's requests, by ``custom_id``.

    Raises:
        DataError: it holds none, or one that is no chat.
    """
    turns_by_id: dict[str, Any] = {}
    for place in find(path, is_known):
        with open_raw(place) as raw:
            stream = as_utf8(unpacked(raw, endings(place)[1]))
            for number, line in enumerate(lines(stream), 1):
                try:
                    request = request_of(json.loads(line)) if line.strip() else None
                except (ValueError, RecursionError) as error:
                    raise DataError(f"--requests {shown(place)}, line {number}: {error}") from error
                if request is not None:
                    custom_id, turns = request
                    turns_by_id[custom_id] = turns
    if not turns_by_id:
        raise DataError(
            f"--requests {path} holds no requests of a batch: lines with custom_id and body"
        )
    return turns_by_id
