"""The bytes of a file here or at a URL, as they are."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any

from vestige.core.access import explained
from vestige.core.types import DataError
from vestige.rows.places import Place, shown
from vestige.rows.remote import explained_errors, file_system

BUFFER = 1 << 20  # bytes read or written at a time; chosen


class _Watched(io.RawIOBase):
    """A remote file being read, whose failures say what failed."""

    def __init__(self, url: str) -> None:
        fs, path = file_system(url)
        self._url = url
        with explained_errors(url, "read", DataError):
            self._file = fs.open(path, "rb")

    def readinto(self, buffer: Any) -> int:
        with explained_errors(self._url, "read", DataError):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        with explained_errors(self._url, "read", DataError):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def size(place: Place) -> int | None:
    """Bytes of a file; None where its file system does not tell."""
    if isinstance(place, Path):
        return place.stat().st_size
    fs, path = file_system(place)
    with explained_errors(place, "read", DataError):
        return fs.size(path)


def open_raw(place: Place) -> IO[bytes]:
    """A file's bytes as they are, to be read once or, for Parquet, here and there.

    Raises:
        DataError: it cannot be read; says why.
    """
    try:
        if isinstance(place, Path):
            return place.open("rb", buffering=BUFFER)
        return io.BufferedReader(_Watched(place), BUFFER)
    except OSError as error:
        why = explained(error) or f"cannot read {shown(place)}: {error.strerror}"
        raise DataError(str(why)) from error


def start_of(stream: IO[bytes], n: int) -> bytes:
    """The first ``n`` bytes of a stream that is read from there on."""
    if not stream.seekable():
        return stream.peek(n)[:n]  # type: ignore[attr-defined]
    start = stream.read(n)  # a peek would copy all that is buffered
    stream.seek(0)
    return start
