"""One recipe by the local executor and on a local Ray cluster, in turn, in one run.

Both work on the same two seeds with a process for each, one thread a process, and end with the same
hashes. Ray's start-up (its daemons and two bare worker processes) is measured by itself and left
out. Both executors' processes load torch within their time: Ray is given fresh ones each time. Run:
python benchmarks/ray_overhead.py
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import common
from vestige.experiment import demo
from vestige.experiment.executors.cluster import Cluster, connected
from vestige.experiment.recipe import Experiment, override
from vestige.experiment.run import run
from vestige.store.layout import RunLayout

PAUSE = 0.5  # seconds
SMALL = ("seeds=0,1", "carrier.n_prompts=8", "teacher.min_probability=0")


def main() -> None:
    options = common.arguments(__doc__ or "")
    recipe = override(demo.recipe(), (f"model={options.model}", *SMALL), "demo")
    assert isinstance(recipe, Experiment)
    root = Path(tempfile.mkdtemp(prefix="vestige-bench-"))
    os.environ["OMP_NUM_THREADS"] = "1"
    hashes: dict[str, dict[str, str]] = {}

    def local() -> None:
        run(recipe, root / "local", workers=2)

    def ray() -> None:
        run(recipe, root / "ray", cluster=Cluster())

    def clear(name: str) -> None:
        (folder,) = (root / name).iterdir()
        layout = RunLayout(folder)
        stages = {
            layout.name(path.parent): json.loads(path.read_text())["manifest_hash"]
            for path in layout.manifests()
        }
        assert hashes.setdefault("first", stages) == stages, f"{name} ended with other stages"
        shutil.rmtree(root / name)

    seconds: dict[str, list[float]] = {"local": [], "ray": [], "start_up": []}
    for _ in range(options.repeats):
        for name, work in (("local", local), ("ray", ray)):
            begin = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - begin)
            clear(name)
        seconds["start_up"].append(start_up())
    without = [r - s for r, s in zip(seconds["ray"], seconds["start_up"], strict=True)]
    shutil.rmtree(root)
    common.show(
        seconds={name: statistics.median(values) for name, values in seconds.items()},
        ratio=common.ratio(seconds["ray"], seconds["local"]),
        ratio_without_start_up=common.ratio(without, seconds["local"]),
    )


def start_up() -> float:
    """Seconds until a fresh cluster has answered from two workers, and is gone again."""
    begin = time.perf_counter()
    with connected(Cluster()) as ray:
        bare = ray.remote(lambda: time.sleep(PAUSE))  # so that one worker cannot answer both
        ray.get([bare.remote() for _ in range(2)])
    return time.perf_counter() - begin - PAUSE


if __name__ == "__main__":
    main()
