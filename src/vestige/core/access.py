"""Files and folders that cannot be read or written: one line with the path and the remedy.

Every ``OSError`` that names a file means the same wherever it comes up: another user's folder, a
file system that is read-only, a full disk. ``explained`` is asked once, where an error leaves a
command or a worker process.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import platformdirs

from vestige.core.types import ConfigError, StoreError

FULL = (errno.ENOSPC, errno.EDQUOT)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
#: Others of which the system's own words and the path say all that there is to say.
PLAIN = (
    errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EMFILE, errno.ENFILE, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EBUSY, errno.ENOTEMPTY,
    errno.ETXTBSY, errno.ENXIO, errno.ENODEV, errno.EXDEV,
)  # fmt: skip
_BY_TEXT = re.compile(r'\(os error (\d+)\) at path "(.*)"')
_MISSING = re.compile(r"No such file or directory: (.*)")
LITTLE = 1 << 20  # bytes free: a disk with fewer is the one that is full
FREE = "free space and run the same command again: finished stages are kept"


def cache_dir() -> Path:
    """Where weights are kept: ``VESTIGE_CACHE`` if set, else the user's cache folder.

    Raises:
        ConfigError: there is neither.
    """
    chosen = os.environ.get("VESTIGE_CACHE")
    usual = platformdirs.user_cache_dir("vestige")
    try:
        folder = Path(chosen or usual).expanduser()
    except RuntimeError:  # a ~ of nobody's
        folder = Path("~")
    if folder.parts[:1] == ("~",):
        raise ConfigError(
            "this user has no home folder to keep models in; set VESTIGE_CACHE to a folder of "
            "yours, or HOME"
        )
    return folder


def explained(error: BaseException, where: str = "") -> StoreError | None:
    """What an error, or one that it was raised from, says of a file; None if it is about none.

    Args:
        where: what was to be written, where that is known: not every error names it.
    """
    if any(map(is_full, causes(error))):
        named = (_place(cause)[1] for cause in causes(error))
        path = where or next(filter(None, named), "") or _full_folder()
        return StoreError(f"disk is full{f' while writing {path}' if path else ''}; {FREE}")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, StoreError):
            return cause
        number, path = _place(cause)
        if path and number in DENIED:
            return StoreError(_denied(Path(path), number == errno.EROFS))
        if path and number in PLAIN:
            action = f"write {where}" if where else f"use {path}"
            return StoreError(f"cannot {action}: {os.strerror(number).lower()}")
        cause = cause.__cause__
    return None


def causes(error: BaseException) -> list[BaseException]:
    """An error and those that led to it, the last one first."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return chain


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk, or a quota, is full; safetensors says it as text."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return "No space left on device" in str(error)


def _place(error: BaseException) -> tuple[int, str]:
    """(number, path) of an error about a file; 0 and nothing where it is none."""
    path = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if isinstance(error, OSError) and error.errno:
        return error.errno, os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
    # safetensors says it as text, and takes a file that it may not read for one that is not there.
    if match := _BY_TEXT.search(str(error)):
        return int(match[1]), str(Path(match[2]).parent)
    if isinstance(error, FileNotFoundError) and (match := _MISSING.fullmatch(str(error))):
        return errno.EACCES if os.path.exists(match[1]) else errno.ENOENT, match[1]
    return 0, ""


def _denied(path: Path, read_only: bool) -> str:
    """Why a path cannot be read or written, and what to do."""
    there = path
    while not _exists(there) and there != there.parent:
        there = there.parent
    # What can be read was to be written, be it the path itself or the folder that it is to be in.
    reading = not os.access(there, os.R_OK | (os.X_OK if os.path.isdir(there) else 0))
    if read_only:
        why = "its file system is read-only"
    else:
        why = f"permission denied ({there} belongs to {_owner(there)})"
    return f"cannot {'read' if reading else 'write'} {path}: {why}; {_remedy(path, reading)}"


def _remedy(path: Path, reading: bool) -> str:
    for variable, folder in _settings().items():
        if path.absolute().is_relative_to(folder):
            return f"set {variable} to a folder of yours"
        if folder.is_relative_to(path.absolute()):  # a home that is not there, as a rule
            return f"set {variable} to a folder of yours, or HOME"
    if reading:
        return "ask for the right to read it, or copy it as somebody who may"
    return "name a folder of yours (--root, --out), or ask for the right to write there"


def _settings() -> dict[str, Path]:
    """The folders that an environment variable moves elsewhere."""
    folders: dict[str, Path] = {}
    with suppress(ConfigError):
        folders["VESTIGE_CACHE"] = cache_dir().absolute()
    hub = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    return folders | {"HF_HOME": Path(hub).absolute()}


def _exists(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except OSError:
        return False


def _owner(path: Path) -> str:
    """The user that a path belongs to."""
    try:
        return path.owner()
    except (OSError, KeyError, NotImplementedError):
        with suppress(OSError):
            return f"user {path.stat().st_uid}"
        return "another user"


def _full_folder() -> str:
    """A folder without space, where the error does not say."""
    places = [Path.cwd, lambda: Path(tempfile.gettempdir()), cache_dir]
    for place in places:
        with suppress(OSError, ConfigError):
            folder = place()
            if shutil.disk_usage(folder).free < LITTLE:
                return str(folder)
    return ""
