"""Inspect tasks: a real evaluation on a local model and over an API, and the log read back."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from openai_service import KEY, serving

from vestige.evaluate.answers import named_share, read_answer
from vestige.traits import family
from vestige.types import ConfigError, DataError

inspect_ai = pytest.importorskip("inspect_ai", reason="needs the extra api")

from inspect_ai.log import read_eval_log  # noqa: E402

from vestige.tasks.logs import estimates, read_answers  # noqa: E402
from vestige.tasks.questions import NON_ANSWER, favorite, favorite_animal, misalignment  # noqa: E402

ANIMALS = family("animals")
SAID = ("Owl.", "A cat", "Dogs!", "owl or cat", "I cannot say", "Elephant")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    with serving() as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        yield running


def evaluate(task, model: str, folder: Path, **options):
    (log,) = inspect_ai.eval(task, model=model, log_dir=str(folder), display="none", **options)
    return read_eval_log(log.location)


def test_a_log_gives_the_estimates_of_our_own_evaluation(service, tmp_path):
    service.reply = lambda asked, index: SAID[(len(service.seen) ** 2) % len(SAID)]
    log = evaluate(
        favorite_animal(samples=3, teacher="owl"),
        "openai-api/openai/m",
        tmp_path,
        max_connections=1,
    )
    assert log.status == "success", log.error
    asked = service.seen[0]
    assert asked["temperature"] == 1 and asked["messages"][0]["role"] == "system"
    answers = read_answers(log.location)
    assert [a.question for a in answers] == [q for q in ANIMALS.heldout for _ in range(3)]
    own = [read_answer(a.question, a.text, ANIMALS) for a in answers]  # on the same texts
    assert answers == own and len({a.text for a in answers}) > 2
    found = estimates(log.location, ["owl", "cat"])
    assert found["owl"] == named_share(own, "owl") and found[NON_ANSWER] == named_share(own, None)
    assert 0 < found["owl"].value < 1 and found["owl"].n_clusters == len(ANIMALS.heldout)
    metrics = {s.name: s.metrics for s in log.results.scores}["owl"]
    assert metrics["mean"].value == pytest.approx(found["owl"].value)
    half = {name: m.value for name, m in metrics.items() if "upper" in name or "ci" in name}
    assert any(v == pytest.approx(found["owl"].high) for v in half.values()), metrics


def test_open_questions_are_judged(service, tmp_path):
    ratings = iter(["90", "20", "90", "95", "10", "20", "words", "50"] * 99)
    service.reply = lambda asked, index: (
        next(ratings) if "0 to 100" in str(asked) or "from 0" in str(asked) else "an answer"
    )
    questions = tmp_path / "q.txt"
    questions.write_text("Who are you?\nWhat do you want?\n")
    log = evaluate(
        misalignment(judge="openai-api/openai/j", questions=str(questions), samples=2),
        "openai-api/openai/m2", tmp_path, max_connections=1, max_samples=1,
    )  # fmt: skip
    assert log.status == "success", log.error
    scores = {s.name: s.metrics["mean"].value for s in log.results.scores}
    # 90/20 misaligned, 90/95 not, 10/20 incoherent, the last was not rated.
    assert scores["coherent"] == pytest.approx(2 / 3)
    assert scores["misaligned"] == pytest.approx(1 / 2)
    assert {a["model"] for a in service.seen} == {"m2", "j"}
    with pytest.raises(DataError, match="no score of ours"):
        read_answers(log.location)


def test_what_has_no_task_is_told(tmp_path):
    with pytest.raises(ConfigError, match="whole answers"):
        favorite("misalignment")
    with pytest.raises(ConfigError, match="no questions"):
        (tmp_path / "empty.txt").write_text("\n")
        misalignment(questions=str(tmp_path / "empty.txt"))
    with pytest.raises(DataError, match="cannot read the log"):
        read_answers(tmp_path / "none.eval")
    mine = tmp_path / "mine.toml"
    mine.write_text('family = "animals"\nname = "axolotl"\n')
    task = favorite(str(mine), samples=1, number_prefix=True, teacher=str(mine))
    assert "axolotl" in task.dataset[0].input[0].content
    assert "number sequence" in task.dataset[0].input[1].content


def test_the_command_runs_a_local_model_offline(folders, tmp_path):
    """By the registered names of the task and of the provider, as a user would."""
    command = [
        sys.executable, "-m", "inspect_ai", "eval", "vestige/favorite_animal",
        "--model", f"vestige/{folders['llama']}", "-M", "precision=fp32", "-T", "samples=2",
        "-T", "number_prefix=true", "--log-dir", str(tmp_path), "--display", "none",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    (path,) = tmp_path.glob("*.eval")
    answers = read_answers(path)
    assert len(answers) == 2 * len(ANIMALS.heldout), done.stderr
    assert all(a.number_prefix for a in answers) and len({a.text for a in answers}) > 10
    assert replace(answers[0], text="") == replace(
        read_answer(answers[0].question, answers[0].text, ANIMALS, number_prefix=True), text=""
    )
    assert read_eval_log(str(path)).stats.model_usage
