"""Seeds on a real Ray cluster of two nodes on this machine; skipped where Ray is not installed."""

from __future__ import annotations

import json
import shutil
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from test_resume import outcome
from test_resume import recipe as tiny

from vestige.experiment.cluster import Cluster, Dispatch, Task, connected
from vestige.experiment.reading import read_json
from vestige.experiment.recipe import parse_recipe
from vestige.experiment.run import Event, run
from vestige.experiment.stages import Seed
from vestige.store import Run
from vestige.types import ConfigError, VestigeError

ray = pytest.importorskip("ray", reason="needs the extra 'ray'")


def recipe(model: Path, **changes: object):
    students = [s for s in tiny(model)["students"] if s["name"] == "distill"]
    carrier = {"n_prompts": 2, "rows_per_prompt": 8, "min_rows": 4, "grammar": {"values": 3}}
    changes = {"students": students, "carrier": carrier, "sampled_per_question": 0} | changes
    return parse_recipe(tiny(model, **changes), "test")


@pytest.fixture(scope="module")
def local(folders, tmp_path_factory) -> Path:
    """The same recipe by the local executor, with one thread."""
    root, made = tmp_path_factory.mktemp("local"), recipe(folders["llama"])
    with Run.open(root / "runs", made.name, made.model_dump(mode="json")) as opened:
        for seed in made.seeds:
            Seed(made, opened.folder, seed).run()
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
    finished = {e.stage for e in events if not e.total}
    assert finished >= {stage for stage in outcome(local)[0] if stage.startswith("seed-1/")}


def test_without_a_shared_folder_stages_travel(local: Path, nodes, folders, tmp_path: Path):
    there = half_done(local, tmp_path)
    config = recipe(folders["llama"]).model_dump(mode="json")
    where = (str(there), str(tmp_path), "a mark that nobody sees")
    task = Task(config, *where, 0, False, 1, version("vestige"))
    with connected(Cluster(nodes[0].address)) as there_ray:
        assert not Dispatch(there_ray, Cluster(), there, lambda event: None).run([task])
    found = {k: v for k, v in hashes(there).items() if k.startswith("seed-0/")}
    assert found == {k: v for k, v in outcome(local)[0].items() if k.startswith("seed-0/")}
    assert not list(there.glob(".incoming-*")) and not (there / ".seed-0.lock").exists()


def hashes(run_folder: Path) -> dict[str, str]:
    paths = run_folder.glob("seed-*/**/manifest.json")
    return {
        p.parent.relative_to(run_folder).as_posix(): read_json(p)["manifest_hash"] for p in paths
    }


def test_what_stops_a_seed_is_said_as_by_the_local_executor(nodes, folders, tmp_path: Path):
    unfit = {"min_probability": 0.99, "min_carrier": 0.0, "optimisation": {"steps": 1}}
    made = recipe(folders["llama"], teacher=unfit)
    with pytest.raises(VestigeError, match=r"owl teacher of seed .* needed 0\.99"):
        run(made, tmp_path, cluster=Cluster(nodes[0].address))
    with pytest.raises(ConfigError, match="no node of the cluster has what a seed takes"):
        run(made, tmp_path, cluster=Cluster(nodes[0].address, gpus=1))


def test_a_cluster_out_of_reach_is_said_at_once(folders, tmp_path: Path):
    begin = time.monotonic()
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "nowhere.invalid:6379"):
        with pytest.raises(ConfigError, match=r"cannot reach the Ray cluster .*ray start --head"):
            run(recipe(folders["llama"]), tmp_path, cluster=Cluster(address))
    assert time.monotonic() - begin < 20
    with pytest.raises(ConfigError, match="--on takes ray"):
        Cluster.parse("spark")
    assert Cluster.parse("ray=10.0.0.1:6379", gpus=0.5) == Cluster("10.0.0.1:6379", gpus=0.5)
