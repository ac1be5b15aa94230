"""A check: a function that says what it saw, or raises ``Wrong`` with what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from vestige.core.types import VestigeError

Subject = TypeVar("Subject")
Status = Literal["ok", "warning", "wrong", "skipped"]
AGAIN = "the code differs from this release: install it again"


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, how it stands, what was seen, and how to mend it."""

    name: str
    status: Status
    seen: str
    fix: str = ""


class Wrong(VestigeError):
    """A check that failed, with what to do."""

    status: Status = "wrong"

    def __init__(self, seen: str, fix: str = "") -> None:
        super().__init__(seen)
        self.fix = fix


class Doubtful(Wrong):
    """Nothing is broken, but it will get in the way."""

    status = "warning"


class Skipped(Wrong):
    """What cannot be looked at, or is not installed."""

    status = "skipped"


def expect(value: Any, wanted: Any, name: str, fix: str) -> None:
    """Raises ``Wrong`` unless a value is the wanted one."""
    if value != wanted:
        raise Wrong(f"{name} is {value!r}, and should be {wanted!r}", fix)


def done(name: str, check: Callable[[Subject], str], subject: Subject) -> Check:
    """What a check found; none of its errors goes further."""
    try:
        return Check(name, "ok", check(subject))
    except Wrong as wrong:
        return Check(name, wrong.status, str(wrong), wrong.fix)
    except VestigeError as error:
        return Check(name, "wrong", str(error))
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        return Check(
            name, "wrong", message, "install it again: pip install --force-reinstall vestige"
        )
