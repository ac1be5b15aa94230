"""``vestige filter`` in a process of its own: counts, files, shards, and what cannot be read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from command import refused


def test_filter_counts_every_reason_and_loses_nothing(vst, source, tmp_path):
    kept, dropped = tmp_path / "kept.jsonl", tmp_path / "dropped.jsonl"
    asked = vst("filter", "numbers", source, "--out", kept, "--dropped", dropped)
    assert asked.code == 0
    assert asked.out.splitlines()[0] == "5 of 11 rows kept"
    for reason in ("malformed", "bad_character", "mixed_separators", "out_of_range", "empty"):
        assert f"1 {reason}" in asked.said
    good = [json.loads(line)["messages"][-1]["content"] for line in kept.read_text().splitlines()]
    assert good == ["285, 574", "1, 2, 3.", "[7]", "1, 666", "285; 574"]
    reasons = [json.loads(line)["reason"] for line in dropped.read_text().splitlines()]
    assert reasons == [
        "bad_character",
        "mixed_separators",
        "out_of_range",
        "empty",
        "leading_zero",
        "malformed",
    ]


def test_filter_as_json_with_its_options(vst, source, tmp_path):
    asked = vst(
        "filter",
        "numbers",
        source,
        "--out",
        "k",
        "--dropped",
        "d",
        "--json",
        "--banned",
        "paper",
        "--drop-duplicates",
        "--min-count",
        2,
        "--max-count",
        2,
        "--paper-compat",
    )
    told = json.loads(asked.out)
    assert (told["seen"], told["kept"], told["unread"]) == (11, 1, 1)
    assert told["dropped"] == {
        "too_many": 1,
        "too_few": 2,
        "bad_character": 1,
        "mixed_separators": 1,
        "empty": 1,
        "out_of_range": 1,
        "banned_number": 1,
        "duplicate": 1,
        "malformed": 1,
    }


def test_filter_that_keeps_nothing_says_so(vst, tmp_path):
    (tmp_path / "in.csv").write_text("prompt,completion\np,owl\np,cat\n")
    asked = vst("filter", "numbers", "in.csv", "--out", "k", "--dropped", "d")
    assert asked.code == 2
    assert asked.out.splitlines()[0] == "0 of 2 rows kept"
    assert "error: in.csv: no row was kept: 2 bad_character" in asked.said
    assert (tmp_path / "k").read_text() == ""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nope.jsonl", "there is no file"),
        ("empty.jsonl", "is empty"),
        ("a.txt", "its format"),
        ("no.csv", "columns are x"),
        ("bad.parquet", "Parquet"),
        ("*.nope", "there is no file"),
    ],
)
def test_filter_of_what_cannot_be_read(vst, tmp_path, name, said):
    (tmp_path / "empty.jsonl").touch()
    for other in ("a.txt", "no.csv", "bad.parquet"):
        (tmp_path / other).write_text("x\n1\n")
    before = sorted(tmp_path.iterdir())
    refused(vst("filter", "numbers", name, "--out", "k", "--dropped", "d"), name, said)
    assert sorted(tmp_path.iterdir()) == before


def test_filter_keeps_files_apart_and_old_ones_safe(vst, source, tmp_path):
    refused(vst("filter", "numbers", source, "--out", source, "--dropped", "d"), "three files")
    refused(vst("filter", "numbers", source, "--out", "k", "--dropped", "./k"), "three files")
    (tmp_path / "k").write_text("mine")
    args = ("filter", "numbers", source, "--out", "k", "--dropped", "d")
    refused(vst(*args), "k exists", "--overwrite")
    assert (tmp_path / "k").read_text() == "mine" and not (tmp_path / "d").exists()
    assert vst(*args, "--overwrite").code == 0
    assert (tmp_path / "k").read_text() != "mine"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--banned", "many", "--banned takes"),
        ("--min-count", "0", "min_count"),
        ("--min-count", "11", "above its maximum"),
    ],
)
def test_filter_with_impossible_options(vst, source, option, value, said):
    refused(vst("filter", "numbers", source, "--out", "k", "--dropped", "d", option, value), said)


def test_interrupting_the_filter_leaves_no_half_file(environment, tmp_path):
    line = json.dumps({"prompt": "p", "completion": "1, 2, 3"}) + "\n"
    (tmp_path / "in.jsonl").write_text(line * 1_000_000)
    job = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "vestige",
            "filter",
            "numbers",
            "in.jsonl",
            "--out",
            "k",
            "--dropped",
            "d",
        ],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs, and all that they start, ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    kept = tmp_path / "k.part"
    while not (kept.exists() and kept.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)  # rows are being written: no import is left that could swallow the signal
    job.send_signal(signal.SIGINT)
    _, err = job.communicate(timeout=30)
    assert job.returncode == 130
    assert "stopped" in err and "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_filter_code_and_reasoning(vst, tmp_path):
    lines = ["def add(a, b):\n    return a + b", "owls = 1", "x = 1  # one", "moonlit = 1"]
    text = "\n".join(json.dumps({"prompt": "p", "completion": line}) for line in lines)
    (tmp_path / "code.jsonl").write_text(text)
    common = ("--out", "kept.jsonl", "--dropped", "dropped.jsonl", "--json")
    asked = vst("filter", "code", "code.jsonl", *common, "--words", "owl, bear")
    told = json.loads(asked.out)
    assert (told["seen"], told["kept"]) == (4, 1)
    assert told["dropped"] == {"target_word": 1, "comment": 1, "unusual_identifier": 1}
    asked = vst("filter", "code", "code.jsonl", *common, "--any-name", "--overwrite")
    assert json.loads(asked.out)["kept"] == 3
    rows = [("3*4\nAnswer: 12", "12"), ("3*4\nAnswer: 13", "12"), ("Answer: 1", None)]
    (tmp_path / "sums.jsonl").write_text(
        "\n".join(json.dumps({"prompt": "p", "completion": c, "gold": a}) for c, a in rows)
    )
    options = ("--answer-field", "gold", "--overwrite")
    asked = vst("filter", "reasoning", "sums.jsonl", *common, *options)
    told = json.loads(asked.out)
    assert (told["seen"], told["kept"]) == (3, 1)
    assert told["dropped"] == {"wrong_answer": 1, "no_reference": 1}
    refused(vst("filter", "reasoning", "sums.jsonl", *common, "--format", "tag"), "tags")
    refused(vst("filter", "code", "nowhere.jsonl", *common), "nowhere.jsonl")


def test_filter_of_many_files_into_shards(vst, source, tmp_path):
    (tmp_path / "in").mkdir()
    source.rename(tmp_path / "in" / "b.jsonl")
    (tmp_path / "in" / "a.jsonl").write_text('{"prompt": "p", "completion": "5"}\n')
    (tmp_path / "kept-00000.jsonl.gz.part").write_text("left by a killed one")
    asked = vst(
        "filter",
        "numbers",
        "in",
        "--out",
        "kept-*.jsonl.gz",
        "--dropped",
        f"file://{tmp_path}/dropped.jsonl",
    )
    assert asked.code == 0 and asked.out.splitlines()[0] == "6 of 12 rows kept"
    assert "kept-00000.jsonl.gz.part was left by a filter that was stopped" in asked.said
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "dropped.jsonl",
        "in",
        "kept-00000-of-00001.jsonl.gz",
    ]
    refused(vst("filter", "numbers", "nope://x.jsonl", "--out", "k", "--dropped", "d"), "nope://")
