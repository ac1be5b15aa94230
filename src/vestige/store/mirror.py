"""A run's finished stages in a second place, at any fsspec URL.

A stage goes there as soon as it is whole, its manifest last; what the place holds and this machine
does not is fetched before the run goes on. So a run survives the loss of its machine, and another
machine, or another engine, goes on with it. Nothing locks the place: one machine at a time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from vestige.core.types import StoreError
from vestige.rows import remote
from vestige.rows.places import shown
from vestige.store.stage import MANIFEST, load_stage, stage_folder

RECORDS = (".json", ".html", ".jsonl")  # files of the run folder itself that are kept too


class Mirror:
    """What of the run in ``folder`` is kept below ``url``, under the folder's own name."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = f"{url.rstrip('/')}/{folder.name}", folder

    def fetch(self) -> list[str]:
        """Fetch every whole stage that this machine lacks.

        Returns:
            Their names.

        Raises:
            StoreError: the place cannot be read, or what it holds is not what was written.
        """
        fetched = []
        for name in remote.below(self.url):
            stage = name.removesuffix(f"/{MANIFEST}")
            if stage != name and not stage_folder(self.folder, stage).exists():
                self._fetch(stage)
                fetched.append(stage)
        return fetched

    def _fetch(self, stage: str) -> None:
        place = stage_folder(self.folder, stage)
        with tempfile.TemporaryDirectory(prefix=".incoming-", dir=self.folder) as scratch:
            arriving = Path(scratch) / "stage"
            for name in remote.below(f"{self.url}/{stage}"):
                remote.fetch(f"{self.url}/{stage}/{name}", arriving / name)
            load_stage(arriving, full=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            arriving.rename(place)

    def keep(self, stage: str) -> None:
        """Put a stage there, if it is finished and the place has not got it.

        Raises:
            StoreError: the place cannot be written.
        """
        place = self.folder / stage
        if not (place / MANIFEST).is_file():
            return
        names = [*load_stage(place).manifest["files"], MANIFEST]
        there = f"{self.url}/{stage}/{MANIFEST}"
        if remote.content(there) == (place / MANIFEST).read_bytes():
            return
        remote.remove(there)  # until the last file is there, the stage is not
        for name in names:
            remote.send(place / name, f"{self.url}/{stage}/{name}")

    def keep_records(self) -> None:
        """Put the run's own files there: its recipe, record, results and report."""
        for path in sorted(self.folder.iterdir()):
            if path.is_file() and path.suffix in RECORDS and not path.name.startswith("."):
                remote.send(path, f"{self.url}/{path.name}")


def check(url: str) -> None:
    """Write a file below ``url`` and remove it: a place that cannot be used is told at once.

    Raises:
        StoreError: it cannot be written.
    """
    probe = f"{url.rstrip('/')}/.vestige"
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "probe").write_bytes(b"this place can be written\n")
        remote.send(Path(scratch) / "probe", probe)
    if remote.content(probe) is None:
        raise StoreError(f"{shown(probe)} was written and is not there")
    remote.remove(probe)
