"""API models against a real service on this machine: faults, limits, kills, keys."""

from __future__ import annotations

import json
import traceback
import tracemalloc

import pytest
from api_cases import ask, one
from openai_service import KEY

from vestige.api import model
from vestige.api.ledger import Ledger
from vestige.api.model import ApiModel
from vestige.api.settings import Limits, Tokens, parse_prices
from vestige.core.redaction import redact
from vestige.core.types import ConfigError, Message, ModelError, Row, SpendingError
from vestige.evaluate.judge.rate import rate
from vestige.evaluate.judge.settings import JudgeSettings

pytest.importorskip("inspect_ai", reason="needs the extra api")


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
