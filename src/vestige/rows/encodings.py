"""Text in UTF-16 or UTF-32, told by its byte-order mark, read as UTF-8."""

from __future__ import annotations

import codecs
import io
from typing import IO, Any

from vestige.rows.open_files import BUFFER, start_of

#: Byte-order marks, the longer ones first.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


def as_utf8(stream: IO[bytes]) -> IO[bytes]:
    """The same text in UTF-8, where a byte-order mark says that it is UTF-16 or UTF-32."""
    start = start_of(stream, 4)
    for mark, encoding in MARKS:
        if start.startswith(mark):
            return io.BufferedReader(_Recoded(stream, encoding), BUFFER)
    return stream


class _Recoded(io.RawIOBase):
    """Text of another encoding as UTF-8; a lone surrogate is no UTF-8 there either."""

    def __init__(self, raw: IO[bytes], encoding: str) -> None:
        self._raw, self._encoding, self._left = raw, encoding, b""
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            block = self._raw.read(BUFFER)
            try:
                text = self._decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise EOFError(f"not {self._encoding.upper()}: {error.reason}") from error
            self._left = text.encode("utf-8", "surrogatepass")
            if not block and not self._left:
                return 0
        data, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)
