"""Running a recipe: seeds over worker processes, progress, resume, and the closing analysis."""

from __future__ import annotations

import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestige.experiment.analysis import analyse
from vestige.experiment.recipe import Experiment
from vestige.results import Results
from vestige.store import Run, atomic_write
from vestige.types import VestigeError

RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class Event:
    """Progress of one stage. ``total`` 0: just finished or of unknown length."""

    seed: int
    stage: str
    done: int
    total: int


def count_stages(recipe: Experiment) -> int:
    """How many stages one seed has."""
    traits = len(recipe.traits) + any(s.no_trait for s in recipe.students)
    students = sum(len(recipe.data_of(s)) for s in recipe.students)
    by_method = {
        method: [s for s in recipe.students if s.method == method] for method in ("distill", "rows")
    }
    data = sum(
        len(recipe.traits) + any(s.no_trait for s in arms) for arms in by_method.values() if arms
    )
    return 1 + recipe.carrier.constrained + traits + data + students


def worker_count(recipe: Experiment, workers: int | None) -> int:
    """Processes to use: at most one a seed and one a core; a GPU is left to one process."""
    if workers is not None:
        return max(1, min(workers, len(recipe.seeds)))
    if gpu_present():
        return 1
    return max(1, min(len(recipe.seeds), usable_cores()))


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_present() -> bool:
    """Whether an NVIDIA GPU is here, without loading torch."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") != "" and Path("/proc/driver/nvidia").exists()


def run(
    recipe: Experiment,
    root: Path,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> tuple[Path, Results]:
    """Run every unfinished stage of ``recipe`` below ``root`` and analyse the whole.

    Returns:
        The run folder and its results.

    Raises:
        VestigeError: a stage failed; finished stages are kept, and the same command goes on.
    """
    config = recipe.model_dump(mode="json")
    with Run.open(root, recipe.name, config, overwrite=overwrite) as opened:
        opened.update(seeds=list(recipe.seeds))
        count = worker_count(recipe, workers)
        if count == 1:
            for seed in recipe.seeds:
                run_seed(config, opened.folder, seed, overwrite, usable_cores(), on_event)
        else:
            run_in_processes(recipe, opened.folder, count, overwrite, on_event)
        results = analyse(recipe, opened.folder)
        atomic_write(opened.folder / RESULTS_FILE, results.model_dump_json(indent=1))
        opened.update(tokens=count_tokens(opened.folder), workers=count)
        return opened.folder, results


def run_seed(
    config: dict[str, Any],
    folder: Path,
    seed: int,
    overwrite: bool,
    threads: int,
    emit: Callable[[Event], None],
) -> None:
    """One seed in this process. Loads torch."""
    import torch
    from transformers.utils import logging as transformers_logging

    from vestige.experiment.stages import Seed

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(threads)
    recipe = Experiment.model_validate(config)
    state = Seed(
        recipe,
        folder,
        seed,
        overwrite,
        report=lambda stage, done, total: emit(Event(seed, stage, done, total)),
    )
    state.run()


def _seed_in_worker(
    config: dict[str, Any], folder: Path, job: tuple[int, bool, int], out: Any
) -> None:
    seed, overwrite, threads = job
    try:
        run_seed(config, folder, seed, overwrite, threads, out.put)
    except VestigeError as error:
        # An exception with keyword state may not survive pickling: send its kind and text.
        raise type(error)(*error.args) from None
    except Exception as error:
        raise RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}") from None


def run_in_processes(
    recipe: Experiment,
    folder: Path,
    count: int,
    overwrite: bool,
    on_event: Callable[[Event], None],
) -> None:
    """Seeds over ``count`` spawned processes; the first failure stops the rest and is raised."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, usable_cores() // count)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by the children when they load torch
    config = recipe.model_dump(mode="json")
    with (
        context.Manager() as manager,
        # A process for each seed: its memory is given back, whatever the seed before left.
        ProcessPoolExecutor(count, mp_context=context, max_tasks_per_child=1) as pool,
    ):
        events: Any = manager.Queue()
        jobs: list[Future[None]] = [
            pool.submit(_seed_in_worker, config, folder, (seed, overwrite, threads), events)
            for seed in recipe.seeds
        ]
        try:
            while not all(job.done() for job in jobs):
                drain(events, on_event)
                failed = next((j for j in jobs if j.done() and j.exception()), None)
                if failed:
                    break
            wait([job for job in jobs if job.done()])
            drain(events, on_event, patience=0)
        except BaseException:
            stop(pool)
            raise
        for job in jobs:
            if job.done() and (error := job.exception()):
                stop(pool)
                raise error


def drain(events: Any, on_event: Callable[[Event], None], patience: float = 0.2) -> None:
    """Hand over every waiting event; wait ``patience`` seconds for the first."""
    while True:
        try:
            on_event(events.get(timeout=patience) if patience else events.get_nowait())
        except queue.Empty:
            return
        patience = 0


def stop(pool: ProcessPoolExecutor) -> None:
    """End the workers at once: their stages are resumable."""
    for process in list((pool._processes or {}).values()):
        process.terminate()
    pool.shutdown(wait=False, cancel_futures=True)


def count_tokens(folder: Path) -> int:
    """Tokens that students were trained on, as their stages noted them."""
    from vestige.experiment.analysis import read_json

    paths = folder.glob("seed-*/student/*/*/manifest.json")
    return sum(int(read_json(path).get("notes", {}).get("tokens", 0)) for path in paths)
