"""The files that a name stands for: itself, a folder's, a glob's, or all of a set of shards."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from vestige.core.types import DataError
from vestige.rows.places import HUB, Place, endings, locate, name_of, shown
from vestige.rows.remote import explained_errors, file_system

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.|$)")
_SPLIT = re.compile(r"(train|training|test|testing|validation|valid|val|dev|eval)(?=[-_.])", re.I)


def find(where: Path | str, known: Callable[[Place], bool]) -> list[Place]:
    """The files that a name stands for: itself, a folder's or a glob's, in order of their names.

    Args:
        known: whether a file's ending is one that can be read, for the files of a folder.

    Raises:
        DataError: there is none, or a set of shards is not whole.
    """
    place = locate(where)
    files = _find_local(place, known) if isinstance(place, Path) else _find_remote(place, known)
    if not files:
        raise DataError(f"there is no file {shown(place)}")
    if str(where).startswith(HUB):
        _check_one_config(str(where), files)
    if len(files) > 1 or files != [place]:
        _check_shards(files, place)
    return files


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
    fs, path = file_system(url)
    with explained_errors(url, "list", DataError):
        names = sorted(fs.glob(path) if pattern else fs.ls(path, detail=False))
    urls = [fs.unstrip_protocol(name) for name in names]
    return urls if pattern else [each for each in urls if known(each)]


def _check_one_config(name: str, files: Sequence[Place]) -> None:
    """Raises ``DataError`` if files are of several configurations of one data set."""
    configs = sorted({str(each).split("/")[-3] for each in files})
    if len(configs) > 1:
        raise DataError(
            f"{name} has the configurations {', '.join(configs)}; name one, as "
            f"{name}/{configs[0]}/train"
        )


def _check_shards(files: Sequence[Place], place: Place) -> None:
    """Raises ``DataError`` if files called ``-00001-of-00004`` are not all there."""
    sets: dict[str, set[str]] = {}
    for each in files:
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
