"""What a run was made with: packages, hardware, the state of the sources."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import platform
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = (
    *("vestige", "torch", "transformers", "peft", "trl", "accelerate", "datasets", "tokenizers"),
    *("safetensors", "gguf", "numpy", "scipy", "pydantic", "vllm", "ray"),
)


def describe_environment() -> dict[str, Any]:
    """Git state, package versions, hardware; no host name, user name or path. Imports nothing."""
    commit, dirty = _git_state(Path(__file__).resolve().parent)
    packages = {}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            packages[package] = importlib.metadata.version(package)
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "packages": packages,
        "hardware": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "cores_usable": usable_cores(),
            "memory_bytes": _memory(),
        },
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _git_state(source: Path) -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the checkout that tracks ``source``; (None, None) if none does.

    A package installed into an environment inside somebody's repository is not tracked by it.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(source), *args],
            env=clean,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=20,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", ".."))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _cpu_model() -> str | None:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n"):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or None


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_threads() -> int:
    """Threads for a process that works alone: ``OMP_NUM_THREADS`` if it is set, else one a core."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) else usable_cores()


def end_with_parent() -> None:
    """In a worker process, wait for its parent's end and end it too: the parent's locks are gone
    with it."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # only workers call this
    parent.join()  # at once where it died before this process had begun
    os._exit(1)


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def peak_memory() -> int | None:
    """Peak resident bytes of this process, or of its largest child so far."""
    if sys.platform == "win32":
        return None
    import resource

    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(kind).ru_maxrss for kind in kinds)
    return peak if sys.platform == "darwin" else peak * 1024


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
