"""Where files of rows lie: here or at any fsspec URL, one or many, packed or not.

A place is a ``Path`` or, for a remote one, its URL. Several files are named by a folder, by a
glob, or as ``part-*.jsonl``; a file's ending says how it is packed (``.gz .bz2 .xz .zst``). What
is written is whole or not there: it is called ``.part`` until its end.
"""

from __future__ import annotations

import bz2
import codecs
import fnmatch
import glob
import gzip
import io
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from vestige.core.access import explained
from vestige.core.types import DataError, MissingExtraError, StoreError

Place = Path | str
PACKED = (".gz", ".bz2", ".xz", ".zst")
PART = ".part"
HUB = "hub:"
ROWS_A_SHARD = 1_000_000
#: What a damaged packed file raises; an ``OSError`` with a number is the disk's or the network's.
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.|$)")
_SPLIT = re.compile(r"(train|training|test|testing|validation|valid|val|dev|eval)(?=[-_.])", re.I)
_BUFFER = 1 << 20
#: Byte-order marks, the longer ones first.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


def locate(where: Path | str) -> Place:
    """A ``Path`` for what is on this machine (also ``file://``), else the URL.

    ``hub:owner/name`` is the hub's data set of that name, as the hub itself keeps it in Parquet:
    its split ``train``, or ``hub:owner/name/CONFIG/SPLIT``.

    Raises:
        DataError: a hub id of another form.
    """
    text = str(where)
    if text.startswith(HUB):
        return _on_the_hub(text.removeprefix(HUB))
    if text.startswith("file://"):
        return _of_file_url(text)
    return text if "://" in text else Path(where)


def _of_file_url(url: str) -> Path:
    path = url.removeprefix("file://")
    path = path.removeprefix("localhost") if path.startswith("localhost/") else path
    plain = Path(unquote(path))
    # Some write a path behind file:// as it is: a file whose own name holds %20.
    return Path(path) if not plain.exists() and Path(path).exists() else plain


def _on_the_hub(name: str) -> str:
    parts = name.split("/")
    if len(parts) not in (2, 4) or not all(re.fullmatch(r"[\w.-]+", part) for part in parts):
        raise DataError(f"{HUB}{name}: write {HUB}owner/name or {HUB}owner/name/CONFIG/SPLIT")
    owner, repository, config, split = parts if len(parts) == 4 else [*parts, "*", "train"]
    return f"hf://datasets/{owner}/{repository}@refs%2Fconvert%2Fparquet/{config}/{split}/*.parquet"


def shown(place: Place) -> str:
    """A place as it may be told: a URL without user, password and query."""
    if isinstance(place, Path):
        return str(place)
    parts = urlsplit(place)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def name_of(place: Place) -> str:
    """The last part of a place's name."""
    if isinstance(place, Path):
        return place.name
    return place.partition("?")[0].rpartition("/")[2]


def endings(place: Place) -> tuple[str, str]:
    """(format, packing) by a place's name: ``.jsonl``, ``.gz``; empty where there is none."""
    *_, last = ["", *PurePosixPath(name_of(place)).suffixes[-1:]]
    if last.lower() not in PACKED:
        return last.lower(), ""
    return PurePosixPath(name_of(place)).with_suffix("").suffix.lower(), last.lower()


# ---- remote places ------------------------------------------------------------------------------


def _remote(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    import fsspec

    try:
        return fsspec.url_to_fs(url)
    except ImportError as error:
        if url.startswith("http"):
            raise MissingExtraError("aiohttp", "remote") from error
        raise DataError(f"{shown(url)} cannot be opened: {error}") from error
    except ValueError as error:
        scheme = urlsplit(url).scheme
        raise DataError(f"{shown(url)}: no file system is known for {scheme}://") from error


def _why(error: BaseException) -> str:
    """A remote error in a word or two. Its own text may hold a signed URL or a key."""
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    statuses = [getattr(e, "status", None) for e in causes]
    statuses += [getattr(getattr(e, "response", None), "status_code", None) for e in causes]
    code = next((status for status in statuses if isinstance(status, int)), None)
    refused = any(isinstance(e, PermissionError) or "redential" in type(e).__name__ for e in causes)
    if refused or code in (401, 403):
        return "permission denied; check the credentials that its file system takes"
    if code == 404 or isinstance(error, FileNotFoundError):
        return "it is not there"
    if isinstance(error, NotImplementedError):
        return "its file system cannot do that"
    return type(error).__name__ + (f" {code}" if code else "")


@contextmanager
def _asking(url: str, what: str, kind: type[DataError] | type[StoreError]) -> Iterator[None]:
    """Turn whatever a file system raises into one clear error."""
    try:
        yield
    except (DataError, StoreError, MissingExtraError):
        raise
    except Exception as error:
        raise kind(f"cannot {what} {shown(url)}: {_why(error)}") from None


class _Watched(io.RawIOBase):
    """A remote file being read, whose failures say what failed."""

    def __init__(self, url: str) -> None:
        fs, path = _remote(url)
        self._url = url
        with _asking(url, "read", DataError):
            self._file = fs.open(path, "rb")

    def readinto(self, buffer: Any) -> int:
        with _asking(self._url, "read", DataError):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        with _asking(self._url, "read", DataError):
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


# ---- reading ------------------------------------------------------------------------------------


def find(where: Path | str, known: Callable[[Place], bool]) -> list[Place]:
    """The files that a name stands for: itself, a folder's or a glob's, in order of their names.

    Args:
        known: whether a file's ending is one that can be read, for the files of a folder.

    Raises:
        DataError: there is none, or a set of shards is not whole.
    """
    place = locate(where)
    found = _find_local(place, known) if isinstance(place, Path) else _find_remote(place, known)
    if not found:
        raise DataError(f"there is no file {shown(place)}")
    if str(where).startswith(HUB):
        _check_one_config(str(where), found)
    if len(found) > 1 or found != [place]:
        _check_shards(found, place)
    return found


def _find_local(place: Path, known: Callable[[Place], bool]) -> list[Place]:
    if place.is_file():
        return [place]
    if place.is_dir():
        return _in_folder(place, known)
    return [Path(p) for p in sorted(glob.glob(str(place), recursive=True)) if os.path.isfile(p)]


def _in_folder(folder: Path, known: Callable[[Place], bool]) -> list[Place]:
    """A folder's files of rows; where it has none itself, those of the one folder and split below
    it that has some, as in a cloned data set of the hub or one that was saved with its splits.

    Raises:
        DataError: there are several below it.
    """
    own: list[Place] = [
        p for p in sorted(folder.iterdir()) if p.is_file() and p.name[0] != "." and known(p)
    ]
    if (folder / "state.json").is_file():  # the datasets library's
        own = [p for p in own if endings(p)[0] == ".arrow"]
    if own:
        return own
    groups: dict[tuple[Path, str], list[Place]] = {}
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file() and known(path):
            split = _SPLIT.match(path.name)
            groups.setdefault((path.parent, split[1] if split else ""), []).append(path)
    if len(groups) > 1:
        several = len({parent for parent, _ in groups}) == 1
        names = [f"{parent / split}*" if several else str(parent) for parent, split in groups]
        names = list(dict.fromkeys(names))
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        raise DataError(
            f"{folder} holds several sets of rows, name one: {', '.join(names[:6])}{more}"
        )
    return [place for group in groups.values() for place in group]


def _find_remote(url: str, known: Callable[[Place], bool]) -> list[Place]:
    folder, pattern = url.endswith("/"), any(c in name_of(url) for c in "*[")
    if not folder and not pattern:
        return [url]
    fs, path = _remote(url)
    with _asking(url, "list", DataError):
        names = sorted(fs.glob(path) if pattern else fs.ls(path, detail=False))
    found = [fs.unstrip_protocol(name) for name in names]
    return found if pattern else [each for each in found if known(each)]


def _check_one_config(name: str, found: Sequence[Place]) -> None:
    """Raises ``DataError`` if files are of several configurations of one data set."""
    configs = sorted({str(each).split("/")[-3] for each in found})
    if len(configs) > 1:
        raise DataError(
            f"{name} has the configurations {', '.join(configs)}; name one, as "
            f"{name}/{configs[0]}/train"
        )


def _check_shards(found: Sequence[Place], place: Place) -> None:
    """Raises ``DataError`` if files called ``-00001-of-00004`` are not all there."""
    sets: dict[str, set[str]] = {}
    for each in found:
        if match := _SHARD.search(name_of(each)):
            stem = _SHARD.sub(f"-*-of-{match[2]}", name_of(each))
            sets.setdefault(stem, set()).add(match[1])
    for stem, numbers in sets.items():
        total = int(stem[stem.index("-of-") + 4 :][:5])
        if len(numbers) != total:
            raise DataError(
                f"{shown(place)}: {len(numbers)} of {total} files {stem} are there; whatever wrote "
                "them was stopped, or is not done"
            )


def size(place: Place) -> int | None:
    """Bytes of a file; None where its file system does not tell."""
    if isinstance(place, Path):
        return place.stat().st_size
    fs, path = _remote(place)
    with _asking(place, "read", DataError):
        return fs.size(path)


def open_raw(place: Place) -> IO[bytes]:
    """A file's bytes as they are, to be read once or, for Parquet, here and there.

    Raises:
        DataError: it cannot be read; says why.
    """
    try:
        if isinstance(place, Path):
            return place.open("rb", buffering=_BUFFER)
        return io.BufferedReader(_Watched(place), _BUFFER)
    except OSError as error:
        why = explained(error) or f"cannot read {shown(place)}: {error.strerror}"
        raise DataError(str(why)) from error


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
                block = self._now.unused_data.lstrip(b"\0") or self._raw.read(_BUFFER)
                if not block:
                    return 0
                self._now = self._make()
            elif self._now.needs_input:
                block = self._raw.read(_BUFFER)
                if not block:
                    raise EOFError("it ends before its end-of-stream marker")
            else:
                block = b""
            data = self._now.decompress(block, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def start_of(stream: IO[bytes], n: int) -> bytes:
    """The first ``n`` bytes of a stream that is read from there on."""
    if not stream.seekable():
        return stream.peek(n)[:n]  # type: ignore[attr-defined]
    start = stream.read(n)  # a peek would copy all that is buffered
    stream.seek(0)
    return start


def as_utf8(stream: IO[bytes]) -> IO[bytes]:
    """The same text in UTF-8, where a byte-order mark says that it is UTF-16 or UTF-32."""
    start = start_of(stream, 4)
    for mark, encoding in MARKS:
        if start.startswith(mark):
            return io.BufferedReader(_Recoded(stream, encoding), _BUFFER)
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
            block = self._raw.read(_BUFFER)
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


def broken(place: Place, error: BaseException) -> str:
    """What is said of a damaged file."""
    packing = endings(place)[1]
    kind = {".gz": "gzip", ".zst": "zstd", "": "text"}.get(packing, packing.removeprefix("."))
    return f"broken {kind}: {error}"


def is_broken(error: BaseException) -> bool:
    """Whether an error means a damaged packed file."""
    # bz2 and zstd say it with an OSError that has no number.
    return isinstance(error, BROKEN) or (isinstance(error, OSError) and error.errno is None)


# ---- whole files --------------------------------------------------------------------------------


def below(url: str) -> list[str]:
    """The files below a folder, as paths inside it; none if there is no such folder.

    Raises:
        StoreError: it cannot be listed; or a name would lead out of the folder.
    """
    fs, root = _remote(url)
    with _asking(url, "list", StoreError):
        found = [name[len(root.rstrip("/")) + 1 :] for name in sorted(fs.find(root))]
    if any(".." in name.split("/") or name.startswith("/") for name in found):
        raise StoreError(f"{shown(url)} holds a name that leads out of it")
    return found


def content(url: str) -> bytes | None:
    """A file's bytes; None if it is not there. Raises ``StoreError``."""
    fs, path = _remote(url)
    with _asking(url, "read", StoreError):
        return fs.cat_file(path) if fs.exists(path) else None


def fetch(url: str, target: Path) -> None:
    """Copy a file to this machine. Raises ``StoreError``."""
    fs, path = _remote(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _asking(url, "read", StoreError):
        fs.get_file(path, str(target))


def send(source: Path, url: str) -> None:
    """Copy a file of this machine to ``url``, over what is there. Raises ``StoreError``."""
    fs, path = _remote(url)
    with _asking(url, "write", StoreError):
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.put_file(str(source), path)


def remove(url: str) -> None:
    """Remove a file, if it is there. Raises ``StoreError``."""
    fs, path = _remote(url)
    with _asking(url, "remove", StoreError):
        if fs.exists(path):
            fs.rm_file(path)


# ---- writing ------------------------------------------------------------------------------------


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
        fs, path = _remote(self.place)
        with _asking(self.place, "write", StoreError):
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
                raw: Any = part.open("wb", buffering=_BUFFER)
            else:
                fs, path = _remote(part)
                raw = fs.open(path, "wb")
            self._file = _Packer(raw, endings(final)[1])
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
            why = _why(error) if remote else getattr(error, "strerror", None) or str(error)
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
            _move(part, final)
        self._parts = []
        made = {_canonical(final) for final in finals}
        for old in self._old:
            if _canonical(old) not in made:
                _remove(old)

    def _discard(self) -> None:
        self._file.abandon()
        for part in self._parts:
            _remove(part)


class _Packer:
    """A file that packs what is written to it."""

    def __init__(self, raw: Any, packing: str) -> None:
        self._raw = self._top = raw
        if packing == ".zst":
            import pyarrow as pa

            stream = pa.CompressedOutputStream(pa.PythonFile(raw, mode="w"), "zstd")
            self._top = io.BufferedWriter(stream, _BUFFER)  # type: ignore[arg-type]
        elif packing == ".gz":
            # No time and no name in it: the same rows are the same file.
            packer = gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0)
            self._top = io.BufferedWriter(packer, _BUFFER)  # type: ignore[arg-type]
        elif packing:
            packer = {".bz2": bz2.open, ".xz": lzma.open}[packing](raw, "wb")
            self._top = io.BufferedWriter(packer, _BUFFER)  # type: ignore[arg-type]
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


def _move(part: Place, final: Place) -> None:
    if isinstance(part, Path):
        os.replace(part, final)
        return
    fs, source = _remote(part)
    fs.mv(source, _remote(str(final))[1])


def _remove(place: Place) -> None:
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
        return
    fs, path = _remote(place)
    try:
        fs.rm(path)
    except Exception:  # it was never there, or the network is gone
        return


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
    mine, theirs = _canonical(one), _canonical(other)
    return mine == theirs or ("*" in theirs and fnmatch.fnmatchcase(mine, theirs))


def _canonical(place: Place) -> str:
    """A place by the one name that its file system has for it."""
    if isinstance(place, Path):
        return str(place.resolve())
    fs, path = _remote(place)
    return fs.unstrip_protocol(path)
