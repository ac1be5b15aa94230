"""A check: a function that says what it saw, or raises ``Wrong`` with what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from vestige.core.types import VestigeError

Subject = TypeVar("Subject")
Status = Literal["ok", "warning", "wrong", "skipped"]


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


def done(name: str, check: Callable[[Subject], str], subject: Subject) -> Check:
    """What a check found; none of its errors goes further."""
    try:
        return Check(name, "ok", check(subject))
    except Wrong as found:
        return Check(name, found.status, str(found), found.fix)
    except VestigeError as error:
        return Check(name, "wrong", str(error))
    except Exception as error:
        seen = f"{type(error).__name__}: {error}"
        return Check(name, "wrong", seen, "install it again: pip install --force-reinstall vestige")
