"""Fixtures: tiny models made once, and the command. What is heavy is loaded in the fixtures: the
process that hands out tests to the others needs none of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch is loaded: test processes run side by side, and two threads each would wait for
# one another. Runs in a test's process and the commands that it starts take this, too.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

from command import SOURCE, Outcome, vestige

if TYPE_CHECKING:
    from vestige.models.hf import LanguageModel

NUMBER_ROWS = [
    "285, 574",
    "1, 2, 3.",
    "[7]",
    "owl",
    "1, 2 3",
    "1000",
    "",
    "007",
    "1, 666",
    "285; 574",
]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def outcomes_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is found out about tiny models is remembered for these tests alone."""
    from vestige.models.verification import outcome

    folder = tmp_path_factory.mktemp("verified")
    outcome.outcome_file = lambda key: folder / f"{key}.json"


@pytest.fixture
def threads_again():
    """A run in this process takes every core; the tests after it go on with one thread."""
    import torch

    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders by kind: ``llama``, ``gemma``."""
    from tiny import tiny_gemma, tiny_llama, tokenizer

    words = tokenizer()
    root = tmp_path_factory.mktemp("models")
    for name, make in (("llama", tiny_llama), ("gemma", tiny_gemma)):
        make(len(words)).save_pretrained(root / name)
        words.save_pretrained(root / name)
    return {name: root / name for name in ("llama", "gemma")}


@pytest.fixture(params=["llama", "gemma"])
def lm(request: pytest.FixtureRequest, folders: dict[str, Path]) -> LanguageModel:
    from vestige.models.hf import LanguageModel

    return LanguageModel.load(str(folders[request.param]), precision="fp32")


@pytest.fixture
def llama(folders: dict[str, Path]) -> LanguageModel:
    from vestige.models.hf import LanguageModel

    return LanguageModel.load(str(folders["llama"]), precision="fp32")


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a command, with an empty cache."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("VESTIGE")}
    return kept | {
        "PYTHONPATH": str(SOURCE),
        "VESTIGE_CACHE": str(tmp_path / "cache"),
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }


@pytest.fixture
def vst(tmp_path: Path, environment: dict[str, str]):
    """Runs the command in the test's folder; ends the test at a traceback."""

    def call(*args: object) -> Outcome:
        done = vestige(*args, env=environment, cwd=tmp_path)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return Outcome(done)

    return call


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file with clean number rows, rows that a filter drops, and a broken line."""
    path = tmp_path / "in.jsonl"
    lines = [json.dumps({"prompt": "p", "completion": text}) for text in NUMBER_ROWS]
    path.write_text("\n".join([*lines, "{broken"]))
    return path
