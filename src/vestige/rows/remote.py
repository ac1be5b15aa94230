"""Files at fsspec URLs: one clear error for whatever a file system raises; whole files copied."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vestige.core.types import DataError, MissingExtraError, StoreError
from vestige.rows.places import Place, shown


def file_system(url: str) -> tuple[Any, str]:
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


def error_in_words(error: BaseException) -> str:
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
def explained_errors(
    url: str, action: str, kind: type[DataError] | type[StoreError]
) -> Iterator[None]:
    """Turn whatever a file system raises into one clear error."""
    try:
        yield
    except (DataError, StoreError, MissingExtraError):
        raise
    except Exception as error:
        raise kind(f"cannot {action} {shown(url)}: {error_in_words(error)}") from None


def below(url: str) -> list[str]:
    """The files below a folder, as paths inside it; none if there is no such folder.

    Raises:
        StoreError: it cannot be listed; or a name would lead out of the folder.
    """
    fs, root = file_system(url)
    with explained_errors(url, "list", StoreError):
        inner_paths = [name[len(root.rstrip("/")) + 1 :] for name in sorted(fs.find(root))]
    if any(".." in name.split("/") or name.startswith("/") for name in inner_paths):
        raise StoreError(f"{shown(url)} holds a name that leads out of it")
    return inner_paths


def content(url: str) -> bytes | None:
    """A file's bytes; None if it is not there. Raises ``StoreError``."""
    fs, path = file_system(url)
    with explained_errors(url, "read", StoreError):
        return fs.cat_file(path) if fs.exists(path) else None


def fetch(url: str, target: Path) -> None:
    """Copy a file to this machine. Raises ``StoreError``."""
    fs, path = file_system(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    with explained_errors(url, "read", StoreError):
        fs.get_file(path, str(target))


def send(source: Path, url: str) -> None:
    """Copy a file of this machine to ``url``, over what is there. Raises ``StoreError``."""
    fs, path = file_system(url)
    with explained_errors(url, "write", StoreError):
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.put_file(str(source), path)


def remove(url: str) -> None:
    """Remove a file, if it is there. Raises ``StoreError``."""
    fs, path = file_system(url)
    with explained_errors(url, "remove", StoreError):
        if fs.exists(path):
            fs.rm_file(path)


def move(part: Place, final: Place) -> None:
    if isinstance(part, Path):
        os.replace(part, final)
        return
    fs, source = file_system(part)
    fs.mv(source, file_system(str(final))[1])


def remove_place(place: Place) -> None:
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
        return
    fs, path = file_system(place)
    try:
        fs.rm(path)
    except Exception:  # it was never there, or the network is gone
        return


def canonical(place: Place) -> str:
    """A place by the one name that its file system has for it."""
    if isinstance(place, Path):
        return str(place.resolve())
    fs, path = file_system(place)
    return fs.unstrip_protocol(path)
