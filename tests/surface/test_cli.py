"""The command in a process of its own: what it prints, its exit status, and that it stays light."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

import vestige as package
from command import refused, vestige
from vestige.cli.app import AUDIT, DATA, ELSEWHERE, SEE, SET_UP, app

RECIPE = """
from vestige.experiment.recipe import Experiment, Student

def recipe():
    return Experiment(
        name="own", traits=("owl", "cat"), seeds=(0, 1), students=(Student(name="a"),)
    )
"""
HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "scipy",
    "pyarrow",
    "jinja2",
    "vllm",
    "ray",
    "inspect_ai",
    "openai",
    "trl",
)


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
        "audit",
        "bench",
        "write",
        "judge",
        "paraphrase",
        "filter",
        "export",
        "train",
        "import",
        "doctor",
        "traits",
        "models",
    ):
        assert re.search(rf"\b{name}\b", asked.out)
        assert vst(name, "--help").code == 0


def test_help_is_in_groups_by_task_with_examples(vst):
    asked = vst("--help")
    places = [asked.out.index(group) for group in (SEE, AUDIT, DATA, ELSEWHERE, SET_UP)]
    assert places == sorted(places)
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        for sub, shown in getattr(command, "commands", {"": command}).items():
            assert f"vestige {name} {sub}".strip() in shown.epilog, (name, sub)
            assert shown.help, (name, sub)


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
    "args",
    [
        ["traits"],
        ["models", "list"],
        ["filter", "numbers", "in.jsonl", "--out", "k", "--dropped", "d"],
        ["run", "nope.py"],
    ],
)
def test_commands_without_a_model_load_no_torch(environment, tmp_path, source, args):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vestige", *args],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "vestige.cli.main" in loaded
    assert not loaded & {"torch", "transformers", "accelerate"}


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


def test_a_run_that_is_no_experiment_is_repeated_as_it_was(vst, tmp_path):
    (tmp_path / "recipe.json").write_text('{"kind": "audit"}')
    (tmp_path / "other.json").write_text('{"kind": "audit"}')
    refused(vst("run", "recipe.json", "seeds=0"), "recipe.json", "'audit' is repeated as it was")
    refused(vst("run", "recipe.json", "--workers", "2"), "is repeated as it was")
    refused(vst("run", "other.json"), "give the recipe.json of a run folder")
    (tmp_path / "other.json").write_text('{"kind": "audits"}')
    refused(vst("run", "other.json"), "unknown kind of recipe 'audits'", "did you mean audit")


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
    small = {
        "kind": "mlp",
        "name": "small",
        "models": 3,
        "hidden": [16],
        "teacher_steps": 20,
        "student_steps": 20,
    }
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
    replayed = vst("run", run / "recipe.json", "--json", "--no-report")
    assert json.loads(replayed.out) == found | {"report": "None"}
    refused(vst("run", "small.json", "rat=3"), "unknown key 'rat'", "rate")
    refused(vst("run", "small.json", "data=nowhere"), "digits", "nowhere")
    refused(vst("plan", "small.json"), "small networks")


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


def test_a_recipe_is_found_by_its_name(vst, tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "my_own.py").write_text(RECIPE)
    assert json.loads(vst("plan", "my-own", "--json").out)["seeds"] >= 2
    refused(vst("run", "my-other"), "there is no recipe my-other", "name of one in ./recipes")
    (tmp_path / "my-own").mkdir()  # what stands there is not passed over
    refused(vst("run", "my-own"), "there is no recipe my-own")
