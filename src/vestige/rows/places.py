"""The names of places where files of rows lie: here or at any fsspec URL, packed or not.

A place is a ``Path`` or, for a remote one, its URL; a file's ending says how it is packed
(``.gz .bz2 .xz .zst``). ``file_sets`` looks up the files that a name stands for, ``open_files``
reads them, ``outputs`` writes them.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from vestige.core.types import DataError

Place = Path | str
PACKED = (".gz", ".bz2", ".xz", ".zst")
HUB = "hub:"


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
