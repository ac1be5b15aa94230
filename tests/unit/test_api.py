"""API models against a real service on this machine: faults, limits, kills, keys."""

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
import tracemalloc
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from openai_service import KEY, Service, serving
from typer.testing import CliRunner

from vestige.api import model
from vestige.api.ledger import Ledger
from vestige.api.model import ApiModel
from vestige.api.requests import Reply, Request
from vestige.api.settings import Limits, Tokens, parse_prices
from vestige.cli.main import app
from vestige.core.redaction import redact
from vestige.core.types import ConfigError, Message, ModelError, Row, SpendingError, VestigeError
from vestige.evaluate.judge.rate import rate
from vestige.evaluate.judge.settings import JudgeSettings
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
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(model, "BACKOFF", 0.02)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("TOKENS", "DOLLARS"):
        monkeypatch.delenv(f"VESTIGE_MAX_{name}", raising=False)
    monkeypatch.delenv("VESTIGE_PRICES", raising=False)
    with serving() as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        yield running


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return path


def ask(text: str = "hello", **changes: Any) -> Request:
    given: dict[str, Any] = {"choices": 4, "top": 3} | changes
    return Request((Message("system", "be brief"), Message("user", text)), 16, **given)


def one(folder: Path, request: Request, **options: Any) -> tuple[Reply, Ledger]:
    ledger = Ledger(folder / "ledger.jsonl")
    ((_, reply),) = ApiModel("api:m", ledger, **options).answers([request])
    return reply, ledger


@pytest.mark.parametrize(
    ("faults", "calls", "lost"),
    [([], 1, 0), (["429"], 2, 0), (["500", "429"], 3, 0), (["slow"], 2, 1), (["cut"], 2, 1),
     (["truncated"], 2, 1), (["no-usage"], 1, 1)],
)  # fmt: skip
def test_what_may_pass_is_tried_again(service, tmp_path, faults, calls, lost):
    service.faults = list(faults)
    reply, ledger = one(tmp_path, ask(), timeout=3 if "slow" in faults else 30)
    assert [c.text for c in reply.choices] == [service.reply(service.seen[-1], i) for i in range(4)]
    assert reply.choices[0].token == "85" and len(reply.choices[0].top or {}) == 3
    assert len(service.seen) == calls
    # Three words read, four times five written; what a lost attempt cost counts at its most.
    known = 0 if "no-usage" in faults else 23
    assert ledger.spent.total == known + lost * ask().most.total
    assert ledger.spent.total >= service.billed
    again, _ = one(tmp_path, ask())
    assert again == reply and len(service.seen) == calls


def test_what_is_missing_is_told(service, tmp_path):
    service.faults = ["empty", "fewer", "no-logprobs", "400"]
    found = [one(tmp_path, ask(number=n))[0] for n in range(4)]
    assert [len(reply.choices) for reply in found] == [0, 2, 4, 0]
    assert found[0].error == "no choices in the reply" and found[2].choices[0].top is None
    assert found[3].status == 400 and "logprobs are not supported" in found[3].error
    service.faults = ["500"] * 9
    lost, ledger = one(tmp_path, ask(number=5), retries=2)
    assert lost.status == 500 and "something broke" in lost.error and len(service.seen) == 7
    assert ledger.spent.total == service.billed


def test_a_wrong_key_and_an_unknown_model(service, tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "l")
    with pytest.raises(ConfigError, match=r"does not know unheard-of: .*does not exist"):
        list(ApiModel("api:unheard-of", ledger).answers([ask()]))
    with pytest.raises(ConfigError, match="nobody of model 'nobody/x' not recognized"):
        list(ApiModel("api:nobody/x", ledger).answers([ask()]))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-wrong-key-123")
    with pytest.raises(ConfigError, match=r"refused the key: .*provided: \[key\]") as caught:
        list(ApiModel("api:m", ledger).answers([ask()] * 3))
    assert "wrong-key" not in "".join(traceback.format_exception(caught.value))
    assert "wrong-key" not in (tmp_path / "l").read_text()
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="No OPENAI_API_KEY defined"):
        list(ApiModel("api:m", ledger).answers([ask()]))
    assert ledger.spent == Tokens()


def test_a_service_that_is_gone_costs_nothing_and_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(model, "BACKOFF", 0.0)
    monkeypatch.setattr(model, "GIVE_UP", 3)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    ledger = Ledger(tmp_path / "l")
    asked = ApiModel("m", ledger, retries=1, connections=1).answers([ask(str(n)) for n in range(9)])
    with pytest.raises(ModelError, match=r"3 requests in a row .*have failed"):
        list(asked)
    assert ledger.spent == Tokens()


def test_any_provider_of_inspect(service, tmp_path):
    """The same service through Inspect's own openai provider: another model name, no more."""
    ledger = Ledger(tmp_path / "l")
    ((_, reply),) = ApiModel("api:openai/gpt-4.1-nano", ledger).answers([ask(choices=2)])
    assert len(reply.choices) == 2 and service.seen[0]["model"] == "gpt-4.1-nano"


def test_the_limit_is_never_passed(service, tmp_path):
    requests = [ask(str(n), choices=1) for n in range(40)]
    most = requests[0].most.total
    limit = 200
    ledger = Ledger(tmp_path / "l", Limits(tokens=limit))
    seen = []
    with pytest.raises(SpendingError, match=r"limit of 200 tokens is reached.*--max-tokens"):
        for index, _ in ApiModel("m", ledger).answers(requests):
            seen.append(index)
    assert limit - most < service.billed <= limit and ledger.spent.total == service.billed
    assert len(ledger.answers) == len(seen) == len(service.seen) < 40
    more = Ledger(tmp_path / "l", Limits(dollars=1.0, prices=(10.0, 100.0)))
    assert len(list(ApiModel("m", more).answers(requests))) == 40
    assert len(service.seen) == 40  # nothing was asked twice


def test_a_ledger_survives_kills_and_is_shared(tmp_path):
    path, limits = tmp_path / "l", Limits(tokens=100)
    first, second = Ledger(path, limits), Ledger(path, limits)
    lost = first.reserve(Tokens(10, 20))  # and killed
    with path.open("a") as file:
        file.write('{"attempt": "cut o')
    mine = second.reserve(Tokens(10, 30))
    assert lost and mine and second.spent.total == 70
    assert second.reserve(Tokens(10, 40)) is None  # it may fit once its own is settled
    with pytest.raises(SpendingError, match="70 tokens are spent"):
        second.reserve(Tokens(50, 30))
    second.settle(mine, Tokens(5, 5), key="k", answer={"choices": []})
    again = Ledger(path, limits)
    assert again.spent.total == 40 and again.answer("k") == {"choices": []} and again.cut == 1
    assert "k" not in first.answers
    first.refresh()
    assert first.answer("k") == {"choices": []}
    assert first.reserve(Tokens(0, 60)) and not path.read_text().startswith("\n")


def test_answers_lie_on_the_disk_and_not_in_memory(tmp_path):
    lines = [
        json.dumps({"attempt": str(n), "used": [1, 1], "key": f"{n:064}", "answer": "é" * n})
        for n in range(2000)
    ]
    (tmp_path / "l").write_text("\n".join([*lines, ""]))
    tracemalloc.start()
    ledger = Ledger(tmp_path / "l")
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ledger.spent.total == 4000 and held / 2000 < 250 and peak / 2000 < 350
    assert ledger.answer(f"{1234:064}") == "é" * 1234


def test_what_another_process_has_got_meanwhile_is_not_asked(service, tmp_path):
    mine, other = Ledger(tmp_path / "l"), Ledger(tmp_path / "l")
    request = ask(choices=1)
    replies = ApiModel("m", mine).answers([request])
    list(ApiModel("m", other).answers([request]))
    assert "".join(c.text for _, r in replies for c in r.choices) and len(service.seen) == 1


def test_a_service_that_refuses_everything_is_given_up(service, tmp_path):
    service.faults = ["400"] * 99
    requests = [ask(str(n)) for n in range(60)]
    with pytest.raises(ModelError, match=r"refused 20 requests and answered none.*not supported"):
        list(ApiModel("m", Ledger(tmp_path / "l")).answers(requests))
    assert len(service.seen) < 20 + 8
    rows = [Row(str(n), (Message("user", "Q"),), str(n)) for n in range(60)]
    service.seen.clear()
    with pytest.raises(ModelError, match="refused 20 requests"):
        rate(rows, JudgeSettings(model="m"), tmp_path / "ratings")
    assert len(service.seen) == 20
    service.seen.clear()
    service.faults = ["", *["400"] * 59]  # one is answered: the others are their own affair
    found = list(ApiModel("m", Ledger(tmp_path / "l")).answers(requests))
    assert sorted({r.status for _, r in found}) == [200, 400] and len(service.seen) == 60
    service.faults = ["400"] * 59
    again = list(ApiModel("m", Ledger(tmp_path / "l")).answers(requests))  # nor after a restart
    assert [r.status for _, r in again].count(400) == 59


def test_a_judge_that_has_rated_rows_may_refuse_others(service, tmp_path):
    service.reply = lambda asked, _: "85"
    rows = [Row(str(n), (Message("user", "Q"),), str(n)) for n in range(40)]
    settings = JudgeSettings(model="m", max_lost=1.0)
    rate(rows[:1], settings, tmp_path / "ratings")
    service.faults = ["400"] * 99
    found = rate(rows, settings, tmp_path / "ratings")
    assert [r.status for r in found.values()].count("failed") == 39


def test_limits_and_prices():
    assert Limits(prices=(1.0, 4.0)).cost(Tokens(500_000, 250_000)) == 1.5
    with pytest.raises(ConfigError, match="needs prices"):
        Limits(dollars=1.0)
    for wrong in ("1", "a,b", "1,-2", "1,2,3", "nan,1"):
        with pytest.raises(ConfigError, match="two numbers"):
            parse_prices(wrong)


def test_redaction(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "topsecretvalue")
    assert redact("x topsecretvalue at http://me:pw@host/v1") == "x [key] at http://[key]@host/v1"


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
