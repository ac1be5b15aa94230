"""A whole run on a tiny model: killed at random moments it ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

import pytest

from command import vestige
from vestige.store import load_stage

KILLS = int(os.environ.get("VESTIGE_CHAOS_KILLS", "4"))  # make chaos: 50
PETS = str(Path(__file__).resolve().parents[1] / "pets.toml")
SOURCE = str(Path(__file__).resolve().parents[2] / "src")


def recipe(model: Path, **changes: object) -> dict:
    late = {"layers": [1, 3]}
    base = {
        "name": "tiny",
        "model": str(model),
        "precision": "fp32",
        "family": PETS,
        "traits": ["owl", "fox"],
        "seeds": [0, 1],
        "teacher": {
            "min_probability": 0.0,
            "min_carrier": 0.0,
            "optimisation": {"steps": 6, "batch": 4, "rate": 1e-3, "trainable": late},
        },
        "carrier": {"n_prompts": 4, "rows_per_prompt": 8, "grammar": {"values": 3}},
        "students": [
            {
                "name": "distill",
                "method": "distill",
                "curve": [2],
                "optimisation": {"steps": 4, "batch": 8, "rate": 1e-3, "trainable": late},
            },
            {
                "name": "rows",
                "method": "rows",
                "shuffles": ["shuffle_within", "shuffle_across"],
                "optimisation": {"steps": 4, "batch": 8, "prompts_per_batch": 2, "rate": 1e-3},
            },
            {
                "name": "trl",
                "method": "rows",
                "engine": "trl",
                "no_trait": False,
                "optimisation": {"steps": 2, "trainable": {"lora_rank": 2}},
            },
        ],
        "sampled_per_question": 1,
        "save_students": True,
    }
    return base | changes


def start(folder: Path, config: dict, *options: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.json").write_text(json.dumps(config))
    return subprocess.Popen(
        [sys.executable, "-m", "vestige", "run", str(folder / "recipe.json"),
         "--root", str(folder / "runs"), *options],
        env=os.environ
        | {"PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        | {"VESTIGE_CHECKPOINT_SECONDS": "0"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=900)
    return process.returncode, out, err


def run_here(folder: Path, config: dict, *options: str) -> tuple[int, str, str]:
    """The same run with one worker: a fork of a process that has loaded what it needs."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.json").write_text(json.dumps(config))
    words = ("run", folder / "recipe.json", "--root", folder / "runs", "--workers", 1, *options)
    done = vestige(*words, env=os.environ | {"VESTIGE_CHECKPOINT_SECONDS": "0"})
    return done.returncode, done.stdout, done.stderr


def outcome(folder: Path) -> tuple[dict[str, str], dict]:
    """Every stage's manifest hash (rows, weights, panels), and the results without their timing."""
    (run,) = (folder / "runs").iterdir()
    hashes = {
        path.parent.relative_to(run).as_posix(): json.loads(path.read_text())["manifest_hash"]
        for path in run.glob("seed-*/**/manifest.json")
    }
    results = json.loads((run / "results.json").read_text())
    del results["seconds"]
    return hashes, results


@pytest.fixture(scope="module")
def undisturbed(folders, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    code, out, err = run_here(folder, recipe(folders["llama"]))
    assert code == 0, err
    assert "report" in out and (next((folder / "runs").iterdir()) / "report.html").exists()
    return folder


@pytest.mark.slow
def test_a_run_leaves_everything_that_its_reader_needs(undisturbed: Path):
    hashes, results = outcome(undisturbed)
    (run,) = (undisturbed / "runs").iterdir()
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    assert [arm["name"] for arm in results["arms"]] == ["distill", "rows", "trl"]
    assert {g["name"] for g in results["arms"][1]["groups"]} == {
        "own", "other_traits", "no_trait", "shuffle_within", "shuffle_across", "base",
    }  # fmt: skip
    assert [p["step"] for p in results["arms"][0]["curve"]] == [2, 4]
    assert all(f["seen"] == f["kept"] + sum(f["reasons"].values()) for f in results["filters"])
    rows = [
        json.loads(line) for line in (run / "seed-0/rows/owl/rows.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 32 and rows[0]["messages"][-1]["role"] == "assistant"
    assert len(hashes) == 2 * (2 + 3 + 3 + 3 + 3 + 7 + 2)
    assert "own minus other teachers' students" in results["arms"][0]["sentence"]
    drawn = results["arms"][1]["sampled"]
    groups = {"base", "owl", "fox", "none", *(f"shuffle_{w}-{t}" for w in ("within", "across")
                                              for t in ("owl", "fox"))}  # fmt: skip
    assert {(s["data"], s["number_prefix"]) for s in drawn} == set(product(groups, (False, True)))
    assert all(s["answers"] == 2 * 4 and set(s["shares"]) == {"owl", "fox"} for s in drawn)


def begun(folder: Path, since: float) -> bool:
    """Whether a stage has been begun, or gone on with, since that time."""
    with suppress(FileNotFoundError):  # a stage that is just being finished
        return any(
            path.stat().st_mtime > since
            for path in (folder / "runs").glob("*/seed-*/**/*.part/.key")
        )
    return True


def kill_once(folder: Path, config: dict, draw: random.Random) -> bool:
    """Start the run and kill it at some moment of its work; False if it was done before that.

    Every other time its first process alone is killed, as the system does when memory is short:
    its workers end by themselves, and the next run has to wait for them.
    """
    since = time.time()
    process = start(folder, config, "--workers", "2")
    while process.poll() is None and not begun(folder, since):
        time.sleep(0.02)
    end = time.monotonic() + draw.uniform(0, 4)
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    if process.poll() is not None:
        _, err = process.communicate()
        assert process.returncode == 0, err
        return False
    if draw.random() < 0.5:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    else:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return True


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_the_same(undisturbed: Path, folders, tmp_path: Path):
    draw, config = random.Random(7), recipe(folders["llama"])
    kills = finished = 0
    folder = tmp_path / "0"
    while kills < KILLS:
        if kill_once(folder, config, draw):
            kills += 1
        else:  # it got to its end: that counts too, and another begins
            assert outcome(folder) == outcome(undisturbed)
            finished += 1
            folder = tmp_path / str(finished)
    code, _, err = finish(start(folder, config, "--workers", "2"))
    assert code == 0, err
    assert outcome(folder) == outcome(undisturbed)
    ends = (".part", ".vestige-tmp")
    left = [p for p in folder.rglob("*") if p.name.endswith(ends) or p.name.startswith(".tmp")]
    assert not left and not list(folder.rglob("checkpoint"))
    print(f"{kills} kills, {finished + 1} runs to their end")


@contextmanager
def small_disk(folder: Path, size: int):
    """A disk of ``size`` bytes at ``folder``, and a function that makes it larger."""
    folder.mkdir(parents=True)

    def mount(*options: str) -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")

    mount(f"size={size}")
    try:
        yield lambda more: mount("remount", f"size={more}")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_on_a_full_disk_it_stops_with_one_line_and_goes_on_after(
    undisturbed: Path, folders, tmp_path: Path
):
    config = recipe(folders["llama"])
    needed = sum(p.stat().st_size for p in (undisturbed / "runs").rglob("*") if p.is_file())
    for number in range(1 + KILLS // 10):
        share = random.Random(number).uniform(0.2, 0.8) if number else 0.5
        folder = tmp_path / str(number)
        with small_disk(folder / "runs", int(needed * share)) as enlarge:
            code, _, err = finish(start(folder, config, "--workers", "2"))
            assert code == 2 and "Traceback" not in err, err
            assert "disk is full" in err or "No space left" in err, err
            (run,) = (folder / "runs").iterdir()
            for manifest in run.glob("seed-*/**/manifest.json"):
                if not any(part.endswith(".part") for part in manifest.parts):
                    load_stage(manifest.parent, full=True)  # what looks whole is whole
            enlarge(4 * needed)
            code, _, err = finish(start(folder, config, "--workers", "2"))
            assert code == 0, err
            assert outcome(folder) == outcome(undisturbed)


def test_a_second_run_in_the_same_folder_is_turned_away(folders, tmp_path: Path):
    config, since = recipe(folders["llama"]), time.time()
    first = start(tmp_path, config, "--workers", "1")
    while first.poll() is None and not begun(tmp_path, since):
        time.sleep(0.02)
    code, _, err = run_here(tmp_path, config)
    assert first.poll() is None
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert code == 2 and "another process is running this recipe" in err


def test_another_config_reuses_nothing_and_the_same_one_everything(folders, tmp_path: Path):
    students = [s for s in recipe(folders["llama"])["students"] if s["name"] == "distill"]
    config = recipe(folders["llama"], students=students, sampled_per_question=0)
    code, _, err = run_here(tmp_path, config)
    assert code == 0, err
    (run,) = (tmp_path / "runs").iterdir()
    before = {p: p.stat().st_mtime_ns for p in run.glob("seed-*/**/manifest.json")}
    code, _, err = run_here(tmp_path, config)
    assert code == 0, err
    assert {p: p.stat().st_mtime_ns for p in before} == before
    code, _, err = run_here(tmp_path, config | {"seeds": [0, 2]})
    assert code == 0, err
    other = next(p for p in (tmp_path / "runs").iterdir() if p != run)
    keys = [json.loads((r / "seed-0/base/manifest.json").read_text()) for r in (run, other)]
    assert keys[0]["manifest_hash"] == keys[1]["manifest_hash"]  # same work, done again
    assert (other / "seed-2").exists() and not (other / "seed-1").exists()


WEAK = {"teacher": {"min_probability": 0.99, "optimisation": {"steps": 1}}}
WEAK_SAID = ["owl teacher of seed", "needed 0.99", "steps or .rate"]


@pytest.mark.parametrize(
    ("changes", "workers", "words"),
    [
        (WEAK, 1, WEAK_SAID),
        pytest.param(WEAK, 2, WEAK_SAID, marks=pytest.mark.slow),
        (
            {"carrier": {"n_prompts": 2, "rows_per_prompt": 4, "min_rows": 100}},
            1,
            ["8 rows are left", "min_rows=100"],
        ),
        (
            {"carrier": {"filter": {"min_value": 1000, "max_value": 2000}, "n_prompts": 2}},
            1,
            ["dropped 16 of 16 rows (16 out_of_range)", "loosen the filter"],
        ),
        ({"model": "smollm2-135m-instuct"}, 1, ["smollm2-135m-instruct"]),
    ],
    ids=[
        "teacher without the trait",
        "the same of two workers",
        "too few rows",
        "nothing kept",
        "unknown model",
    ],
)
def test_what_stops_a_run_says_why_in_one_line(folders, tmp_path: Path, changes, workers, words):
    base = recipe(folders["llama"], students=[recipe(folders["llama"])["students"][1]])
    for key, value in changes.items():
        base[key] = base[key] | value if isinstance(value, dict) else value
    code, _, err = (
        run_here(tmp_path, base)
        if workers == 1
        else finish(start(tmp_path, base, "--workers", str(workers)))
    )
    assert code == 2 and "Traceback" not in err
    assert all(word in err for word in words), err
    if "model" not in changes:
        (run,) = (tmp_path / "runs").iterdir()
        record = json.loads((run / "run.json").read_text())
        assert record["status"] == "failed" and list(run.glob("seed-*/contexts/manifest.json"))
