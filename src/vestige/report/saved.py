"""The files that a report is made from, and the page that it leaves."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from vestige.core.access import explained
from vestige.core.run_files import read_object, read_results
from vestige.core.types import StoreError
from vestige.report.views import view_of


def read_run(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The results of a run folder, and its manifest: ``run.json``, with the recipe.

    Raises:
        StoreError: a file is missing, corrupt or from another version.
    """
    results = read_results(folder / "results.json", lambda kind: view_of(kind).RECORD)
    manifest, recipe = read_object(folder / "run.json"), read_object(folder / "recipe.json")
    known = recipe in (manifest.get("config"), manifest.get("recipe"))
    return results, manifest if known else {**manifest, "recipe": recipe}


def write_page(out: Path, text: str) -> None:
    """Write to a temporary neighbour, then rename: a reader sees the old file or the new one.

    Raises:
        StoreError: ``out`` cannot be written.
    """
    part = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            # A lone surrogate in a manifest has no UTF-8 form; it becomes a question mark.
            file.write(text.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o644)
        os.replace(part, out)
    except OSError as error:
        if part is not None:
            Path(part).unlink(missing_ok=True)
        raise explained(error, str(out)) or StoreError(f"cannot write {out}: {error}") from error
