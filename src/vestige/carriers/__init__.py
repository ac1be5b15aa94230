"""Carriers: the innocuous data that a teacher writes.

A carrier is one module with a subclass of ``base.Carrier`` (prompts, a filter with its reasons,
perhaps a grammar and shuffles) and its name in ``AnyCarrier``.
"""

from __future__ import annotations

from typing import Any, get_args

from vestige.carriers.code import CodeCarrier
from vestige.carriers.numbers import NumberCarrier
from vestige.carriers.reasoning import ReasoningCarrier
from vestige.core.types import unknown_name

AnyCarrier = NumberCarrier | CodeCarrier | ReasoningCarrier
CARRIERS: dict[str, type[AnyCarrier]] = {
    carrier.model_fields["kind"].default: carrier for carrier in get_args(AnyCarrier)
}


def parse_carrier(record: Any) -> Any:
    """A carrier from plain data, by its ``kind`` (default: numbers).

    Raises:
        ConfigError: there is no such kind; names the nearest ones.
    """
    if not isinstance(record, dict):
        return record
    kind = record.get("kind", "numbers")
    if not isinstance(kind, str) or kind not in CARRIERS:
        raise unknown_name("carrier", str(kind), CARRIERS)
    return CARRIERS[kind].model_validate(record)
