"""Seeds in processes of this machine, or one after another in this one."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestige.core.types import VestigeError
from vestige.experiment.events import Event, Failure, OnEvent, failure_of, report_of
from vestige.experiment.jobs import KINDS
from vestige.experiment.settings import Experiment
from vestige.store import hold
from vestige.store.layout import RunLayout, seed_name
from vestige.store.machine import end_with_parent, usable_cores, usable_threads

#: Seconds to wait for a process's next event, and for its last ones once it has ended: short beside
#: a stage, long against the time that an event takes. Chosen.
PATIENCE, LAST_PATIENCE = 0.2, 0.5


@dataclass(frozen=True)
class Processes:
    """``count`` processes of this machine; one is this process."""

    count: int

    def run(self, recipe: Experiment, folder: Path, overwrite: bool, on_event: OnEvent) -> int:
        """See ``Executor.run``; the first failure ends the other seeds."""
        if self.count == 1:
            config = recipe.model_dump(mode="json")
            for seed in recipe.seeds:
                run_seed(config, folder, seed, overwrite, usable_threads(), on_event)
        else:
            run_in_processes(recipe, folder, self.count, overwrite, on_event)
        return self.count


def run_seed(
    config: dict[str, Any],
    folder: Path,
    seed: int,
    overwrite: bool,
    threads: int,
    emit: OnEvent,
    *,
    upto: str = KINDS[-1],
) -> None:
    """One seed in this process, up to a kind of job. Loads torch."""
    import torch

    from vestige.experiment.seed_context import SeedContext
    from vestige.experiment.seed_jobs import make_seed
    from vestige.models.loading import quiet_transformers

    quiet_transformers()
    torch.set_num_threads(threads)
    recipe = Experiment.model_validate(config)
    report = report_of(seed, emit)
    context = SeedContext.of(recipe, folder, seed, overwrite=overwrite, report=report)
    with hold(folder, seed_name(seed)):
        wait_for_jobs(folder, seed)
        make_seed(context, upto)


def wait_for_jobs(folder: Path, seed: int) -> None:
    """Wait until no worker of a cluster, whose run is over, works on the seed any more."""
    for path in RunLayout(folder).locks_of(seed):
        with hold(path.parent, path.stem):
            pass


def _seed_in_worker(
    config: dict[str, Any], folder: Path, job: tuple[int, bool, int], events: Any
) -> None:
    seed, overwrite, threads = job
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        run_seed(config, folder, seed, overwrite, threads, events.put)
    except Exception as error:
        events.put(failure_of(error))


def run_in_processes(
    recipe: Experiment, folder: Path, count: int, overwrite: bool, on_event: OnEvent
) -> None:
    """Each seed in a process of its own, ``count`` at a time; the first failure ends the rest."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, usable_cores() // count)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by the children when they load torch
    config = recipe.model_dump(mode="json")
    events: Any = context.Queue()
    failures: list[Failure] = []
    waiting, running = list(recipe.seeds), dict[int, Any]()

    def handle(item: Event | Failure) -> None:
        failures.append(item) if isinstance(item, Failure) else on_event(item)

    try:
        while (waiting or running) and not failures:
            while waiting and len(running) < count:
                seed = waiting.pop(0)
                job = (config, folder, (seed, overwrite, threads), events)
                running[seed] = context.Process(target=_seed_in_worker, args=job, daemon=True)
                running[seed].start()
            drain(events, handle)
            for seed in [s for s, process in running.items() if not process.is_alive()]:
                status = running.pop(seed).exitcode
                drain(events, handle, patience=LAST_PATIENCE)
                if status and not failures:
                    text = f"the process of seed {seed} ended with status {status}; out of memory?"
                    failures.append(Failure(VestigeError, text))
    finally:
        for process in running.values():
            process.terminate()
            process.join()
    if failures:
        raise failures[0].kind(failures[0].text)


def drain(events: Any, handle: Callable[[Any], None], patience: float = PATIENCE) -> None:
    """Hand over every waiting event; wait ``patience`` seconds for the first."""
    while True:
        try:
            handle(events.get(timeout=patience) if patience else events.get_nowait())
        except queue.Empty:
            return
        patience = 0
