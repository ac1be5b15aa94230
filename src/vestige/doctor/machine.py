"""This machine: Python, torch, the cache folder and its locks, space on the disk."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from vestige.doctor.bundled_model import BundledModel
from vestige.doctor.checks import Doubtful, Wrong, expect
from vestige.experiment.run import gpu_present
from vestige.models import catalog
from vestige.store.machine import usable_cores

SPACE = 2_000_000_000  # bytes that a model and a small run take


def python(_: BundledModel) -> str:
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"


def torch_works(_: BundledModel) -> str:
    import torch

    threads, cores = torch.get_num_threads(), usable_cores()
    square = torch.arange(9.0).reshape(3, 3)
    expect(
        (square @ square).int().tolist(),
        [[15, 18, 21], [42, 54, 66], [69, 90, 111]],
        "a product of two matrices",
        "install another build of torch",
    )
    if torch.cuda.is_available():
        return f"torch {torch.__version__} on {torch.cuda.get_device_name()}, {threads} threads"
    if gpu_present():
        raise Doubtful(
            f"there is a GPU, and torch {torch.__version__} cannot use it",
            "install torch's CUDA build (pytorch.org), or set CUDA_VISIBLE_DEVICES= to stay on "
            "the CPU",
        )
    held = os.environ.get("OMP_NUM_THREADS")
    note = f" (OMP_NUM_THREADS={held})" if held and threads < cores else ""
    return f"torch {torch.__version__} on the CPU, {threads} of {cores} threads{note}"


def cache_folder(_: BundledModel) -> str:
    folder = catalog.cache_dir()
    fix = "set VESTIGE_CACHE to a folder that you can write"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            path = Path(scratch) / "lock"
            with FileLock(path):
                try:
                    FileLock(path, is_singleton=False).acquire(timeout=0)
                except Timeout:
                    return f"{folder} can be written, and locks hold there"
    except OSError as error:
        raise Wrong(f"{folder} cannot be written: {error.strerror or error}", fix) from error
    raise Wrong(f"locks do not hold in {folder} (a network disk?)", fix)


def disk_space(_: BundledModel) -> str:
    places = {"cache": catalog.cache_dir(), "this folder": Path.cwd()}
    free = {name: shutil.disk_usage(path).free for name, path in places.items() if path.exists()}
    spaces = ", ".join(f"{name}: {size / 1e9:.1f} GB free" for name, size in free.items())
    if min(free.values()) < SPACE:
        raise Doubtful(spaces, "free some space: a model and a small run take 2 GB")
    return spaces
