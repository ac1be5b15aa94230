"""A request, a recipe and a service for the tests of API models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vestige.api.ledger import Ledger
from vestige.api.model import ApiModel
from vestige.api.requests import Reply, Request
from vestige.core.types import Message

pytest.importorskip("inspect_ai", reason="needs the extra api")


def ask(text: str = "hello", **changes: Any) -> Request:
    given: dict[str, Any] = {"choices": 4, "top": 3} | changes
    return Request((Message("system", "be brief"), Message("user", text)), 16, **given)


def one(folder: Path, request: Request, **options: Any) -> tuple[Reply, Ledger]:
    ledger = Ledger(folder / "ledger.jsonl")
    ((_, reply),) = ApiModel("api:m", ledger, **options).answers([request])
    return reply, ledger
