"""``vestige write`` and judges by an API model: killed, refused, odd replies."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from api_cases import ask, one
from openai_service import KEY
from typer.testing import CliRunner

from vestige.api import model
from vestige.api.ledger import Ledger
from vestige.cli.main import app
from vestige.core.types import Row, VestigeError
from vestige.experiment import rows_only
from vestige.rows.files import read_rows

pytest.importorskip("inspect_ai", reason="needs the extra api")


RECIPE = """
from vestige.carriers.numbers import NumberCarrier
from vestige.experiment import rows_only
from vestige.experiment.recipe import Experiment, Student, TeacherSettings

def recipe():
    return Experiment(
        name="api", model="api:m", traits=("owl", "cat"), seeds=(0, 1),
        teacher=TeacherSettings(kind="system_prompt"),
        carrier=NumberCarrier(n_prompts=5, rows_per_prompt=4, constrained=False, min_rows=1),
        students=(Student(name="rows", method="rows", no_trait=False),),
    )
"""


ROWS = 2 * 2 * 5 * 4


KILLS = min(3, int(os.environ.get("VESTIGE_CHAOS_KILLS", "1")))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return path


# ---- vestige write ---------------------------------------------------------------------------


def invoke(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    return json.loads(done.stdout)


def test_teachers_write_rows(service, recipe, tmp_path):
    where = ("write", recipe, "--root", tmp_path / "runs", "--prices", "1,2")
    priced = invoke(*where, "--dry-run")
    assert (priced["rows"], priced["requests"]) == (ROWS, ROWS // 4) and not service.seen
    assert priced["tokens_about"] < priced["tokens_at_most"] and priced["dollars_at_most"] > 0
    service.faults = ["fewer", "empty", "429", "truncated"]
    done = invoke(*where)
    assert [(w["seed"], w["trait"]) for w in done["rows"]] == [
        (0, "owl"), (0, "cat"), (1, "owl"), (1, "cat")
    ]  # fmt: skip
    assert all(w["seen"] == w["kept"] == 20 for w in done["rows"])
    told = {a["messages"][0]["content"] for a in service.seen}
    assert len(told) == 2 and any("owl" in text for text in told)
    assert len({a["seed"] for a in service.seen}) > 10  # a seed of its own for each request
    rows = [r for r in read_rows(done["rows"][0]["path"]) if isinstance(r, Row)]
    assert len({row.id for row in rows}) == 20 and rows[0].messages[0].role == "user"
    calls = len(service.seen)
    assert invoke(*where)["rows"] == done["rows"] and len(service.seen) == calls
    assert done["spent"]["dollars"] > 0 and invoke(*where, "--dry-run")["requests"] <= 2


def test_what_an_api_cannot_do_is_told_first(service, recipe, tmp_path):
    root = ("--root", str(tmp_path / "runs"))

    def refused(*arguments: str) -> str:
        return str(CliRunner().invoke(app, [*arguments, *root]).exception)

    told = refused("write", str(recipe), "teacher.kind=tuned", "carrier.constrained=true")
    assert "teacher.kind=system_prompt" in told and "carrier.constrained=false" in told
    assert "vestige write" in refused("run", str(recipe))
    assert "behind an API" in refused("write", str(recipe), "carrier.opening=12")
    assert not service.seen and not (tmp_path / "runs").exists()


def test_missing_answers_are_told_and_asked_for_again(service, recipe, tmp_path):
    where = ("write", recipe, "--root", tmp_path / "runs")
    service.faults = ["empty"] * 30
    failed = CliRunner().invoke(app, [*map(str, where)])
    assert "20 of 20 rows got no answer (20 x no choices" in str(failed.exception)
    service.faults = []
    assert [w["seen"] for w in invoke(*where)["rows"]] == [20] * 4


def test_a_service_that_gives_one_answer_a_request(service, recipe, tmp_path):
    service.choices = 1
    where = ("write", recipe, "carrier.rows_per_prompt=8", "--root", tmp_path / "runs")
    done = invoke(*where)
    assert [w["seen"] for w in done["rows"]] == [40] * 4 and len(service.seen) == 160
    rows = [row for row in read_rows(done["rows"][0]["path"]) if isinstance(row, Row)]
    assert len({row.completion for row in rows}) == len(rows)
    shutil.rmtree(Path(done["rows"][3]["path"]).parent)
    invoke(*where)
    assert len(service.seen) == 160  # all of it is known, under the same keys


def vestige(recipe: Path, root: Path, *options: str) -> subprocess.Popen[str]:
    """The command in a process of its own, which says at its end whether it has loaded torch."""
    code = (
        "import atexit, sys; atexit.register(lambda: print('torch:', 'torch' in sys.modules)); "
        "from vestige.cli.main import main; main()"
    )
    command = [sys.executable, "-c", code, *options, "write", str(recipe), "--root", str(root)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def test_a_killed_write_goes_on_and_pays_nothing_twice(service, recipe, tmp_path):
    service.delay = 0.15
    whole = invoke("write", recipe, "--root", tmp_path / "whole")
    service.seen.clear()
    root = tmp_path / "killed"
    for kills in range(1, KILLS + 1):
        running = vestige(recipe, root)
        while len(service.seen) < 5 * kills and running.poll() is None:
            time.sleep(0.02)
        running.kill()
        assert running.wait() == -signal.SIGKILL
    answered = {
        key for ledger in root.glob("*/ledger.jsonl") for key in Ledger(ledger).answers
    }  # what was on the disk when it was killed
    before = len(service.seen)
    out, err = vestige(recipe, root, "--debug").communicate()
    assert "rows kept" in out and "torch: False" in out, err
    assert len(service.seen) - before == ROWS // 4 - len(answered)
    assert len(service.seen) <= ROWS // 4 + KILLS * 8  # 8: in flight at a kill
    for path in (Path(w["path"]) for w in whole["rows"]):
        twin = next(root.glob("*")) / path.relative_to(next((tmp_path / "whole").glob("*")))
        assert twin.read_bytes() == path.read_bytes()
    assert holders(tmp_path) == [] and KEY not in out + err


@pytest.mark.parametrize("command", ["judge", "paraphrase"])
@pytest.mark.parametrize("fault", ["cut", "truncated", "500", "401"])
def test_what_came_before_a_fault_is_kept(service, tmp_path, monkeypatch, command, fault):
    monkeypatch.setattr(model, "GIVE_UP", 3)
    service.reply = lambda asked, _: "85"
    lines = [json.dumps({"prompt": "p", "completion": f"text {n}"}) for n in range(20)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    more = ["--dropped", "gone"] if command == "paraphrase" else []
    options = [command, "in.jsonl", "--model", "m", "--out", "out", "--json", *more]
    service.faults = [""] * 7 + [fault] * 999
    with chdir(tmp_path):
        failed = CliRunner().invoke(app, options)
        assert isinstance(failed.exception, VestigeError)
        ledger = Ledger(next(tmp_path.glob("*.ledger")))
        assert len(ledger.answers) == 7
        before, service.faults = len(service.seen), []
        done = CliRunner().invoke(app, options)
    assert json.loads(done.stdout)["rows"] == 20 and len(service.seen) - before == 20 - 7
    told = failed.output + "".join(traceback.format_exception(failed.exception)) + done.output
    assert KEY not in told and holders(tmp_path) == []
    if fault in ("401", "500"):
        assert "[key]" in next(tmp_path.glob("*.ledger")).read_text()


def holders(folder: Path) -> list[Path]:
    """The files below ``folder`` that hold the key."""
    return [p for p in folder.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]


def test_a_wrong_key_is_nowhere_to_be_read(service, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-wrong-key-123")
    out, err = vestige(recipe, tmp_path / "runs", "--debug").communicate()
    assert "refused the key" in err and "wrong-key" not in out + err
    assert all(
        b"wrong-key" not in p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()
    )
    assert "Bearer sk-a-wrong-key-123" in {h.get("authorization", "") for h in service.heads}


def test_a_local_model_writes_by_the_same_command(recipe, tmp_path, folders, monkeypatch):
    monkeypatch.setattr(rows_only, "usable_threads", lambda: 1)
    done = invoke(
        "write", recipe, f"model={folders['llama']}", "seeds=0,1", "teacher.min_probability=0",
        "teacher.min_carrier=0", "carrier.constrained=true", "carrier.n_prompts=2",
        "--root", tmp_path / "runs",
    )  # fmt: skip
    assert [w["seen"] for w in done["rows"]] == [8] * 4 and done["spent"] is None


@pytest.mark.usefixtures("threads_again")
def test_a_run_with_a_judge_keeps_no_key(service, recipe, tmp_path, folders):
    service.reply = lambda asked, _: "85"
    service.faults = ["500", "truncated", "429"]
    done = invoke(
        "run", recipe, f"model={folders['llama']}", "seeds=0,1", "teacher.min_probability=0",
        "teacher.min_carrier=0", "carrier.constrained=true", "carrier.n_prompts=2",
        'judge={"model": "m"}', "students.optimisation.steps=2", "students.optimisation.batch=2",
        "--root", tmp_path / "runs", "--workers", "1",
    )  # fmt: skip
    (folder,) = (tmp_path / "runs").iterdir()
    names = {path.name for path in folder.rglob("*")}
    assert {"run.json", "report.html", "results.json", "ledger.jsonl", "ratings.jsonl"} <= names
    assert len(service.seen) > 3 and holders(tmp_path) == [] and KEY not in str(done)
    assert "[key]" in (folder / "ledger.jsonl").read_text()


# ---- odd replies --------------------------------------------------------------------------------


def test_what_was_paid_for_is_written_whatever_it_holds(service, recipe, tmp_path):
    """A lone surrogate, and what other readers take for the end of a line, in every answer."""
    odd = "12, 44 \ud83d\u2028 or\x85 13"
    service.reply = lambda asked, index: odd
    options = ["write", str(recipe), "carrier.max_dropped=1.0", "--root", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    folder = Path(json.loads(done.stdout)["run"])
    (raw, *_) = sorted(folder.glob("seed-0/rows/owl/raw.jsonl"))
    rows = list(read_rows(raw))
    assert len(rows) == 20 and all(isinstance(r, Row) and r.completion == odd for r in rows)
    asked = len(service.seen)
    again = CliRunner().invoke(app, options)
    assert again.exit_code == 0 and len(service.seen) == asked  # nothing is paid twice


def test_an_absent_log_probability_is_none(service, tmp_path):
    """NaN, and the -9999 that stands for no value, are left out of what is kept of an answer."""
    service.top = {"85": 0.6}
    reply, ledger = one(tmp_path, ask(choices=1))
    assert reply.choices[0].top == {"85": pytest.approx(-0.5108, abs=1e-3)}

    def entry(token: str, logprob: float) -> SimpleNamespace:
        return SimpleNamespace(token=token, logprob=logprob)

    first = SimpleNamespace(
        token="85", top_logprobs=[entry("85", -0.1), entry("9", math.nan), entry("8", -9999.0)]
    )
    message = SimpleNamespace(content="85", text="85")
    choice = SimpleNamespace(
        message=message, stop_reason="stop", logprobs=SimpleNamespace(content=[first])
    )
    found = model.answer_of(SimpleNamespace(choices=[choice]))
    assert found["choices"][0]["top"] == {"85": -0.1}
    assert b"NaN" not in ledger.path.read_bytes()


def test_replies_of_other_forms_are_read_or_named():
    def reply(**fields: Any) -> Any:
        async def ask() -> Any:
            return SimpleNamespace(**fields)

        return asyncio.run(model.readable(ask)())

    message = SimpleNamespace(
        content=[{"type": "text", "text": "8"}, {"type": "text", "text": "5"}]
    )
    found = reply(choices=[SimpleNamespace(message=message)])
    assert found.choices[0].message.content == "85"
    with pytest.raises(ValueError, match="answered with upstream overloaded"):
        reply(choices=None, error={"message": "upstream overloaded", "code": 502})
    with pytest.raises(ValueError, match="no choices"):
        reply(choices=None)


def test_a_lone_surrogate_in_a_question_is_sent_as_a_question_mark(service, tmp_path):
    reply, _ = one(tmp_path, ask("odd \ud83d", choices=1))
    assert reply.choices and service.seen[-1]["messages"][-1]["content"] == "odd ?"
