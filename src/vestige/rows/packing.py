"""Packed files (``.gz .bz2 .xz .zst``): their content read and written; which are damaged."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any

from vestige.rows.open_files import BUFFER
from vestige.rows.places import Place, endings

#: What a damaged packed file raises; an ``OSError`` with a number is the disk's or the network's.
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)


def unpacked(raw: IO[bytes], packing: str) -> IO[bytes]:
    """The bytes inside a packed file, line by line where wanted."""
    if packing == ".zst":
        import pyarrow as pa

        stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
        # A small buffer: what the last reading held is lost where the file is damaged.
        return io.BufferedReader(stream)  # type: ignore[arg-type]
    if packing == ".gz":
        return gzip.open(raw, "rb")  # type: ignore[return-value]
    makers: dict[str, Any] = {".bz2": bz2.BZ2Decompressor, ".xz": lzma.LZMADecompressor}
    return io.BufferedReader(_Streams(raw, makers[packing])) if packing else raw


class _Streams(io.RawIOBase):
    """Packed streams one after the other. ``bz2.open`` and ``lzma.open`` take a second one that
    is damaged for the file's end; here it is an error."""

    def __init__(self, raw: IO[bytes], make: Callable[[], Any]) -> None:
        self._raw, self._make, self._now = raw, make, make()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            if self._now.eof:
                # Null bytes between two streams are padding.
                block = self._now.unused_data.lstrip(b"\0") or self._raw.read(BUFFER)
                if not block:
                    return 0
                self._now = self._make()
            elif self._now.needs_input:
                block = self._raw.read(BUFFER)
                if not block:
                    raise EOFError("it ends before its end-of-stream marker")
            else:
                block = b""
            data = self._now.decompress(block, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def broken(place: Place, error: BaseException) -> str:
    """What is said of a damaged file."""
    packing = endings(place)[1]
    kind = {".gz": "gzip", ".zst": "zstd", "": "text"}.get(packing, packing.removeprefix("."))
    return f"broken {kind}: {error}"


def is_broken(error: BaseException) -> bool:
    """Whether an error means a damaged packed file."""
    # bz2 and zstd say it with an OSError that has no number.
    return isinstance(error, BROKEN) or (isinstance(error, OSError) and error.errno is None)


class Packer:
    """A file that packs what is written to it."""

    def __init__(self, raw: Any, packing: str) -> None:
        self._raw = self._top = raw
        if packing == ".zst":
            import pyarrow as pa

            stream = pa.CompressedOutputStream(pa.PythonFile(raw, mode="w"), "zstd")
            self._top = io.BufferedWriter(stream, BUFFER)  # type: ignore[arg-type]
        elif packing == ".gz":
            # No time and no name in it: the same rows are the same file.
            packer = gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0)
            self._top = io.BufferedWriter(packer, BUFFER)  # type: ignore[arg-type]
        elif packing:
            packer = {".bz2": bz2.open, ".xz": lzma.open}[packing](raw, "wb")
            self._top = io.BufferedWriter(packer, BUFFER)  # type: ignore[arg-type]
        self.write = self._top.write

    def close(self) -> None:
        self._top.close()
        if not self._raw.closed:  # gzip and its like leave it open
            self._raw.close()

    def abandon(self) -> None:
        """Let go of the file, whatever it still holds."""
        for file in (self._top, self._raw):
            try:
                file.close()
            except Exception:  # the disk is full, or the network is gone: said already
                continue
