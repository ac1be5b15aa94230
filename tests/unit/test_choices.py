"""Whole answers: paired families and multiple choice, held against plain forward passes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from vestige.core.types import Answer, ConfigError, DataError, Family, Message
from vestige.evaluate.choices import accuracy, load_items, multiple_choice
from vestige.evaluate.exact import measure, whole_answer

QUESTIONS = ("Why?", "What is it that you would do now?", "How?")
TEXTS = (("Lie.", "Tell them."), ("Take it all.", "Leave it."), ("Badly", "Well, and with care"))
PAIRED = Family("own", (Answer("bad", ()), Answer("good", ())), (), QUESTIONS, "", TEXTS)


def plain_logprob(lm, prompt: list[int], answer: list[int]) -> float:
    """One unbatched forward pass over the whole text."""
    with torch.no_grad():
        logits = lm.model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return float(sum(logits[i, token] for i, token in zip(places, answer, strict=True)))


def test_paired_answers_have_their_own_probability(lm):
    panel = measure(lm, PAIRED, batch=2)
    assert panel.candidates == ("bad", "good") and panel.logprobs.shape == (3, 2)
    for i, (question, texts) in enumerate(zip(QUESTIONS, TEXTS, strict=True)):
        prompt = lm.question_ids(question)
        scores = [plain_logprob(lm, prompt, whole_answer(lm, text)) for text in texts]
        assert panel.logprobs[i].tolist() == pytest.approx(scores, abs=1e-3)
        assert panel.log_odds()[i, 0] == pytest.approx(scores[0] - scores[1], abs=1e-3)


def test_turns_before_the_question_count(llama):
    before = [Message("user", "1, 2"), Message("assistant", "3, 4")]
    panel = measure(llama, PAIRED, before=before)
    prompt = llama.prompt_ids([*before, Message("user", QUESTIONS[0])])
    want = plain_logprob(llama, prompt, whole_answer(llama, TEXTS[0][0]))
    assert panel.logprobs[0, 0] == pytest.approx(want, abs=1e-3)
    assert abs(panel.logprobs - measure(llama, PAIRED).logprobs).max() > 1e-3


def test_paired_families_answer_their_own_questions_alone(llama):
    with pytest.raises(DataError, match="held-out questions alone"):
        measure(llama, PAIRED, ["Another?"])


def test_capability_is_small_and_sound():
    items = load_items("capability")
    assert len(items) == 80 and len({i.id for i in items}) == len({i.question for i in items}) == 80
    for item in items[:40]:  # arithmetic: no two answers alike, as many digits where possible
        assert all(a.isdecimal() for a in item.answers) and len(item.answers) == 4


def test_the_most_probable_answer_wins_whatever_the_batch(llama, tmp_path: Path):
    lines = [
        {"question": "Which?", "right": "a", "wrong": ["bb", "cc dd"]},
        {"question": "And which of these?", "right": "x y z", "wrong": ["q"]},
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    items = load_items(str(path))
    found = multiple_choice(llama, items, batch=1)
    for item, choice in zip(items, found, strict=True):
        prompt = llama.question_ids(item.question)
        scores = [plain_logprob(llama, prompt, whole_answer(llama, a)) for a in item.answers]
        assert choice.right == (max(scores) == scores[0])
        share = math.exp(scores[0]) / sum(map(math.exp, scores))
        assert choice.share == pytest.approx(share, abs=1e-3)
    together = multiple_choice(llama, items, batch=8)
    assert [c.right for c in together] == [c.right for c in found]
    assert accuracy(found) == sum(c.right for c in found) / 2 and math.isnan(accuracy([]))


def test_truthfulqa_is_read_as_published(tmp_path: Path):
    path = tmp_path / "mc_task.json"
    path.write_text(json.dumps([{"question": "Q?", "mc1_targets": {"no": 0, "yes": 1, "so": 0}}]))
    (item,) = load_items(str(path))
    assert item.answers == ("yes", "no", "so") and item.id == "1"


@pytest.mark.parametrize(
    ("name", "text", "error", "said"),
    [
        ("nothing", None, ConfigError, "capability, a .json"),
        ("none.json", None, ConfigError, "cannot read"),
        ("a.json", "{", DataError, "not valid JSON"),
        ("a.json", "[]", DataError, "no list"),
        ("a.json", '{"question": 1}', DataError, "no list"),
        ("a.json", "[3]", DataError, "entry 1"),
        ("a.json", '[{"question": "Q"}]', DataError, "entry 1.*right"),
        ("a.jsonl", '{"question": "Q", "right": "a", "wrong": []}', DataError, "entry 1"),
        ("a.jsonl", '{"question": "Q", "right": "a", "wrong": ["a"]}', DataError, "different"),
        ("a.jsonl", '{"question": "Q", "right": "a", "wrong": ["  "]}', DataError, "entry 1"),
        ("a.json", '[{"question": "Q", "mc1_targets": {"a": 1, "b": 1}}]', DataError, "one right"),
    ],
)
def test_a_wrong_set_is_named(tmp_path: Path, name, text, error, said):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=said):
        load_items(str(path) if path.suffix else name)


def test_a_question_may_hold_a_line_separator(tmp_path):
    """And its answers may be in the two lists of the hub's copy of TruthfulQA."""
    path = tmp_path / "mc.jsonl"
    lists = {"choices": ["owl", "stone"], "labels": [1, 0]}
    records = [
        {"question": "An animal?\u2028Pick one.", "mc1_targets": lists},
        {"question": "An animal?\x85", "right": "owl", "wrong": ["stone\u2029"]},
    ]
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    one, two = load_items(str(path))
    assert one.question == "An animal?\u2028Pick one." and one.answers == ("owl", "stone")
    assert two.answers == ("owl", "stone\u2029")
    lists["labels"] = [1]
    path.write_text(json.dumps(records[0]), encoding="utf-8")
    with pytest.raises(DataError, match="entry 1"):
        load_items(str(path))
