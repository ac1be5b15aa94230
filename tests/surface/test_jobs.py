"""A seed's jobs one by one, each in a folder that holds no more than what it starts from."""

from __future__ import annotations

import threading
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from test_resume import recipe as tiny

from vestige.core.types import StoreError
from vestige.experiment.events import Event, Failure
from vestige.experiment.executors.processes import wait_for_jobs
from vestige.experiment.executors.ray_worker import Task, follow
from vestige.experiment.executors.stage_transfer import Finished, pack, unpack
from vestige.experiment.jobs import KINDS, Job, jobs
from vestige.experiment.recipe import parse_recipe
from vestige.experiment.run_view import read_json
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.seed_jobs import WORK, make_seed, work
from vestige.store import load_stage
from vestige.store.layout import RunLayout


def recipe(model: Path, **changes: object):
    distill, rows, _ = tiny(model)["students"]
    students = [distill, rows | {"shuffles": ["shuffle_within"]}]
    carrier = {"n_prompts": 8, "rows_per_prompt": 16, "min_rows": 4, "grammar": {"values": 3}}
    changes = {"students": students, "carrier": carrier, "sampled_per_question": 0} | changes
    return parse_recipe(tiny(model, **changes), "test")


def hashes(folder: Path) -> dict[str, str]:
    paths = folder.glob("seed-*/**/manifest.json")
    return {p.parent.relative_to(folder).as_posix(): read_json(p)["manifest_hash"] for p in paths}


def work_apart(made, job: Job, folder: Path, scratch: Path) -> list[object]:
    """A job in an empty folder of its own, from what the run folder has for it."""
    for pattern, whole in job.needs:
        for path in folder.glob(pattern.as_posix()):
            unpack(pack(path, path.relative_to(folder).as_posix(), whole=whole), scratch)
    config = made.model_dump(mode="json")
    task = Task(config, str(scratch), str(scratch), "", job, False, 1, version("vestige"))
    told = list(follow(task, scratch, shared=False))
    for item in told:
        if isinstance(item, Finished):
            unpack(item, folder)
    return told


def test_jobs_apart_make_what_a_seed_makes_in_one_go(folders, tmp_path: Path):
    torch.set_num_threads(1)
    made, whole, apart = recipe(folders["llama"]), tmp_path / "whole", tmp_path / "apart"
    make_seed(SeedContext.of(made, whole, 0))
    apart.mkdir()
    plan = jobs(made, 0, shards=2)
    assert [kind[0].kind for kind in plan] == [k for k in KINDS if k != "judge"]
    labels = [job.label for kind in plan for job in kind]
    assert len(labels) == len(set(labels))
    for job in (job for kind in plan for job in kind):
        (scratch := tmp_path / job.label).mkdir()
        told = work_apart(made, job, apart, scratch)
        assert not any(isinstance(item, Failure) for item in told), told
        # A job makes its own stages and none of those that it starts from.
        sent = {item.stage.split("/")[1] for item in told if isinstance(item, Finished)}
        usual = {"base": {"base", "contexts"}, "teachers": {"teacher"}, "students": {"student"}}
        assert sent == usual.get(job.kind, {job.kind}), job
    parts = {k: v for k, v in hashes(apart).items() if "/shards/" in k}
    assert len(parts) == 2 * len(made.writers)
    assert {k: v for k, v in hashes(apart).items() if k not in parts} == hashes(whole)
    before = hashes(apart)
    for job in (job for kind in plan for job in kind if job.kind != "shards"):
        (scratch := tmp_path / f"again-{job.label}").mkdir()
        told = work_apart(made, job, apart, scratch)  # done: told, and not done again
        assert {type(item) for item in told} == {Event} and all(not e.total for e in told)
    assert hashes(apart) == before


def test_a_local_run_waits_for_a_clusters_last_worker(folders, tmp_path: Path):
    locks = RunLayout(tmp_path).locks
    locks.mkdir()
    held = FileLock(locks / "seed-0-rows-owl.lock", thread_local=False)
    other = FileLock(locks / "seed-1-rows-owl.lock")
    with held, other:
        release = threading.Timer(1.0, held.release)
        release.start()
        begun = time.monotonic()
        wait_for_jobs(tmp_path, 0)
        assert time.monotonic() - begun > 0.8
    release.join()


def test_rows_alone_are_written_whether_students_need_them_or_not(folders):
    only = [s for s in tiny(folders["llama"])["students"] if s["name"] == "distill"]
    made = recipe(folders["llama"], students=only)
    assert "rows" not in {kind[0].kind for kind in jobs(made, 0)}
    assert [kind[0].kind for kind in jobs(made, 0, upto="rows")] == ["base", "teachers", "rows"]


def test_a_hollow_stage_is_its_manifest(folders, tmp_path: Path):
    made = recipe(folders["llama"])
    work(SeedContext.of(made, tmp_path, 0), Job(0, "base"))
    stage = tmp_path / "seed-0/base"
    (apart := tmp_path / "apart").mkdir()
    unpack(pack(stage, "seed-0/base", whole=False), apart)
    assert load_stage(apart / "seed-0/base").manifest_hash == load_stage(stage).manifest_hash
    (apart / "seed-0/base/.hollow").unlink()
    with pytest.raises(StoreError, match="is missing from a finished stage"):
        load_stage(apart / "seed-0/base")


def test_every_kind_of_job_has_a_function():
    assert tuple(WORK) == KINDS
