"""Log-probabilities that rows carry: every form means the same, and what is absent is no value."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_verdict import gathered as evidence

from vestige.audit.record import audit_results
from vestige.cli.summaries.audit import print_summary
from vestige.core.types import Message, Row
from vestige.models.hf import LanguageModel
from vestige.probing.row_format import RowFormat
from vestige.probing.soft_targets import (
    ENDS,
    LITTLE,
    NONE,
    OTHER_TOKENS,
    UNKNOWN_FORM,
    USED,
    SoftTargets,
    from_rows,
)
from vestige.report.page import render
from vestige.rows.files import read_rows, row_line
from vestige.rows.logprobs import NO_VALUE, Position, carried, positions, value

TEXTS = ("31, 4", "92, 9")
NINES = "-9999, which stands for no value"


def choices(token: str) -> dict[str, float]:
    """A digit's probability 0.7, and 0.2 for another one; anything else is certain."""
    other = "7" if token != "7" else "8"
    return {token: math.log(0.7), other: math.log(0.2)} if token.isdigit() else {token: 0.0}


def chat(tokens: list[str], spoil: Any = None) -> dict[str, Any]:
    return {"content": [
        {"token": t, "logprob": choices(t)[t] if spoil is None else spoil, "bytes": None,
         "top_logprobs": [{"token": c, "logprob": lp if spoil is None else spoil}
                          for c, lp in choices(t).items()]}
        for t in tokens
    ]}  # fmt: skip


def completions(tokens: list[str]) -> dict[str, Any]:
    return {
        "tokens": tokens, "token_logprobs": [choices(t)[t] for t in tokens],
        "top_logprobs": [choices(t) for t in tokens], "text_offset": [0] * len(tokens),
    }  # fmt: skip


def offline(lm: LanguageModel, tokens: list[str]) -> list[dict[str, Any]]:
    return [
        {str(lm.token_ids(c)[0]): {"logprob": lp, "rank": k + 1, "decoded_token": c}
         for k, (c, lp) in enumerate(choices(t).items())}
        for t in tokens
    ]  # fmt: skip


def by_id(lm: LanguageModel, tokens: list[str]) -> dict[str, Any]:
    def named(token: str) -> str:
        return f"token_id:{lm.token_ids(token)[0]}"

    found = chat(tokens)
    for entry in found["content"]:
        entry["token"] = named(entry["token"])
        entry["top_logprobs"] = [one | {"token": named(one["token"])}
                                 for one in entry["top_logprobs"]]  # fmt: skip
    return found


def rows(form: Any) -> list[Row]:
    """Rows of single-letter tokens; ``form`` makes their other fields from the letters."""
    ask = (Message("user", "Go on."),)
    return [Row(f"r{i}", ask, text, form(list(text))) for i, text in enumerate(TEXTS)]


def read(lm: LanguageModel, form: Any) -> tuple[dict[str, SoftTargets], Counter[str]]:
    given, counts = rows(form), Counter[str]()
    return from_rows(lm, RowFormat.of(lm, given, 8), given, counts), counts


def same(one: dict[str, SoftTargets], other: dict[str, SoftTargets]) -> bool:
    def plain(targets: SoftTargets) -> list[dict[int, float]]:
        pairs = zip(targets.choices.tolist(), targets.weights.tolist(), strict=True)
        return [{c: w for c, w in zip(*p, strict=True) if w} for p in pairs]

    return one.keys() == other.keys() and all(plain(one[i]) == plain(other[i]) for i in one)


def test_every_form_means_the_same(llama: LanguageModel):
    known, counts = read(llama, lambda t: {"logprobs": chat(t)})
    # Three digits of each row are free, and so is its end, which is not in the list.
    assert len(known) == 2 and counts == {USED: 6, ENDS: 2}
    digit = known["r0"]
    assert sorted(w for w in digit.weights[0].tolist() if w) == pytest.approx([0.2, 0.7])
    forms: dict[str, Any] = {
        "list": lambda t: {"logprobs": chat(t)["content"]},
        "completions": lambda t: {"logprobs": completions(t)},
        "engine": lambda t: {"logprobs": offline(llama, t)},
        "engine, numbers alone": lambda t: {
            "logprobs": [{int(k): v["logprob"] for k, v in e.items()} for e in offline(llama, t)]
        },
        "a Parquet map": lambda t: {"logprobs": [list(e.items()) for e in offline(llama, t)]},
        "token ids": lambda t: {"logprobs": by_id(llama, t)},
        "JSON in a text": lambda t: {"logprobs": json.dumps(chat(t))},
        "in a turn": lambda t: {
            "messages": [{"role": "user", "content": "Go on."},
                         {"role": "assistant", "content": "".join(t), "logprobs": chat(t)}]
        },
        "a whole answer": lambda t: {"choices": [{"index": 0, "logprobs": chat(t)}]},
        "a batch": lambda t: {
            "response": {"status_code": 200, "body": {"choices": [{"logprobs": chat(t)}]}}
        },
    }  # fmt: skip
    for name, form in forms.items():
        found, reasons = read(llama, form)
        assert same(found, known) and reasons == counts, name


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(math.nan, NO_VALUE), (-9999.0, NINES), (-math.inf, "infinite"), (0.7, "above zero"),
     ("much", "not a number")],
)  # fmt: skip
def test_an_absent_value_is_no_probability(llama: LanguageModel, spoil: Any, reason: str):
    found, counts = read(llama, lambda t: {"logprobs": chat(t, spoil)})
    assert not found and counts == {reason: 6, ENDS: 2}


def test_nulls_are_absent(llama: LanguageModel):
    def null(tokens: list[str]) -> dict[str, Any]:
        return {"logprobs": {"content": [
            {"token": t, "logprob": None, "top_logprobs": None} for t in tokens
        ]}}  # fmt: skip

    assert read(llama, null) == ({}, {NO_VALUE: 6, ENDS: 2})
    assert not read(llama, lambda t: {"logprobs": [None for _ in t]})[0]
    # A token's own value is one, without alternatives too.
    certain = {"logprob": -0.1, "top_logprobs": None}
    found, counts = read(
        llama, lambda t: {"logprobs": {"content": [{"token": c, **certain} for c in t]}}
    )
    assert counts[USED] == 6 and torch.allclose(
        found["r0"].weights[0], torch.tensor(math.exp(-0.1))
    )


def test_some_absent_values_leave_the_others(llama: LanguageModel):
    def mixed(tokens: list[str]) -> dict[str, Any]:
        found = chat(tokens)
        found["content"][0]["top_logprobs"][1]["logprob"] = math.nan  # the rest is 0.7
        found["content"][1]["top_logprobs"][0]["logprob"] = math.nan  # the rest is 0.2
        found["content"][1]["logprob"] = None
        return {"logprobs": found}

    found, counts = read(llama, mixed)
    assert len(found) == 2 and counts == {USED: 4, LITTLE: 2, ENDS: 2}


def test_what_is_not_the_rows_own_is_named(llama: LanguageModel):
    assert read(llama, lambda t: {"logprobs": chat(t[1:])}) == ({}, {OTHER_TOKENS: 8})
    assert read(llama, lambda t: {"logprobs": {"best": 1}}) == ({}, {UNKNOWN_FORM: 8})
    assert read(llama, lambda t: {"score": 1}) == ({}, {})  # no row carries any
    some = rows(lambda t: {"logprobs": chat(t)} if t[0] == "3" else {})
    counts = Counter[str]()
    assert set(from_rows(llama, RowFormat.of(llama, some, 8), some, counts)) == {"r0"}
    assert counts == {USED: 3, ENDS: 1, NONE: 4}


def test_nan_in_a_file_is_no_certainty(llama: LanguageModel, tmp_path: Path):
    """As a service's bare NaN comes in a file, and as it is kept in a stage."""
    path = tmp_path / "rows.jsonl"
    given = rows(lambda t: {"logprobs": chat(t, math.nan)})
    text = [json.dumps({"prompt": "Go on.", "completion": r.completion, **r.meta}) for r in given]
    path.write_text("\n".join(text), encoding="utf-8")
    read_in = [row for row in read_rows(path) if isinstance(row, Row)]
    path.write_bytes(b"".join(map(row_line, read_in)))
    assert b"NaN" not in path.read_bytes()
    for some in (read_in, [row for row in read_rows(path) if isinstance(row, Row)]):
        counts = Counter[str]()
        assert not from_rows(llama, RowFormat.of(llama, some, 8), some, counts)
        assert counts == {NO_VALUE: 6, ENDS: 2}


def test_values_and_places():
    assert value(-0.5) == (-0.5, "") and value(1e-7) == (0.0, "") and value("-1") == (-1.0, "")
    assert positions(3) is None and positions({"content": None}) is None
    assert positions({"content": []}) == [] == positions([])
    assert positions([{"token": "a", "logprob": -1}]) == [Position("a", {"a": -1.0})]
    assert carried({"turns": [], "list": [1], "n": None}) == []


def test_the_report_and_the_terminal_say_how_many_and_why_not(capsys: pytest.CaptureFixture[str]):
    found = audit_results(replace(evidence(), logprobs={USED: 1200, NO_VALUE: 30, ENDS: 4}))
    assert found.logprobs_used == 1200 and found.logprobs_unused == {NO_VALUE: 30, ENDS: 4}
    page = render([found], [{"name": "a"}])
    assert "1,200 of 1,234" in page and f"30 not: {NO_VALUE}" in page
    print_summary(found)
    said = " ".join(capsys.readouterr().out.split())
    assert "1,200 of 1,234 tokens have usable ones" in said and NO_VALUE in said
    assert "log-probabilities" not in render([audit_results(evidence())], [{"name": "a"}])
