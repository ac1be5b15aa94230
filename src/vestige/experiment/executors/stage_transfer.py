"""Finished stages on their way between a driver and its workers, as tar files in memory."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vestige.store.files import disk_full_explained
from vestige.store.layout import StageFile
from vestige.store.stage import HOLLOW


@dataclass(frozen=True)
class Finished:
    """A finished stage, as a tar file."""

    stage: str
    data: bytes


def pack(folder: Path, name: str, *, whole: bool = True) -> Finished:
    """A finished stage as a tar file in memory, or (not ``whole``) its manifest alone."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        if whole:
            tar.add(folder, name)
        else:
            tar.add(folder / StageFile.MANIFEST, f"{name}/{StageFile.MANIFEST}")
            tar.addfile(tarfile.TarInfo(f"{name}/{HOLLOW}"))
    return Finished(name, buffer.getvalue())


def unpack(item: Finished, folder: Path) -> None:
    """Put a stage in its place, whole or not at all. Raises ``StoreError`` if the disk is full."""
    with (
        disk_full_explained(folder / item.stage),
        tempfile.TemporaryDirectory(prefix=".incoming-", dir=folder) as scratch,
    ):
        with tarfile.open(fileobj=io.BytesIO(item.data)) as tar:
            tar.extractall(scratch, filter="data")
        arrived, place = Path(scratch) / item.stage, folder / item.stage
        if arrived.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                shutil.rmtree(place)
            arrived.rename(place)
