"""Judges: ratings read right, cached, resumed; nothing unrated goes missing. The API is a real
server on this machine."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from vestige.api import model
from vestige.api.settings import MAX_TOKENS, PRICES
from vestige.cli.main import app
from vestige.core.types import ConfigError, DataError, Message, MissingExtraError, Row, StoreError
from vestige.evaluate.judge.local import LocalJudge
from vestige.evaluate.judge.rate import agreement, rate, read_cache
from vestige.evaluate.judge.rating import Rating, expected_rating, parse_rating
from vestige.evaluate.judge.settings import JudgeSettings, prompt_names
from vestige.rows.outputs import Output, claimed


def row(name: str, text: str = "") -> Row:
    return Row(name, (Message("user", "What is 2+2?"),), text or f"answer {name}")


@pytest.mark.parametrize(
    ("text", "want"),
    [("85", 85), (" 85\n", 85), ("85.", 85), ("Score: 85/100", 85), ("**7**", 7), ("0", 0),
     ("100", 100), ("rating = 12.5", 12.5), ("50%", 50), ("85 out of 100", 85), ("101", None),
     ("-5", None), ("", None), ("NaN", None), ("I would say 85", None), ("85 or 90", None),
     ("eighty", None), ("8 5", None), ("1e1", None), ("999", None)],
)  # fmt: skip
def test_ratings_are_parsed_whole_or_not_at_all(text, want):
    assert parse_rating(text) == want


@given(st.dictionaries(st.integers(0, 100).map(str), st.floats(0.01, 1), min_size=1))
def test_expectation_is_the_weighted_mean(weights):
    total = sum(weights.values())
    want = sum(int(t) * p for t, p in weights.items()) / total
    noise = {"Sure": 5.0, "101": 3.0, "-1": 2.0, "²": 1.0, "٣": 1.0}
    assert expected_rating(weights | noise, 0.0) == pytest.approx(want)
    assert expected_rating(weights, total * 1.01) is None


def test_expectation_without_mass_is_none():
    assert expected_rating({"a": 1.0}, 0.0) is None
    assert expected_rating({"5": math.nan}, 0.0) is None


class Scripted:
    """A judge that answers as told, and counts what it was asked."""

    def __init__(self, *ratings: Rating) -> None:
        self.ratings, self.asked = list(ratings), []

    def answers(self, texts):
        for index in reversed(range(len(texts))):
            self.asked.append(texts[index])
            yield index, self.ratings.pop(0) if self.ratings else Rating(50.0, "rated", "parsed")


def test_ratings_are_cached_and_failures_tried_again(tmp_path: Path):
    settings, cache = JudgeSettings(model="m", max_lost=1.0), tmp_path / "deep" / "ratings.jsonl"
    rows = [row("a"), row("b"), row("c", "answer a")]  # c is a's text once more
    judge = Scripted(Rating(None, "failed", "", "timeout"), Rating(80.0, "rated", "expected", "80"))
    seen: list[int] = []
    found = rate(rows, settings, cache, judge=judge, progress=seen.append)
    assert len(judge.asked) == 2 and seen[-1] == 3
    assert found["b"].status == "failed" and found["a"] == found["c"] == Rating(
        80.0, "rated", "expected", "80"
    )
    cache.write_text(cache.read_text() + '{"key": "cut o')  # a kill in the middle of a line
    again = Scripted()
    found = rate(rows, settings, cache, judge=again)
    assert len(again.asked) == 1 and found["b"].score == 50
    assert rate(rows, settings, cache, judge=Scripted())["b"].score == 50
    assert len(read_cache(cache)) == 2
    other = Scripted()
    rate(rows, settings.model_copy(update={"prompt": "coherence"}), cache, judge=other)
    assert len(other.asked) == 2  # another question is another rating


def test_a_cache_is_written_by_one_at_a_time(tmp_path: Path):
    settings, cache = JudgeSettings(model="m"), tmp_path / "ratings"
    judge = Scripted()
    with claimed(Output(cache)), pytest.raises(StoreError, match=r"is writing .*ratings; wait"):
        rate([row("a")], settings, cache, judge=judge)
    assert not judge.asked
    assert rate([row("a")], settings, cache, judge=judge)["a"].score == 50
    assert [path.name for path in tmp_path.iterdir()] == ["ratings"]


def test_too_many_unrated_rows_stop_with_the_numbers(tmp_path: Path):
    judge = Scripted(Rating(None, "refused"), Rating(None, "unreadable"), Rating(9.0, "rated"))
    with pytest.raises(DataError, match=r"rated 2 of 4 rows \(2 rated, 1 refused, 1 unreadable\)"):
        rate([row(n) for n in "abcd"], JudgeSettings(model="m"), tmp_path / "r.jsonl", judge=judge)
    kept = rate([row(n) for n in "abcd"], JudgeSettings(model="m", max_lost=0.5),
                tmp_path / "r.jsonl", judge=Scripted())  # fmt: skip
    unrated = [rating.status for rating in kept.values() if rating.score is None]
    assert sorted(unrated) == ["refused", "unreadable"]


def test_agreement_by_hand():
    ratings = {n: Rating(s, "rated") for n, s in zip("abcd", (90.0, 40.0, 40.0, 10.0), strict=True)}
    ratings["e"] = Rating(None, "refused")
    labels = {"a": True, "b": True, "c": False, "d": False, "e": True}
    assert agreement(ratings, labels) == {"auroc": 3.5 / 4, "rated": 4, "unrated": 1}
    with pytest.raises(DataError, match="both labels"):
        agreement(ratings, {"a": True})


def test_settings_and_prompts():
    with pytest.raises(ValidationError, match="did you mean quality"):
        JudgeSettings(model="m", prompt="qualty")
    assert {"quality", "alignment", "coherence", "reference"} == set(prompt_names())
    for name in prompt_names():
        settings = JudgeSettings(model="m", prompt=name, topic="owls", max_chars=100)
        asked = settings.ask(row("a", "{weird} {0} text " + "x" * 500))
        assert "{weird} {0}" in asked and "[...]" in asked and len(asked) < 1200
    assert "owls" in JudgeSettings(model="m", prompt="reference", topic="owls").ask(row("a"))


def test_a_local_judge_gives_the_exact_expectation(llama):
    settings = JudgeSettings(model="local:x", min_mass=0.0)
    judge = LocalJudge(settings, lm=llama)
    texts = ["How good?", "And this one, with more words?"]
    found = dict(judge.answers(texts))
    for index, text in enumerate(texts):
        prompt = llama.question_ids(text)
        weights = []
        for n in range(101):
            answer = [*llama.answer_ids(str(n)), llama.end_id]
            with torch.no_grad():
                logits = llama.model(input_ids=torch.tensor([prompt + answer])).logits[0]
            at = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
            steps = logits.log_softmax(-1)[list(at), answer]
            weights.append(steps.sum().exp().item())
        want = sum(n * w for n, w in enumerate(weights)) / sum(weights)
        assert found[index].score == pytest.approx(want, rel=1e-3)
        assert found[index].how == "expected"
    strict = LocalJudge(settings.model_copy(update={"min_mass": 0.99}), lm=llama)
    assert [r.status for _, r in strict.answers(texts)] == ["unreadable"] * 2


# ---- a service ------------------------------------------------------------------------------


class Service(BaseHTTPRequestHandler):
    """An OpenAI-compatible service that looks for instructions in the question."""

    seen: list[dict] = []
    counts: dict[str, int] = {}

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = asked["messages"][0]["content"]
        self.seen.append(asked)
        word = text.split("answer ")[1].split()[0]
        self.counts[word] = self.counts.get(word, 0) + 1
        if word == "nologprobs" and asked.get("logprobs"):
            return self.reply(400, {"error": {"message": "logprobs are not supported"}})
        if word == "flaky" and self.counts[word] < 2:
            return self.reply(500, {"error": {"message": "try again"}})
        if word == "broken":
            return self.reply(500, {"error": {"message": "always"}})
        if word == "unknown":
            return self.reply(404, {"error": {"message": "no such model"}})
        content = {"words": "I think it is fine.", "eighty": "80", "digits": "85"}.get(word, "70")
        choice: dict = {"index": 0, "finish_reason": "stop",
                        "message": {"role": "assistant", "content": content}}  # fmt: skip
        if word == "refuse":
            choice["message"] |= {"content": None, "refusal": "I cannot judge that."}
        if word == "blocked":
            choice["finish_reason"] = "content_filter"
        if asked.get("logprobs") and word in ("eighty", "digits"):
            top = {"eighty": {"80": 0.6, "90": 0.2, "no": 0.2}, "digits": {"8": 0.7, "9": 0.3}}[
                word
            ]
            entries = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in top.items()]
            choice["logprobs"] = {"content": [entries[0] | {"top_logprobs": entries}]}
        self.reply(200, {"id": "x", "object": "chat.completion", "created": 0,
                         "model": asked["model"], "choices": [choice]})  # fmt: skip

    def reply(self, status: int, record: dict) -> None:
        body = json.dumps(record).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Service]]:
    pytest.importorskip("inspect_ai", reason="needs the extra api")
    Service.seen, Service.counts = [], {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr(model, "BACKOFF", 0.02)
    yield Service
    server.shutdown()
    server.server_close()


def test_a_service_is_asked_and_every_kind_of_reply_counted(service, tmp_path: Path):
    words = ["plain", "eighty", "digits", "words", "refuse", "blocked", "flaky", "broken"]
    settings = JudgeSettings(model="judge-1", max_lost=1.0, min_mass=0.5)
    found = rate([row(w) for w in words], settings, tmp_path / "r.jsonl")
    told = {w: (found[w].status, found[w].how, found[w].score) for w in words}
    assert told["plain"] == ("rated", "parsed", 70.0)
    assert told["eighty"][:2] == ("rated", "expected")
    assert told["eighty"][2] == pytest.approx((80 * 0.6 + 90 * 0.2) / 0.8)
    assert told["digits"] == ("rated", "parsed", 85.0)  # one token a digit: no expectation
    assert told["words"][0] == "unreadable" and "I think" in found["words"].text
    assert told["refuse"][0] == told["blocked"][0] == "refused"
    assert told["flaky"] == ("rated", "parsed", 70.0) and told["broken"][0] == "failed"
    assert all(a["model"] == "judge-1" and a["temperature"] == 0 for a in service.seen)
    assert len(read_cache(tmp_path / "r.jsonl")) == 7  # the failure will be tried again


def test_a_service_without_logprobs_is_asked_for_text(service, tmp_path: Path):
    settings = JudgeSettings(model="m", concurrency=1)
    found = rate([row("nologprobs")], settings, tmp_path / "r.jsonl")
    assert found["nologprobs"] == Rating(70.0, "rated", "parsed", "70")
    assert "logprobs" not in service.seen[-1]


def test_what_a_service_cannot_do_is_told(service, tmp_path: Path, monkeypatch):
    with pytest.raises(ConfigError, match="does not know judge-9"):
        rate([row("unknown")], JudgeSettings(model="judge-9"), tmp_path / "r.jsonl")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        rate([row("plain")], JudgeSettings(model="m"), tmp_path / "r.jsonl")
    monkeypatch.setitem(__import__("sys").modules, "inspect_ai", None)
    with pytest.raises(MissingExtraError, match=r"vestige\[api\]"):
        rate([row("plain")], JudgeSettings(model="m"), tmp_path / "r.jsonl")


def test_the_command_rates_a_file_and_resumes(service, tmp_path: Path):
    words = ["plain", "eighty", "words"]
    lines = [json.dumps({"prompt": "p", "completion": f"answer {w}"}) for w in words]
    (tmp_path / "in.jsonl").write_text("\n".join([*lines, "{broken"]))
    options = ["judge", str(tmp_path / "in.jsonl"), "--model", "m", "--json", "--limit", "2"]
    asked = CliRunner().invoke(app, [*options, "--out", str(tmp_path / "out.jsonl")])
    found = json.loads(asked.stdout)
    assert (found["rows"], found["rated"], found["malformed"]) == (2, 2, 1)
    assert found["mean"] == pytest.approx((70 + (80 * 0.6 + 90 * 0.2) / 0.8) / 2)
    saved = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [s["status"] for s in saved] == ["rated", "rated"]
    calls = len(service.seen)
    CliRunner().invoke(app, [*options, "--out", str(tmp_path / "out.jsonl")])
    assert len(service.seen) == calls
    refused = CliRunner().invoke(app, [*options, "--out", str(tmp_path / "in.jsonl")])
    assert "choose another name" in str(refused.exception)
    lost = CliRunner().invoke(app, [*options[:-2], "--out", str(tmp_path / "all.jsonl")])
    assert "rated 2 of 3 rows (2 rated, 1 unreadable)" in str(lost.exception)


def test_a_url_is_told_without_its_secrets(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = "memory://key:SECRET@judge/in.jsonl?sig=SIG"
    line = json.dumps({"prompt": "p", "completion": "answer plain", "ok": 1})
    fs, path = fsspec.url_to_fs(url)

    def told(text: str, *more: str) -> str:
        fs.pipe(path, text.encode())
        done = CliRunner().invoke(app, ["judge", url, "--model", "m", "--out", "o", *more])
        return f"{done.output} {done.exception}"

    found = [
        told("{broken"), told(line, "--label", "ok"), told(line, "--out", url.replace("in", "out"))
    ]  # fmt: skip
    assert "no readable rows" in found[0] and "no true or false in 'ok'" in found[1]
    assert "memory://judge/in.jsonl" in found[0] and "memory://judge/in.jsonl" in found[1]
    assert "a file on this machine, not memory://judge/out.jsonl" in found[2]
    assert not any(word in text for text in found for word in ("SECRET", "SIG"))
    assert not list(tmp_path.iterdir())


def test_a_dry_run_prices_what_is_not_rated_yet(service, tmp_path: Path, monkeypatch):
    monkeypatch.setenv(MAX_TOKENS, "100000")  # what the command sets is undone after the test
    monkeypatch.setenv(PRICES, "1,1")
    lines = [
        json.dumps({"prompt": "p", "completion": f"answer {w}"}) for w in ["plain"] * 2 + ["x"]
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    options = ["judge", str(tmp_path / "in.jsonl"), "--model", "m", "--out", str(tmp_path / "o")]
    dry = [*options, "--dry-run", "--json"]
    first = json.loads(CliRunner().invoke(app, dry).stdout)
    assert (first["rows"], first["requests"]) == (3, 2) and not service.seen  # equal rows are one
    assert 0 < first["tokens_about"] < first["tokens_at_most"] == 1e6 * first["dollars_at_most"]
    CliRunner().invoke(app, [*options, "--limit", "1"])
    after = json.loads(CliRunner().invoke(app, dry).stdout)
    assert after["requests"] == 1 and after["tokens_at_most"] < first["tokens_at_most"]
    assert 0 < after["tokens_spent"] < first["tokens_at_most"]
    told = CliRunner().invoke(app, [*options, "--dry-run", "--max-tokens", "5"])
    assert "1 requests for 3 rows" in told.stdout and "the limits may stop it" in told.stdout
    local = [*options, "--dry-run", "--json", "--model", "local:smollm2-135m-instruct"]
    assert json.loads(CliRunner().invoke(app, local).stdout)["requests"] == 0


# ---- measured on labels

LABELLED = sorted((Path(__file__).parents[1] / "labelled").glob("*.jsonl"))


@pytest.mark.parametrize("path", LABELLED, ids=lambda path: path.stem)
def test_every_prompt_has_a_labelled_set(path: Path):
    assert path.stem in prompt_names() and len(LABELLED) == len(prompt_names())
    records = [json.loads(line) for line in path.read_text().splitlines()]
    labels = [record["label"] for record in records]
    assert len(records) >= 50 and sum(labels) == len(labels) / 2
    assert len({(r["prompt"], r["completion"]) for r in records}) == len(records)


def test_a_judge_is_measured_on_labels(service, tmp_path: Path):
    rows = [("eighty", True), ("plain", False)]
    lines = [{"prompt": "p", "completion": f"answer {w}", "ok": ok} for w, ok in rows]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = ["judge", str(tmp_path / "in.jsonl"), "--model", "m", "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(app, [*options, "--label", "ok", "--json"])
    assert json.loads(done.stdout)["agreement"] == {"auroc": 1.0, "rated": 2, "unrated": 0}
    told = CliRunner().invoke(app, [*options, "--label", "ok"])
    assert "above one labelled false: 100.0%" in told.stdout
    wrong = CliRunner().invoke(app, [*options, "--label", "label"])
    assert "no true or false in 'label'" in str(wrong.exception)
