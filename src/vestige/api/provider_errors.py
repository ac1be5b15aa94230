"""What services answer besides an answer: errors, refusals, replies in other forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def status_of(error: BaseException) -> int:
    """The HTTP status of an error, 0 where there is none."""
    for name in ("status_code", "code"):
        if isinstance(value := getattr(error, name, None), int):
            return value
    return 0


def refused(error: BaseException) -> bool:
    """Whether an attempt was turned away, or never sent, so that nobody bills it."""
    status = status_of(error)
    if (400 <= status < 500 and status != 408) or status in (500, 503):
        return True
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in ("ConnectError", "ConnectTimeout"):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def readable(ask: Callable[..., Any]) -> Callable[..., Any]:
    """Replies of OpenAI-compatible services as Inspect can read them: text in parts is joined, and
    an error that came with status 200 is raised in its own words."""

    async def generate(*args: Any, **kwargs: Any) -> Any:
        reply = await ask(*args, **kwargs)
        if getattr(reply, "choices", ()) is None:
            error = getattr(reply, "error", None) or "no choices"
            text = error.get("message", error) if isinstance(error, dict) else error
            raise ValueError(f"the service answered with {text}")
        for choice in getattr(reply, "choices", ()):
            content = getattr(choice.message, "content", None)
            if isinstance(content, list):
                texts = [p.get("text") for p in content if isinstance(p, dict)]
                choice.message.content = "".join(t for t in texts if isinstance(t, str))
        return reply

    return generate
