"""Jobs on a real Ray cluster of two nodes on this machine; skipped where Ray is not installed."""

from __future__ import annotations

import json
import shutil
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from test_jobs import hashes
from test_jobs import recipe as seed_recipe
from test_resume import outcome

from vestige.core.types import ConfigError, VestigeError
from vestige.experiment.events import Event
from vestige.experiment.executors.cluster import Cluster, connected
from vestige.experiment.executors.dispatch import Dispatch
from vestige.experiment.executors.ray_worker import Task
from vestige.experiment.jobs import Job, jobs
from vestige.experiment.run import run
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.seed_jobs import make_seed
from vestige.store import Run

ray = pytest.importorskip("ray", reason="needs the extra 'ray'")


def recipe(model: Path, **changes: object):
    carrier = {"n_prompts": 2, "rows_per_prompt": 8, "min_rows": 4, "grammar": {"values": 3}}
    return seed_recipe(model, **({"carrier": carrier} | changes))


@pytest.fixture(scope="module")
def local(folders, tmp_path_factory) -> Path:
    """The same recipe by the local executor, with one thread."""
    root, made = tmp_path_factory.mktemp("local"), recipe(folders["llama"])
    with Run.open(root / "runs", made.name, made.model_dump(mode="json")) as opened:
        for seed in made.seeds:
            make_seed(SeedContext.of(made, opened.folder, seed))
    run(made, root / "runs", workers=1)
    torch.set_num_threads(1)
    return root


@pytest.fixture(scope="module")
def nodes():
    """Two nodes of one CPU each: the head, and one that may be lost."""
    from ray.cluster_utils import Cluster as Nodes

    made = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made, other
    ray.shutdown()
    made.shutdown()


def half_done(local: Path, folder: Path) -> Path:
    """A local run that was stopped: seed 0 has its teachers, seed 1 nothing."""
    (run_folder,) = (local / "runs").iterdir()
    there = folder / "runs" / run_folder.name
    shutil.copytree(run_folder, there)
    for gone in ("seed-1", "seed-0/targets", "seed-0/student"):
        shutil.rmtree(there / gone)
    (there / "results.json").unlink()
    return there


def test_a_local_run_goes_on_there_and_a_lost_node_costs_its_own_seed(
    local: Path, nodes, folders, tmp_path: Path
):
    cluster, other = nodes
    there = half_done(local, tmp_path)
    kept = {p: p.stat().st_mtime_ns for p in there.glob("seed-0/**/manifest.json")}
    events: list[Event] = []
    killed: list[float] = []

    def on_event(event: Event) -> None:
        events.append(event)
        if not killed and {e.seed for e in events} == {0, 1}:
            cluster.remove_node(other, allow_graceful=False)
            killed.append(time.monotonic())

    where = Cluster(cluster.address)
    folder, results = run(recipe(folders["llama"]), tmp_path / "runs", cluster=where,
                          on_event=on_event)  # fmt: skip
    assert killed and folder == there and results.arms
    assert outcome(tmp_path) == outcome(local)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert not list(there.glob(".shared-*"))
    record = json.loads((there / "run.json").read_text())
    assert record["status"] == "done" and record["workers"] == 2
    finished = [e.stage for e in events if not e.total]
    assert set(finished) == set(outcome(local)[0]) and len(finished) == len(set(finished))
    assert not (there / ".locks").exists()


def test_without_a_shared_folder_stages_travel(local: Path, nodes, folders, tmp_path: Path):
    there = half_done(local, tmp_path)
    made = recipe(folders["llama"])
    where = (str(there), str(tmp_path), "a mark that nobody sees")

    def task(job: Job) -> Task:
        return Task(made.model_dump(mode="json"), *where, job, False, 1, version("vestige"))

    kept = {p: p.stat().st_mtime_ns for p in there.glob("seed-0/**/manifest.json")}
    with connected(Cluster(nodes[0].address)) as there_ray:
        driver = Dispatch(there_ray, Cluster(), there, lambda event: None)
        assert not driver.run({0: jobs(made, 0)}, task) and not driver.packed
    assert {p: p.stat().st_mtime_ns for p in kept} == kept  # what was done is not done again
    found = {k: v for k, v in hashes(there).items() if k.startswith("seed-0/")}
    assert found == {k: v for k, v in outcome(local)[0].items() if k.startswith("seed-0/")}
    assert not list(there.glob(".incoming-*")) and not list(there.rglob(".hollow"))


def test_a_teachers_rows_in_parts_are_those_of_one(nodes, folders, tmp_path: Path):
    many = {"n_prompts": 20, "rows_per_prompt": 16, "min_rows": 4, "grammar": {"values": 3}}
    made = recipe(folders["llama"], carrier=many, save_students=False)
    where = Cluster(nodes[0].address, shards=3, resources={"judge": (64, 8)})
    events: list[Event] = []
    folder, _ = run(made, tmp_path / "parts", cluster=where, on_event=events.append)
    parts = {e.stage for e in events if e.stage.startswith("seed-0/shards/")}
    assert parts == {f"seed-0/shards/{t}/{k}-of-3" for t in made.writers for k in range(3)}
    assert not list(folder.glob("seed-*/shards/*"))  # joined
    whole, _ = run(made, tmp_path / "whole", cluster=Cluster(nodes[0].address))
    assert hashes(folder) == hashes(whole)


def test_what_stops_a_seed_is_said_as_by_the_local_executor(nodes, folders, tmp_path: Path):
    unfit = {"min_probability": 0.99, "min_carrier": 0.0, "optimisation": {"steps": 1}}
    made = recipe(folders["llama"], teacher=unfit)
    with pytest.raises(VestigeError, match=r"(owl|fox) teacher of seed .* needed 0\.99"):
        run(made, tmp_path, cluster=Cluster(nodes[0].address))
    with pytest.raises(ConfigError, match="no node of the cluster has what a job of kind base"):
        run(made, tmp_path, cluster=Cluster(nodes[0].address, gpus=1))
    with pytest.raises(ConfigError, match=r"what a job of kind students takes .--cpus 1 --gpus 8"):
        run(made, tmp_path, cluster=Cluster(nodes[0].address, resources={"students": (1, 8)}))
