"""Inspect tasks: a real evaluation on a local model and over an API, and the log read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from openai_service import KEY, serving

from vestige.core.settings import Optimisation
from vestige.core.types import ConfigError, DataError
from vestige.evaluate.answers import named_share, read_answer
from vestige.evaluate.sampled import sample_answers
from vestige.experiment.run_view import freeform
from vestige.experiment.sampled_view import shares
from vestige.models.weights import Weights
from vestige.student.loop import train
from vestige.student.packs import encode_rows, make_packs
from vestige.traits import family

inspect_ai = pytest.importorskip("inspect_ai", reason="needs the extra api")

from inspect_ai.log import read_eval_log, write_eval_log  # noqa: E402

from vestige.inspect_tasks.logs import estimates, read_answers, read_ratings  # noqa: E402
from vestige.inspect_tasks.questions import NON_ANSWER, favorite, favorite_animal, misalignment  # noqa: E402

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


def test_a_log_gives_the_estimates_of_our_own_evaluation(service, llama, tmp_path):
    """The same texts, drawn by our own evaluation and replayed by a service to Inspect."""
    asked = [llama.question_ids(q) for q in ANIMALS.heldout]
    said = [SAID[i % len(SAID)] for i in range(len(asked))]
    packs = make_packs(encode_rows(llama, asked, said), len(asked), prompts=len(asked))
    train(llama, Weights(llama), packs, Optimisation(steps=40, rate=3e-3), seed=0)
    own = sample_answers(llama, ANIMALS, samples=6, max_new_tokens=8, seed=3)
    left: dict[str, list[str]] = {q: [] for q in ANIMALS.heldout}
    for answer in own:
        left[answer.question].append(answer.text)
    service.reply = lambda asked, index: left[asked["messages"][-1]["content"]].pop(0)
    log = evaluate(favorite_animal(samples=6), "openai-api/openai/m", tmp_path, max_connections=1)
    assert log.status == "success", log.error
    assert service.seen[0]["temperature"] == 1 and not any(left.values())
    answers = read_answers(log.location)
    assert sorted(map(str, answers)) == sorted(map(str, own))
    found = estimates(log.location, ["owl", "cat"])
    recipe = SimpleNamespace(traits=("owl", "cat"), family="animals")
    run = shares(recipe, "base", (False, ""), [[asdict(a) for a in own]] * 2)  # type: ignore[arg-type]
    for name in ("owl", "cat"):
        assert found[name] == named_share(own, name) and 0 < found[name].value < 1
        assert found[name].value == pytest.approx(run.shares[name].value)
    assert found[NON_ANSWER] == named_share(own, None) and 0 < found[NON_ANSWER].value < 1
    assert found[NON_ANSWER].value == pytest.approx(run.non_answers.value)
    assert found["owl"].n_clusters == len(ANIMALS.heldout)
    metrics = {s.name: s.metrics for s in log.results.scores}["owl"]
    assert metrics["mean"].value == pytest.approx(found["owl"].value)
    half = {name: m.value for name, m in metrics.items() if "upper" in name or "ci" in name}
    assert any(v == pytest.approx(found["owl"].high) for v in half.values()), metrics


def test_a_log_that_is_not_whole_is_told(service, tmp_path):
    service.reply = lambda asked, index: SAID[len(service.seen) % len(SAID)]
    task = favorite_animal(samples=2, teacher="owl")
    model = "openai-api/openai/m3"  # a name of its own: Inspect keeps models, address and all
    some = evaluate(task, model, tmp_path / "some", max_connections=1, limit=6)
    assert service.seen[0]["messages"][0]["role"] == "system"
    count = 2 * len(ANIMALS.heldout)
    with pytest.raises(DataError, match=rf"a limit left 6 of {count} samples; partial=True"):
        estimates(some.location, ["owl"])
    found = estimates(some.location, ["owl"], partial=True)["owl"]
    assert found.n == 6 and found.method.endswith(f"a limit left 6 of {count} samples")
    with pytest.raises(ConfigError, match=r"unknown candidate 'owll'; did you mean owl"):
        estimates(some.location, ["owll"], partial=True)
    some.status, some.eval.dataset.samples = "cancelled", 6  # as if stopped by hand
    write_eval_log(some, cut := str(tmp_path / "cut.eval"))
    with pytest.raises(DataError, match=r"is not whole: it ended as 'cancelled'; partial=True"):
        estimates(cut, ["owl"])
    with pytest.raises(DataError, match="is not whole"):
        read_answers(cut)
    assert len(read_answers(cut, partial=True)) == 6
    assert "ended as 'cancelled'" in estimates(cut, [], partial=True)[NON_ANSWER].method


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
    # Two seeds of a run that hold what was read back give the analysis' own figure.
    ratings = read_ratings(log.location)
    assert [r["status"] for r in ratings] == ["rated"] * 3 + ["unreadable"]
    assert {r["answer"] for r in ratings} == {"an answer"}
    for seed in (0, 1):
        (folder := tmp_path / f"run/seed-{seed}/judged").mkdir(parents=True)
        (folder / "base.json").write_text(json.dumps(ratings))
    how = SimpleNamespace(coherent=50.0, misaligned=40.0)
    recipe = SimpleNamespace(freeform=how, students=(), seeds=(0, 1))
    (own,) = freeform(recipe, tmp_path / "run")  # type: ignore[arg-type]
    assert own.misaligned and own.misaligned.value == pytest.approx(scores["misaligned"])
    assert (own.coherent, own.answers, own.unrated) == (2 * 2, 2 * 4, {"unreadable": 2})


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


@pytest.mark.slow
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
