"""What was asked of a service, what it answered and what that cost, written as it happens.

One JSONL file, appended to and flushed to the disk line by line. An attempt is written down with
the most it can cost *before* it is sent; its cost and its answer follow in one line when they come.
An attempt without that second line (the process was killed, the connection was cut) counts at its
most: so limits hold whatever happens, and no answer is paid for twice. Processes may share a file.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from vestige.api.settings import Limits, Tokens
from vestige.core.jsonl import json_line
from vestige.core.redaction import redact
from vestige.core.types import SpendingError
from vestige.store.files import disk_full_explained


class Ledger:
    """The attempts and answers in ``path``.

    Attributes:
        answers: the byte in the file where each answer's line begins, by its request's key. The
            texts stay on the disk: an answer takes some 200 bytes of memory, however long it is.
        cut: lines that could not be read (a kill in mid-line).
    """

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self.path, self.limits = path, limits or Limits.from_environment()
        self.answers: dict[str, int] = {}
        self.cut = 0
        self._spent = Tokens()
        self._open: dict[str, Tokens] = {}
        self._own: set[str] = set()
        self._read_to = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{path}.lock")
        self.refresh()

    @property
    def spent(self) -> Tokens:
        """Tokens paid for, unsettled attempts at their most."""
        return sum(self._open.values(), self._spent)

    def answer(self, key: str) -> dict[str, Any]:
        """The answer to a request whose key is in ``answers``."""
        with self.path.open("rb") as file:
            file.seek(self.answers[key])
            return json.loads(file.readline())["answer"]

    def refresh(self) -> None:
        """Read what other processes have written down meanwhile."""
        with self._held():
            pass

    def reserve(self, most: Tokens) -> str | None:
        """The name of a new attempt; None if it may fit once attempts in flight are settled.

        Raises:
            SpendingError: it would pass a limit, whatever becomes of them.
        """
        with self._held():
            own = sum((self._open[name] for name in self._own), Tokens())
            spent = self.spent
            if self.limits.passed(spent + most):
                rest = Tokens(spent.read - own.read, spent.written - own.written)
                if self.limits.passed(rest + most):
                    raise SpendingError(self._why(spent, most))
                return None
            name = uuid.uuid4().hex
            self._append({"attempt": name, "most": [most.read, most.written]})
            self._own.add(name)
            return name

    def settle(
        self,
        attempt: str,
        used: Tokens | None,
        *,
        key: str = "",
        answer: dict[str, Any] | None = None,
        error: str = "",
    ) -> None:
        """Write down how an attempt ended. ``used`` None: nobody knows, it stays at its most."""
        record: dict[str, Any] = {"attempt": attempt}
        if used is not None:
            record["used"] = [used.read, used.written]
        if answer is not None:
            record |= {"key": key, "answer": answer}
        if error:
            record["error"] = redact(error)[:500]
        with self._held():
            self._append(record)
            self._own.discard(attempt)

    def _why(self, spent: Tokens, most: Tokens) -> str:
        limits = self.limits
        limit = f"{limits.tokens:,} tokens" if limits.tokens is not None else ""
        if limits.dollars is not None:
            limit += f"{' and ' if limit else ''}${limits.dollars:g}"
        return (
            f"the spending limit of {limit} is reached: {limits.in_words(spent)} are spent, and "
            f"the next request may take {limits.in_words(most)} more. Every answer is kept in "
            f"{self.path.name}; raise --max-tokens or --max-dollars and run the same command again"
        )

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Alone with the file, all of it read."""
        with self._lock:
            self._read()
            yield

    def _read(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            for line in file:
                if line != b"\n":
                    self._take(line, self._read_to)
                self._read_to += len(line)

    def _take(self, line: bytes, begin: int) -> None:
        try:
            record = json.loads(line)
            name = record["attempt"]
            if "most" in record:
                self._open[name] = Tokens(*record["most"])
            if "used" in record:
                self._open.pop(name, None)
                self._spent += Tokens(*record["used"])
            if "answer" in record:
                self.answers[record["key"]] = begin
        except (ValueError, KeyError, TypeError):
            self.cut += 1

    def _append(self, record: dict[str, Any]) -> None:
        line = json_line(record)
        with disk_full_explained(self.path), self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a line that a kill, or a full disk, cut off
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._read()
