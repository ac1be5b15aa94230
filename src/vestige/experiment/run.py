"""Running a recipe: seeds over worker processes, progress, resume, and the closing analysis."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vestige.core.access import explained
from vestige.core.redaction import redact
from vestige.core.results import AnyResults, Results
from vestige.core.types import ConfigError, MissingExtraError, VestigeError
from vestige.experiment.analysis import analyse
from vestige.experiment.jobs import KINDS, LOCKS
from vestige.experiment.recipe import Experiment, Recipe
from vestige.experiment.run_view import awaited, read_json
from vestige.store import Run, atomic_write, hold, mirror
from vestige.store.machine import end_with_parent, usable_cores, usable_threads
from vestige.toy.settings import ARMS, MlpExperiment

if TYPE_CHECKING:
    from vestige.experiment.executors.ray import Cluster

RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class Event:
    """Progress of one stage. ``total`` 0: just finished or of unknown length."""

    seed: int
    stage: str
    done: int
    total: int


def count_stages(recipe: Recipe) -> int:
    """How many stages a run has."""
    if isinstance(recipe, MlpExperiment):
        return len(ARMS)
    return stages_a_seed(recipe) * len(recipe.seeds)


def stages_a_seed(recipe: Experiment) -> int:
    """How many stages one seed has."""
    traits = len(recipe.sources) + recipe.with_none
    students = sum(len(recipe.data_of(s)) for s in recipe.students)
    by_method = {
        wanted: [s for s in recipe.students if (s.method == "distill") == (wanted == "distill")]
        for wanted in ("distill", "rows")
    }
    data = sum(
        len(recipe.sources) + any(s.no_trait for s in arms) for arms in by_method.values() if arms
    )
    extra = bool(recipe.carrier.sampling_grammar()) + bool(recipe.freeform)
    return 1 + extra + traits + data + students


def worker_count(recipe: Experiment, workers: int | None) -> int:
    """Processes to use: at most one a seed and one a core; a GPU is left to one process."""
    if workers is not None:
        return max(1, min(workers, len(recipe.seeds)))
    if gpu_present():
        return 1
    return max(1, min(len(recipe.seeds), usable_cores()))


def gpu_present() -> bool:
    """Whether an NVIDIA GPU is here, without loading torch."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") != "" and Path("/proc/driver/nvidia").exists()


def run(
    recipe: Recipe,
    root: Path,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    cluster: Cluster | None = None,
    keep_at: str = "",
    on_event: Callable[[Event], None] = lambda event: None,
) -> tuple[Path, AnyResults]:
    """Run every unfinished stage of ``recipe`` below ``root`` and analyse the whole.

    Args:
        workers: processes of this machine; None chooses.
        cluster: a Ray cluster to work on instead.
        keep_at: an fsspec URL where every finished stage is kept too, and fetched from if this
            machine lacks it.

    Returns:
        The run folder and its results.

    Raises:
        VestigeError: a stage failed; finished stages are kept, and the same command goes on.
    """
    config = recipe.model_dump(mode="json")
    if keep_at:
        mirror.check(keep_at)
    with Run.open(root, recipe.name, config, overwrite=overwrite) as opened:
        folder = opened.folder
        if keep_at:
            on_event = kept_at(mirror.Mirror(keep_at, folder), on_event)
        if isinstance(recipe, MlpExperiment):
            if cluster:
                raise ConfigError("small networks take a minute or two: leave --on out")
            from vestige.experiment.small_networks import run_mlp

            results: AnyResults = run_mlp(
                recipe,
                opened,
                lambda stage, done, total: on_event(Event(recipe.seed, stage, done, total)),
            )
        else:
            results = run_seeds(recipe, opened, workers, cluster, on_event)
        atomic_write(folder / RESULTS_FILE, results.model_dump_json(indent=1))
    if keep_at:
        mirror.Mirror(keep_at, folder).keep_records()
    return folder, results


def kept_at(place: mirror.Mirror, on_event: Callable[[Event], None]) -> Callable[[Event], None]:
    """Fetch what ``place`` has, and from now on keep every finished stage there."""
    place.fetch()

    def event(item: Event) -> None:
        if not item.total:
            place.keep(item.stage)
        on_event(item)

    return event


def run_seeds(
    recipe: Experiment,
    opened: Run,
    workers: int | None,
    cluster: Cluster | None,
    on_event: Callable[[Event], None],
) -> Results:
    """Every seed of an experiment on language models, and the analysis."""
    opened.update(seeds=list(recipe.seeds))
    count = worker_count(recipe, workers)
    if cluster:
        from vestige.experiment.executors.ray import run_on_ray

        count = run_on_ray(recipe, opened.folder, cluster, opened.overwrite, on_event)
    elif count == 1:
        config = recipe.model_dump(mode="json")
        for seed in recipe.seeds:
            run_seed(config, opened.folder, seed, opened.overwrite, usable_threads(), on_event)
    else:
        run_in_processes(recipe, opened.folder, count, opened.overwrite, on_event)
    opened.update(tokens=count_tokens(opened.folder), workers=count)
    if names := awaited(recipe, opened.folder):
        raise VestigeError(describe_awaited(names, opened.folder))
    return analyse(recipe, opened.folder)


def describe_awaited(names: Sequence[str], folder: Path) -> str:
    """What is still to be trained elsewhere, and how."""
    shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
    return (
        f"{len(names)} students are to be trained elsewhere ({shown}); their rows are ready: "
        f"vestige export {folder} --for axolotl --out DIR, train, and vestige import {folder} "
        "--adapter DIR"
    )


def run_seed(
    config: dict[str, Any],
    folder: Path,
    seed: int,
    overwrite: bool,
    threads: int,
    emit: Callable[[Event], None],
    *,
    upto: str = KINDS[-1],
) -> None:
    """One seed in this process, up to a kind of job. Loads torch."""
    import torch

    from vestige.experiment.stages import Seed
    from vestige.models.loading import quiet_transformers

    quiet_transformers()
    torch.set_num_threads(threads)
    recipe = Experiment.model_validate(config)
    state = Seed(
        recipe,
        folder,
        seed,
        overwrite,
        report=lambda stage, done, total: emit(Event(seed, stage, done, total)),
    )
    with hold(folder, f"seed-{seed}"):
        wait_for_jobs(folder, seed)
        state.run(upto)


def wait_for_jobs(folder: Path, seed: int) -> None:
    """Wait until no worker of a cluster, whose run is over, works on the seed any more."""
    for path in sorted((folder / LOCKS).glob(f"seed-{seed}-*.lock")):
        with hold(path.parent, path.stem):
            pass


@dataclass(frozen=True)
class Failure:
    """What ended a worker: the error to raise in its stead."""

    kind: type[Exception]
    text: str


def _seed_in_worker(
    config: dict[str, Any], folder: Path, job: tuple[int, bool, int], out: Any
) -> None:
    seed, overwrite, threads = job
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        run_seed(config, folder, seed, overwrite, threads, out.put)
    except Exception as error:
        out.put(failure_of(error))


def failure_of(error: Exception) -> Failure:
    """An error as what another process can raise, without keys; with ``--debug`` where it arose."""
    if not isinstance(error, VestigeError):
        error = explained(error) or error
    if isinstance(error, VestigeError):
        kind = VestigeError if isinstance(error, MissingExtraError) else type(error)
        return Failure(kind, redact(str(error)))
    text = f"{type(error).__name__}: {error}"
    if os.environ.get("VESTIGE_DEBUG"):
        text = "".join([text, "\n", *traceback.format_exception(error)])
    return Failure(RuntimeError, redact(text))


def run_in_processes(
    recipe: Experiment,
    folder: Path,
    count: int,
    overwrite: bool,
    on_event: Callable[[Event], None],
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
                drain(events, handle, patience=0.5)
                if status and not failures:
                    text = f"the process of seed {seed} ended with status {status}; out of memory?"
                    failures.append(Failure(VestigeError, text))
    finally:
        for process in running.values():
            process.terminate()
            process.join()
    if failures:
        raise failures[0].kind(failures[0].text)


def drain(events: Any, handle: Callable[[Any], None], patience: float = 0.2) -> None:
    """Hand over every waiting event; wait ``patience`` seconds for the first."""
    while True:
        try:
            handle(events.get(timeout=patience) if patience else events.get_nowait())
        except queue.Empty:
            return
        patience = 0


def count_tokens(folder: Path) -> int:
    """Tokens that students were trained on, as their stages noted them."""
    paths = folder.glob("seed-*/student/*/*/manifest.json")
    return sum(int(read_json(path).get("notes", {}).get("tokens", 0)) for path in paths)
