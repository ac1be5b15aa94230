"""What requests would take, asking nobody."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vestige.api.ledger import Ledger
from vestige.api.model import ApiModel
from vestige.api.requests import Request
from vestige.api.settings import Limits, Tokens


def price(name: str, requests: Iterable[Request], path: Path) -> dict[str, Any]:
    """The requests that the ledger at ``path`` has no answer to: how many, and their tokens and
    dollars, about and at most; ``rows`` are the answers wanted in all.

    Raises:
        ConfigError: a limit in dollars has no prices.
    """
    limits = Limits.from_environment()
    known = Ledger(path, limits) if path.exists() else None
    model = ApiModel(name, known) if known else None
    about = most = Tokens()
    rows = asked = 0
    for request in requests:
        rows += request.choices
        if model is None or model.new([request]):
            asked, about, most = asked + 1, about + request.about, most + request.most
    spent = known.spent if known else Tokens()
    return {
        "rows": rows,
        "requests": asked,
        "tokens_about": about.total,
        "tokens_at_most": most.total,
        "dollars_about": limits.cost(about),
        "dollars_at_most": limits.cost(most),
        "tokens_spent": spent.total,
        "limits_hold_it": not limits.passed(spent + most),
    }
