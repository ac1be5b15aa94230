"""What tests of runs and stages share."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from vestige.store import (
    Run,
    files,
)

SOURCE = str(Path(files.__file__).resolve().parents[2])


RUN_CONFIG = {"seeds": [0, 1], "student": {"epochs": 3}}


def python(code: str, *args: object, **env: str) -> subprocess.Popen[str]:
    """A second process that imports this source tree."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        env={**os.environ, "PYTHONPATH": SOURCE, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def write_stage(run: Run, name: str, config: Any, inputs=(), text: str = "x", **kwargs: Any):
    stage = run.stage(name, config, inputs, **kwargs)
    if not stage.done:
        with stage.writing() as folder:
            (folder / "x.txt").write_text(text)
    return stage.result
