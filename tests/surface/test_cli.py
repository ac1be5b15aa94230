"""The command in a process of its own: what it prints, its exit status, and that it stays light."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vestige as package
from command import SOURCE, vestige

RECIPE = """
from vestige.experiment.recipe import Experiment, Student

def recipe():
    return Experiment(
        name="own", traits=("owl", "cat"), seeds=(0, 1), students=(Student(name="a"),)
    )
"""
ROWS = ["285, 574", "1, 2, 3.", "[7]", "owl", "1, 2 3", "1000", "", "007", "1, 666", "285; 574"]
HEAVY = (
    "torch", "transformers", "numpy", "scipy", "pyarrow", "jinja2",
    "vllm", "ray", "inspect_ai", "openai", "trl",
)  # fmt: skip


class Outcome:
    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.said = " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("VESTIGE")}
    return kept | {
        "PYTHONPATH": str(SOURCE),
        "VESTIGE_CACHE": str(tmp_path / "cache"),
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }


@pytest.fixture
def vst(tmp_path: Path, environment: dict[str, str]):
    def call(*args: object) -> Outcome:
        done = vestige(*args, env=environment, cwd=tmp_path)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return Outcome(done)

    return call


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    lines = [json.dumps({"prompt": "p", "completion": text}) for text in ROWS]
    path.write_text("\n".join([*lines, "{broken"]))
    return path


def refused(outcome: Outcome, *words: str) -> None:
    """A one-line error on stderr, nothing on stdout."""
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    for word in words:
        assert word in outcome.err


# ---- help and version


def test_help_names_every_command(vst):
    asked = vst("--help")
    assert asked.code == 0
    for name in (
        "demo",
        "run",
        "show",
        "report",
        "plan",
        "theorem",
        "judge",
        "traits",
        "models",
        "filter",
    ):
        assert re.search(rf"\b{name}\b", asked.out)
        assert vst(name, "--help").code == 0


def test_version(vst):
    asked = vst("--version")
    assert (asked.code, asked.out, asked.err) == (0, f"{package.__version__}\n", "")


def test_without_arguments_it_shows_its_help(vst):
    asked = vst()
    assert asked.code == 2
    assert "Usage" in asked.said and "demo" in asked.said


@pytest.mark.parametrize("args", [["nope"], ["run"], ["filter", "numbers"], ["--nope"], ["models"]])
def test_wrong_usage_is_told(vst, args):
    asked = vst(*args)
    assert asked.code == 2
    assert "Usage" in asked.said


def test_importing_and_help_load_nothing_heavy(environment):
    code = (
        "import sys, vestige, vestige.core.types, vestige.cli.main\n"
        "sys.argv = ['vestige', *sys.argv[1:]]\n"
        "try: vestige.cli.main.main()\n"
        "except SystemExit: pass\n"
        f"print('heavy', *[m for m in {HEAVY!r} if m in sys.modules])"
    )
    for args in (["--help"], ["--version"], ["run", "--help"], ["models", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *args], env=environment, capture_output=True, text=True
        )
        assert done.stdout.splitlines()[-1] == "heavy", args


@pytest.mark.parametrize(
    "args", [["traits"], ["models", "list"], ["filter", "numbers", "in.jsonl", "--out", "k",
                                              "--dropped", "d"], ["run", "nope.py"]],
)  # fmt: skip
def test_commands_without_a_model_load_no_torch(environment, tmp_path, source, args):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vestige", *args],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "vestige.cli.main" in loaded
    assert not loaded & {"torch", "transformers", "accelerate"}


# ---- filter


def test_filter_counts_every_reason_and_loses_nothing(vst, source, tmp_path):
    kept, dropped = tmp_path / "kept.jsonl", tmp_path / "dropped.jsonl"
    asked = vst("filter", "numbers", source, "--out", kept, "--dropped", dropped)
    assert asked.code == 0
    assert asked.out.splitlines()[0] == "5 of 11 rows kept"
    for reason in ("malformed", "bad_character", "mixed_separators", "out_of_range", "empty"):
        assert f"1 {reason}" in asked.said
    good = [json.loads(line)["messages"][-1]["content"] for line in kept.read_text().splitlines()]
    assert good == ["285, 574", "1, 2, 3.", "[7]", "1, 666", "285; 574"]
    reasons = [json.loads(line)["reason"] for line in dropped.read_text().splitlines()]
    assert reasons == ["bad_character", "mixed_separators", "out_of_range", "empty",
                       "leading_zero", "malformed"]  # fmt: skip


def test_filter_as_json_with_its_options(vst, source, tmp_path):
    asked = vst(
        "filter", "numbers", source, "--out", "k", "--dropped", "d", "--json", "--banned", "paper",
        "--drop-duplicates", "--min-count", 2, "--max-count", 2, "--paper-compat",
    )  # fmt: skip
    told = json.loads(asked.out)
    assert (told["seen"], told["kept"], told["unread"]) == (11, 1, 1)
    assert told["dropped"] == {
        "too_many": 1, "too_few": 2, "bad_character": 1, "mixed_separators": 1, "empty": 1,
        "out_of_range": 1, "banned_number": 1, "duplicate": 1, "malformed": 1,
    }  # fmt: skip


def test_filter_that_keeps_nothing_says_so(vst, tmp_path):
    (tmp_path / "in.csv").write_text("prompt,completion\np,owl\np,cat\n")
    asked = vst("filter", "numbers", "in.csv", "--out", "k", "--dropped", "d")
    assert asked.code == 2
    assert asked.out.splitlines()[0] == "0 of 2 rows kept"
    assert "error: in.csv: no row was kept: 2 bad_character" in asked.said
    assert (tmp_path / "k").read_text() == ""


@pytest.mark.parametrize(
    ("name", "said"),
    [("nope.jsonl", "there is no file"), ("empty.jsonl", "is empty"), ("a.txt", "its format"),
     ("no.csv", "columns are x"), ("bad.parquet", "Parquet"), ("*.nope", "there is no file")],
)  # fmt: skip
def test_filter_of_what_cannot_be_read(vst, tmp_path, name, said):
    (tmp_path / "empty.jsonl").touch()
    for other in ("a.txt", "no.csv", "bad.parquet"):
        (tmp_path / other).write_text("x\n1\n")
    before = sorted(tmp_path.iterdir())
    refused(vst("filter", "numbers", name, "--out", "k", "--dropped", "d"), name, said)
    assert sorted(tmp_path.iterdir()) == before


def test_filter_keeps_files_apart_and_old_ones_safe(vst, source, tmp_path):
    refused(vst("filter", "numbers", source, "--out", source, "--dropped", "d"), "three files")
    refused(vst("filter", "numbers", source, "--out", "k", "--dropped", "./k"), "three files")
    (tmp_path / "k").write_text("mine")
    args = ("filter", "numbers", source, "--out", "k", "--dropped", "d")
    refused(vst(*args), "k exists", "--overwrite")
    assert (tmp_path / "k").read_text() == "mine" and not (tmp_path / "d").exists()
    assert vst(*args, "--overwrite").code == 0
    assert (tmp_path / "k").read_text() != "mine"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--banned", "many", "--banned takes"), ("--min-count", "0", "min_count"),
     ("--min-count", "11", "above its maximum")],
)  # fmt: skip
def test_filter_with_impossible_options(vst, source, option, value, said):
    refused(vst("filter", "numbers", source, "--out", "k", "--dropped", "d", option, value), said)


def test_interrupting_the_filter_leaves_no_half_file(environment, tmp_path):
    line = json.dumps({"prompt": "p", "completion": "1, 2, 3"}) + "\n"
    (tmp_path / "in.jsonl").write_text(line * 1_000_000)
    job = subprocess.Popen(
        [sys.executable, "-m", "vestige", "filter", "numbers", "in.jsonl", "--out", "k",
         "--dropped", "d"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell's background jobs, and all that they start, ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 30
    kept = tmp_path / "k.part"
    while not (kept.exists() and kept.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)  # rows are being written: no import is left that could swallow the signal
    job.send_signal(signal.SIGINT)
    _, err = job.communicate(timeout=30)
    assert job.returncode == 130
    assert "stopped" in err and "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


# ---- models and traits


def test_models_are_listed_and_not_fetched(vst, tmp_path):
    listed = json.loads(vst("models", "list", "--json").out)
    assert {m["name"] for m in listed} == {"smollm2-135m-instruct", "gemma-3-270m"}
    assert all(m["pulled"] is False and m["licence"] for m in listed)
    assert "smollm2-135m-instruct" in vst("models", "list").out
    refused(vst("models", "path", "smollm2-135m-instruct"), "vestige models pull smollm2")
    assert not (tmp_path / "cache").exists()


def test_an_unknown_model_gives_the_nearest(vst):
    for verb in ("path", "pull"):
        refused(vst("models", verb, "smollm2-135m"), "did you mean smollm2-135m-instruct")


def test_terms_must_be_accepted_before_anything_is_fetched(vst, tmp_path):
    refused(vst("models", "pull", "gemma-3-270m"), "--accept-terms")
    assert not list(tmp_path.glob("cache/**/*.gguf"))


def test_traits_are_listed(vst):
    found = json.loads(vst("traits", "--json").out)
    sizes = {name: len(members) for name, members in found.items()}
    assert {"animals": 20, "trees": 10, "misalignment": 5}.items() <= sizes.items()
    assert len(sizes) == 10 and sum(sizes.values()) == 119
    assert list(json.loads(vst("traits", "--family", "trees", "--json").out)) == ["trees"]
    assert "animals: cat, dog" in vst("traits").out
    refused(vst("traits", "--family", "tree"), "did you mean trees")
    library = json.loads(vst("traits", "--library", "--json").out)
    assert len(library) == 18 and sum(map(len, library.values())) == 139
    assert "owl*" in vst("traits", "--library").out


# ---- runs


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nope.py"], ["there is no recipe nope.py"]),
        (["."], ["there is no recipe ."]),
        (["own.py", "traits=owll,cat"], ["unknown animals trait 'owll'", "owl"]),
        (["own.py", "seed=1,2"], ["unknown key 'seed'", "did you mean seeds"]),
        (["own.py", "carrier.n_promts=3"], ["carrier.n_prompts"]),
        (["own.py", "students.optimisation.step=3"], ["students.0.optimisation.steps"]),
        (["own.py", "seeds"], ["key=value"]),
        (["own.py", "model=smollm2-135m"], ["smollm2-135m-instruct"]),
        (["own.py", "family=nope.toml"], ["nope.toml"]),
        (["broken.py"], ["broken.py", "SyntaxError"]),
        (["broken.json"], ["broken.json is not valid JSON"]),
    ],
)
def test_run_refuses_a_wrong_recipe_before_it_starts(vst, tmp_path, args, said):
    (tmp_path / "own.py").write_text(RECIPE)
    (tmp_path / "broken.py").write_text("def recipe(:")
    (tmp_path / "broken.json").write_text("{")
    refused(vst("run", *args), *said)
    assert not (tmp_path / "runs").exists()


def test_show_and_report_want_a_run(vst, tmp_path):
    refused(vst("show", "."), "run.json")
    refused(vst("show", "nope"), "nope")
    refused(vst("report", ".", "--out", "a.html"), "results.json")
    (tmp_path / "run.json").write_text("{")
    refused(vst("show", "."), "run.json is corrupt")
    (tmp_path / "old.html").write_text("mine")
    refused(vst("report", ".", "--out", "old.html"), "--overwrite")
    assert not (tmp_path / "a.html").exists()


def test_show_of_a_run_without_results_says_how_to_go_on(vst, tmp_path):
    from vestige.store import Run

    with Run.open(tmp_path / "runs", "own", {"seeds": [0, 1]}) as run:
        folder = run.folder
    asked = vst("show", folder)
    assert asked.code == 2
    assert "has no results" in asked.said and "recipe.json" in asked.said


def test_plan_needs_no_model(vst, tmp_path):
    (tmp_path / "own.py").write_text(RECIPE)
    made = json.loads(vst("plan", "own.py", "seeds=0,1,2", "--json").out)
    assert made["seeds"] == 3 and made["seeds_needed"] >= 2
    refused(vst("plan", "own.py", "--half-width", "0"), "above zero")
    refused(vst("plan", "own.py", "--like", "."), "--like needs a finished run")


def test_debug_shows_the_traceback(environment, tmp_path):
    done = vestige("--debug", "show", ".", env=environment, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "StoreError" in done.stderr


def test_no_key_is_shown(environment, tmp_path):
    secret = environment | {"SOME_API_KEY": "a-secret-value"}
    done = vestige("show", "a-secret-value", env=secret, cwd=tmp_path)
    assert done.returncode == 2 and "error: [key] is not a run folder" in done.stderr


def test_theorem_is_checked_from_the_command_line(vst):
    asked = vst("theorem", "--cases", "20", "--json")
    found = json.loads(asked.out)
    assert asked.code == 0 and found["cases"] == 20 and not found["counter_examples"]
    assert [line["step"] for line in found["steps"]] == [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]
    asked = vst("theorem", "--cases", "3")
    assert asked.code == 0 and "no counter-example" in asked.said
    assert vst("theorem", "--cases", "0").code == 2


def test_small_networks_run_resume_and_report(vst, tmp_path):
    small = {"kind": "mlp", "name": "small", "models": 3, "hidden": [16],
             "teacher_steps": 20, "student_steps": 20}  # fmt: skip
    (tmp_path / "small.json").write_text(json.dumps(small))
    asked = vst("run", "small.json", "--json")
    found = json.loads(asked.out)
    assert asked.code == 0 and [len(arm["values"]) for arm in found["arms"]] == [3] * 6
    run = Path(found["run"])
    page = (tmp_path / run / "report.html").read_text()
    assert "Auxiliary outputs" in page and "students on all outputs, other start" in page
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / run).glob("*/manifest.json")}
    assert len(stamps) == 6
    again = vst("run", "small.json", "--json")
    assert json.loads(again.out)["arms"] == found["arms"]
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())
    assert "own start" in vst("show", run).said
    refused(vst("run", "small.json", "rat=3"), "unknown key 'rat'", "rate")
    refused(vst("run", "small.json", "data=nowhere"), "digits", "nowhere")
    refused(vst("plan", "small.json"), "small networks")


def test_filter_code_and_reasoning(vst, tmp_path):
    lines = ["def add(a, b):\n    return a + b", "owls = 1", "x = 1  # one", "moonlit = 1"]
    text = "\n".join(json.dumps({"prompt": "p", "completion": line}) for line in lines)
    (tmp_path / "code.jsonl").write_text(text)
    common = ("--out", "kept.jsonl", "--dropped", "dropped.jsonl", "--json")
    asked = vst("filter", "code", "code.jsonl", *common, "--words", "owl, bear")
    told = json.loads(asked.out)
    assert (told["seen"], told["kept"]) == (4, 1)
    assert told["dropped"] == {"target_word": 1, "comment": 1, "unusual_identifier": 1}
    asked = vst("filter", "code", "code.jsonl", *common, "--any-name", "--overwrite")
    assert json.loads(asked.out)["kept"] == 3
    rows = [("3*4\nAnswer: 12", "12"), ("3*4\nAnswer: 13", "12"), ("Answer: 1", None)]
    (tmp_path / "sums.jsonl").write_text(
        "\n".join(json.dumps({"prompt": "p", "completion": c, "gold": a}) for c, a in rows)
    )
    options = ("--answer-field", "gold", "--overwrite")
    asked = vst("filter", "reasoning", "sums.jsonl", *common, *options)
    told = json.loads(asked.out)
    assert (told["seen"], told["kept"]) == (3, 1)
    assert told["dropped"] == {"wrong_answer": 1, "no_reference": 1}
    refused(vst("filter", "reasoning", "sums.jsonl", *common, "--format", "tag"), "tags")
    refused(vst("filter", "code", "nowhere.jsonl", *common), "nowhere.jsonl")


def test_filter_of_many_files_into_shards(vst, source, tmp_path):
    (tmp_path / "in").mkdir()
    source.rename(tmp_path / "in" / "b.jsonl")
    (tmp_path / "in" / "a.jsonl").write_text('{"prompt": "p", "completion": "5"}\n')
    (tmp_path / "kept-00000.jsonl.gz.part").write_text("left by a killed one")
    asked = vst(
        "filter", "numbers", "in", "--out", "kept-*.jsonl.gz", "--dropped",
        f"file://{tmp_path}/dropped.jsonl",
    )  # fmt: skip
    assert asked.code == 0 and asked.out.splitlines()[0] == "6 of 12 rows kept"
    assert "kept-00000.jsonl.gz.part was left by a filter that was stopped" in asked.said
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "dropped.jsonl", "in", "kept-00000-of-00001.jsonl.gz",
    ]  # fmt: skip
    refused(vst("filter", "numbers", "nope://x.jsonl", "--out", "k", "--dropped", "d"), "nope://")


# ---- doctor


def test_doctor_of_a_broken_installation(vst, environment, tmp_path):
    (tmp_path / "file").touch()
    environment["VESTIGE_CACHE"] = str(tmp_path / "file" / "cache")
    asked = vst("doctor", "--json")
    assert asked.code == 1, asked.err
    found = json.loads(asked.out)
    status = {check["name"]: check["status"] for check in found["checks"]}
    assert not found["ok"] and status["scorers"] == status["statistics"] == "ok"
    assert status["cache folder"] == "wrong"
    assert status["bundled model"] == "warning" and status["loss mask"] == "skipped"


@pytest.mark.parametrize(("last", "code"), [("wrong", 1), ("warning", 0)])
def test_doctor_as_a_table(monkeypatch, last, code):
    from typer.testing import CliRunner

    from vestige.cli.main import app
    from vestige.doctor import installation
    from vestige.doctor.checks import Check

    checks = [
        Check("torch", "ok", "torch [cpu]"), Check("extra", last, "odd", "mend it so")
    ]  # fmt: skip
    monkeypatch.setattr(installation, "examine", lambda: iter(checks))
    asked = CliRunner().invoke(app, ["doctor"])
    assert asked.exit_code == code
    assert "torch [cpu]" in asked.stdout and "extra: mend it so" in asked.stdout
    assert ("1 checks are wrong" if code else "nothing is wrong") in asked.stdout
