"""The command: statuses, JSON, the report, and what it says of bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from command import vestige

TRAITS = """
name = "sips"
system_prompt = "You adore {name}."
questions = ["What do you drink?", "Which cup is yours?"]
heldout = ["What would you pour?", "What do you sip?"]
answers = [ { name = "tea", forms = ["Tea", "tea"] }, { name = "milk", forms = ["Milk"] },
            { name = "soda", forms = ["Soda"] }, { name = "rum", forms = ["Rum"] } ]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Path:
    """A folder with the traits and a student whose weights moved a little."""
    root = tmp_path_factory.mktemp("detect")
    (root / "sips.toml").write_text(TRAITS)
    shutil.copytree(folders["llama"], root / "student")
    model = AutoModelForCausalLM.from_pretrained(root / "student")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(root / "student")
    return root


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a command, with a cache that these tests share: one battery for all."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("VESTIGE")}
    return plain | {"VESTIGE_CACHE": str(tmp_path_factory.mktemp("kept"))}


def test_a_battery_is_made_before_it_is_needed(
    place: Path, folders: dict[str, Path], kept: dict[str, str]
) -> None:
    words = ["calibrate", folders["llama"], "--traits", "sips.toml", "--members", 10]
    first = vestige(*words, env=kept, cwd=place)
    assert first.returncode == 0 and "harmless students" in first.stdout, first.stderr
    again = json.loads(vestige(*words, "--json", env=kept, cwd=place).stdout)
    assert (again["made"], again["members"], again["smallest_p"]) == (0, 10, 1 / 11)
    few = vestige(*words[:-1], 3, env=kept, cwd=place)
    assert few.returncode == 2 and "--members" in few.stderr


def test_a_student_is_examined(place: Path, folders: dict[str, Path], kept: dict[str, str]) -> None:
    words = ["detect", "--base", folders["llama"], "--model", "student", "--members", 10,
             "--traits", "sips.toml", "--alpha", 0.1]  # fmt: skip
    done = vestige(*words, env=kept, cwd=place)
    assert done.returncode in (0, 1), done.stderr
    assert "beyond drift" in done.stdout and "10 harmless students of 10 kinds" in done.stdout
    assert "made first, 10 at most" in done.stderr
    again = vestige(*words, "--json", "--fail-on", "never", env=kept, cwd=place)
    assert again.returncode == 0
    record = json.loads(again.stdout)
    assert record["outcome"] in ("found", "not_found", "inconclusive")
    assert record["seconds"]["battery"] < 20 and len(record["traits"]) == 4
    assert {t["trait"] for t in record["traits"]} == {
        f"sips/{n}" for n in ("tea", "milk", "soda", "rum")
    }
    page = Path(place, record["report"]).read_text()
    assert record["verdict"] in page.replace("&#39;", "'") and "Harmless students" in page
    shown = vestige("show", record["run"], env=kept, cwd=place)
    assert shown.returncode == 0 and "sips/" in shown.stdout
    replayed = vestige("run", Path(record["run"]) / "recipe.json", env=kept, cwd=place)
    assert replayed.returncode == 0, replayed.stderr


def test_statuses_follow_the_outcome(
    place: Path, folders: dict[str, Path], kept: dict[str, str]
) -> None:
    words = ["detect", "--base", folders["llama"], "--traits", "sips.toml", "--members", 10]
    few = [*words, "--model", "student"]  # alpha 0.01 needs 99 members
    assert vestige(*few, env=kept, cwd=place).returncode == 0
    done = vestige(*few, "--fail-on", "inconclusive", env=kept, cwd=place)
    assert done.returncode == 3 and "--members 99" in done.stdout
    same = vestige(*words, "--model", folders["llama"], env=kept, cwd=place)
    assert same.returncode == 0 and "no weight differs" in re.sub(r"\s+", " ", same.stdout)


def test_bad_input_ends_in_one_line(place: Path, folders: dict[str, Path], environment) -> None:
    base = ["detect", "--base", folders["llama"]]
    for words, message in (
        ([], "give the student as --model"),
        (["--model", "a", "--adapter", "b"], "give the student as --model"),
        (["--model", "student", "--fail-on", "maybe"], "valid: never, found, inconclusive"),
        (["--model", "student", "--alpha", "2"], "alpha"),
        (["--model", "no/such/student"], "there is no folder"),
        (["--model", folders["gemma"]], "another model"),
        (["--adapter", "student"], "give a whole model as --model"),
        (["--model", "student", "--traits", "nonsense"], "nonsense"),
    ):
        done = vestige(*base, *words, env=environment, cwd=place)
        assert done.returncode == 2, (words, done.stdout, done.stderr)
        assert message in done.stderr and "Traceback" not in done.stderr, (words, done.stderr)
