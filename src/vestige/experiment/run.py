"""Running a recipe: an executor for its seeds, what is kept elsewhere, and the closing analysis."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vestige.core.results import AnyResults, Results
from vestige.core.types import ConfigError, VestigeError
from vestige.experiment.analysis import analyse
from vestige.experiment.events import Event, OnEvent, ignore, report_of
from vestige.experiment.executors.cluster import Cluster
from vestige.experiment.executors.interface import Executor
from vestige.experiment.executors.processes import Processes
from vestige.experiment.jobs import jobs
from vestige.experiment.recipe import Recipe
from vestige.experiment.run_view import awaited, read_json
from vestige.experiment.settings import Experiment
from vestige.store import Run, atomic_write, mirror
from vestige.store.layout import ANY, RunLayout, StageFile
from vestige.store.machine import usable_cores
from vestige.toy.settings import ARMS, MlpExperiment


def count_stages(recipe: Recipe) -> int:
    """How many stages a run has."""
    if isinstance(recipe, MlpExperiment):
        return len(ARMS)
    return stages_a_seed(recipe) * len(recipe.seeds)


def stages_a_seed(recipe: Experiment) -> int:
    """How many stages one seed has."""
    extra = bool(recipe.carrier.sampling_grammar())  # the base's rows are made in its own job
    return extra + sum(map(len, jobs(recipe, recipe.seeds[0])))


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
    on_event: OnEvent = ignore,
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

            report = report_of(recipe.seed, on_event)
            results: AnyResults = run_mlp(recipe, opened, report)
        else:
            executor = executor_for(recipe, workers, cluster)
            results = run_seeds(recipe, opened, executor, on_event)
        atomic_write(RunLayout(folder).results, results.model_dump_json(indent=1))
    if keep_at:
        mirror.Mirror(keep_at, folder).keep_records()
    return folder, results


def kept_at(place: mirror.Mirror, on_event: OnEvent) -> OnEvent:
    """Fetch what ``place`` has, and from now on keep every finished stage there."""
    place.fetch()

    def event(item: Event) -> None:
        if not item.total:
            place.keep(item.stage)
        on_event(item)

    return event


def executor_for(recipe: Experiment, workers: int | None, cluster: Cluster | None) -> Executor:
    """Who works on the recipe's seeds.

    Args:
        workers: processes of this machine; None chooses.
        cluster: a Ray cluster to work on instead.
    """
    if cluster is None:
        return Processes(worker_count(recipe, workers))
    from vestige.experiment.executors.ray import OnRay

    return OnRay(cluster)


def run_seeds(recipe: Experiment, opened: Run, executor: Executor, on_event: OnEvent) -> Results:
    """Every seed of an experiment on language models, and the analysis."""
    opened.update(seeds=list(recipe.seeds))
    count = executor.run(recipe, opened.folder, opened.overwrite, on_event)
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


def count_tokens(folder: Path) -> int:
    """Tokens that students were trained on, as their stages noted them."""
    layout = RunLayout(folder)
    manifests = layout.below(layout.student(ANY, ANY, ANY) / StageFile.MANIFEST)
    return sum(int(read_json(path).get("notes", {}).get("tokens", 0)) for path in manifests)
