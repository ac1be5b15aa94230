"""Files written whole or not at all: they are called ``.part`` until their end."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from vestige.core.access import explained
from vestige.core.types import DataError, MissingExtraError, StoreError
from vestige.rows.open_files import BUFFER
from vestige.rows.packing import Packer
from vestige.rows.places import Place, endings, locate, name_of, shown
from vestige.rows.remote import (
    canonical,
    error_in_words,
    explained_errors,
    file_system,
    move,
    remove_place,
)

PART = ".part"
ROWS_A_SHARD = 1_000_000  # chosen


class Output:
    """One file, or the shards of ``name-*``, written as lines: whole at the end, or not there.

    Use it as a context manager; ``write`` takes lines (bytes with their newline). Shards are
    renamed to ``name-00000-of-00003`` when all are written.
    """

    def __init__(
        self, where: Path | str, *, overwrite: bool = False, rows_a_shard: int = ROWS_A_SHARD
    ) -> None:
        """Raises ``StoreError`` if it exists and ``overwrite`` is off, or its folder is missing."""
        self.place = locate(where)
        self.name = shown(self.place)
        self._sharded = "*" in name_of(self.place)
        self._rows_a_shard, self._in_shard = rows_a_shard, 0
        self._parts: list[Place] = []
        self._file: Any = None
        self._old = self._existing()
        if self._old and not overwrite:
            raise StoreError(
                f"{shown(self._old[0])} exists; pass --overwrite to replace it, or name another "
                "file"
            )

    def _existing(self) -> list[Place]:
        if isinstance(self.place, Path):
            if self._sharded:
                return [Path(p) for p in sorted(glob.glob(str(self.place)))]
            return [self.place] if self.place.exists() else []
        fs, path = file_system(self.place)
        with explained_errors(self.place, "write", StoreError):
            if self._sharded:
                return [fs.unstrip_protocol(name) for name in sorted(fs.glob(path))]
            return [self.place] if fs.exists(path) else []

    def __enter__(self) -> Output:
        self._open()
        return self

    def _named(self, text: str) -> Place:
        """The place with the star replaced."""
        if not self._sharded:
            return self.place
        made = name_of(self.place).replace("*", text)
        if isinstance(self.place, Path):
            return self.place.with_name(made)
        return self.place[: self.place.rindex("/") + 1] + made

    def _open(self) -> None:
        final = self._named(f"{len(self._parts):05d}")
        part = final.with_name(final.name + PART) if isinstance(final, Path) else final + PART
        self._parts.append(part)
        with self._explained():
            if isinstance(part, Path):
                raw: Any = part.open("wb", buffering=BUFFER)
            else:
                fs, path = file_system(part)
                raw = fs.open(path, "wb")
            self._file = Packer(raw, endings(final)[1])
        self._in_shard = 0

    def write(self, line: bytes) -> None:
        """Add one line."""
        if self._sharded and self._in_shard == self._rows_a_shard:
            with self._explained():
                self._file.close()
            self._open()
        self._in_shard += 1
        try:
            self._file.write(line)
        except Exception as error:
            with self._explained():
                raise error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (StoreError, MissingExtraError, DataError):
            raise
        except Exception as error:
            remote = not isinstance(self.place, Path)
            if not remote and (known := explained(error, self.name)):
                raise known from error
            why = (
                error_in_words(error) if remote else getattr(error, "strerror", None) or str(error)
            )
            raise StoreError(f"cannot write {self.name}: {why}") from (None if remote else error)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            with self._explained():
                self._file.close()
                if kind is None:
                    self._publish()
                    return
        except StoreError:
            if kind is None:
                raise
        finally:
            if self._parts:
                self._discard()

    def _publish(self) -> None:
        count = f"-of-{len(self._parts):05d}"
        finals = [self._named(f"{i:05d}{count}") for i in range(len(self._parts))]
        for part, final in zip(self._parts, finals, strict=True):
            move(part, final)
        self._parts = []
        made = {canonical(final) for final in finals}
        for old in self._old:
            if canonical(old) not in made:
                remove_place(old)

    def _discard(self) -> None:
        self._file.abandon()
        for part in self._parts:
            remove_place(part)


@contextmanager
def claimed(*outputs: Output) -> Iterator[list[str]]:
    """Keep other processes from writing the same files; what stopped ones have left goes.

    Yields:
        The unfinished files that were removed, to be told.

    Raises:
        StoreError: another process is writing one of them.
    """
    from filelock import FileLock, Timeout

    left: list[str] = []
    with ExitStack() as stack:
        for place in (output.place for output in outputs):
            if not isinstance(place, Path):
                continue
            path = place.with_name(f"{place.name.replace('*', 'all')}.lock")
            if not place.parent.is_dir():
                raise StoreError(f"cannot write {place}: there is no folder {place.parent}")
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise StoreError(
                    f"another process is writing {place}; wait for it, or name another file"
                ) from None
            except OSError as error:
                raise explained(error) or StoreError(
                    f"cannot write {place}: {error.strerror}"
                ) from error
            stack.callback(lambda lock=lock, path=path: (path.unlink(True), lock.release()))
            for part in place.parent.glob(glob.escape(place.name).replace("[*]", "*") + PART):
                left.append(str(part))
                part.unlink()
        yield left


def same_place(one: Place, other: Place) -> bool:
    """Whether two names mean one file, or ``one`` is a shard of ``other``."""
    if isinstance(one, Path) != isinstance(other, Path):
        return False
    mine, theirs = canonical(one), canonical(other)
    return mine == theirs or ("*" in theirs and fnmatch.fnmatchcase(mine, theirs))
