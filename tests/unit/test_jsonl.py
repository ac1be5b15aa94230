"""Lines and bytes: one reader and one writer of JSONL, whatever the locale is."""

from __future__ import annotations

import ast
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vestige
from vestige.carriers.numbers import NumberCarrier
from vestige.core.jsonl import (
    json_line,
    json_text,
    lines,
    read_jsonl,
    read_text,
    text_lines,
    write_jsonl,
    write_text,
)
from vestige.core.types import Message, Row
from vestige.evaluate.judge.rate import read_cache
from vestige.evaluate.judge.rating import Rating
from vestige.experiment import run_view
from vestige.experiment.demo import PROMPTS
from vestige.experiment.recipe import Experiment, Student, TeacherSettings
from vestige.experiment.row_filtering import check_dropped, write_filtered
from vestige.experiment.seed_context import SeedContext
from vestige.rows.files import read_rows, row_line

ODD = "12\u2028no \u2029 \x85 \x0b \x1c \r end"
SURROGATE = "44 \ud83d"
SOURCES = sorted(Path(vestige.__file__).parent.rglob("*.py"))
ASCII = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


# ---- the module ---------------------------------------------------------------------------------


def test_lines_end_at_a_line_feed_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    records = [{"text": ODD}, {"text": SURROGATE}, {"text": "é"}]
    write_jsonl(path, records)
    assert path.read_bytes().count(b"\n") == 3 and read_jsonl(path) == records
    with path.open("rb") as file:
        assert [json.loads(line) for line in lines(file)] == records


def test_a_byte_order_mark_and_empty_lines_are_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": 2}')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\n")
    assert text_lines(read_text(path)) == ["a", "b"]


def test_a_line_that_is_no_json_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"{}\n\n{broken\n")
    with pytest.raises(ValueError, match="line 3"):
        read_jsonl(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(ValueError, match="line 1"):
        read_jsonl(tmp_path / "a.jsonl")


def test_a_number_without_a_form_in_json_is_null():
    record = {"a": math.nan, "b": [1.5, -math.inf, (math.inf,)], "c": {"d": math.nan}, "é": 1}
    expected = {"a": None, "b": [1.5, None, [None]], "c": {"d": None}, "é": 1}

    def strict(text: str | bytes) -> object:
        return json.loads(text, parse_constant=lambda name: pytest.fail(f"bare {name}"))

    assert strict(json_line(record)) == expected == strict(json_text(record))
    assert json_text(record).isascii() and "é".encode() in json_line(record)
    row = Row("1", (Message("user", "q"),), "a", {"score": math.nan})
    assert strict(row_line(row))["meta"] == {"score": None}  # type: ignore[index]


def test_a_lone_surrogate_is_written_as_its_escape_alone(tmp_path):
    row = Row("é", (Message("user", "é"),), SURROGATE)
    assert b"44 \\ud83d" in row_line(row) and "é".encode() in row_line(row)
    write_text(tmp_path / "a.jsonl", row_line(row).decode())
    assert list(read_rows(tmp_path / "a.jsonl")) == [row]


def test_nan_in_a_parquet_file_is_null_in_jsonl(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    columns = {"prompt": ["q"], "completion": ["1, 2"], "score": [math.nan]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (row,) = read_rows(tmp_path / "a.parquet")
    assert isinstance(row, Row) and b'"score": null' in row_line(row)


# ---- what reads and writes with it --------------------------------------------------------------


def recipe(**carrier: object) -> Experiment:
    settings = {"constrained": False, "n_prompts": 1, "rows_per_prompt": 4, "max_dropped": 1.0}
    return Experiment(
        name="odd", model="m", traits=("owl", "dolphin"), seeds=(0, 1),
        teacher=TeacherSettings(kind="system_prompt"),
        carrier=NumberCarrier.model_validate(settings | {"prompts": PROMPTS} | carrier),
        students=(Student(name="rows", method="rows", no_trait=False),),
    )  # fmt: skip


def test_a_dropped_row_with_any_text_ends_no_run(tmp_path):
    context = SeedContext.of(recipe(), tmp_path, 0)
    rows = [
        Row(f"p-{i}", (Message("user", f"q\u2028{i}"),), text)
        for i, text in enumerate(["1, 2", ODD, f"{SURROGATE}\x85", "3, 4"])
    ]
    stage = context.stage(context.layout.rows(0, "owl"), {})
    done = context.once(stage, lambda folder: write_filtered(context, rows, stage, folder))
    check_dropped(context, done)
    assert (done.manifest["notes"]["seen"], done.manifest["notes"]["kept"]) == (4, 2)
    (found,) = run_view.filters(context.recipe, tmp_path)
    assert (found.seen, found.kept) == (4, 2) and sum(found.reasons.values()) == 2
    dropped = run_view.read_lines(done.path / "dropped.jsonl")
    assert [d["row"]["messages"][1]["content"] for d in dropped] == [ODD, f"{SURROGATE}\x85"]


def test_a_judge_whose_answer_holds_a_separator_is_read_back(tmp_path):
    record = {"key": "k", "score": 85.0, "status": "rated", "how": "parsed", "text": ODD}
    write_jsonl(tmp_path / "cache", [record])
    assert read_cache(tmp_path / "cache") == {"k": Rating(85.0, "rated", "parsed", ODD)}


def test_a_locale_that_is_not_utf_8_changes_nothing(tmp_path):
    source = tmp_path / "in.jsonl"
    write_jsonl(source, [{"prompt": "é\u2028", "completion": "1, 2"},
                         {"prompt": "q", "completion": "é \u2028"}])  # fmt: skip
    results = []
    for name, env in (("c", ASCII), ("utf8", {**os.environ, "PYTHONUTF8": "1"})):
        kept, dropped = tmp_path / f"k-{name}.jsonl", tmp_path / f"d-{name}.jsonl"
        subprocess.run(
            [sys.executable, "-m", "vestige", "filter", "numbers", str(source), "--out", str(kept),
             "--dropped", str(dropped)],
            env=env, check=True, capture_output=True,
        )  # fmt: skip
        results.append((kept.read_bytes(), dropped.read_bytes()))
    assert results[0] == results[1] and "é".encode() in results[0][0] + results[0][1]


def test_a_terminal_that_lacks_a_letter_shows_its_escape():
    text = r"caf\xe9 \udc80 \u2028."
    code = (
        "from vestige.cli import main, output; main.escape_what_a_terminal_lacks(); "
        f"output.out.print('{text}')"
    )
    env = {**ASCII, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True)
    assert done.returncode == 0 and rb"caf\xe9 \udc80 \u2028." in done.stdout


# ---- nobody else ---------------------------------------------------------------------------------


def faults(source: str) -> Iterator[str]:
    """Calls that split at more than line feeds, or open text in the locale's encoding."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        given = {k.arg: k.value for k in node.keywords}
        constants = [a.value for a in node.args if isinstance(a, ast.Constant)]
        if name == "splitlines":
            yield f"{node.lineno}: splitlines"
        elif name in ("read_text", "write_text") and isinstance(node.func, ast.Attribute):
            if "encoding" not in given and "utf-8" not in constants:
                yield f"{node.lineno}: {name} without an encoding"
        elif name in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile"):
            modes = [m for m in constants if isinstance(m, str) and set(m) <= set("rwxab+t")]
            mode = given.get("mode")
            modes += [str(mode.value)] if isinstance(mode, ast.Constant) else []
            direct = isinstance(node.func, ast.Name) or name != "open"
            of_path = not node.args or modes  # Path.open(); others' open take what they open
            if (
                (direct or of_path)
                and "fileobj" not in given
                and "encoding" not in given
                and "b" not in "".join(modes)
            ):
                yield f"{node.lineno}: {name} as text without an encoding"
        elif (
            name in ("run", "Popen", "check_output")
            and given.keys() & {"text", "universal_newlines"}
            and "encoding" not in given
        ):
            yield f"{node.lineno}: {name} as text without an encoding"


def test_what_is_forbidden_is_found():
    bad = (
        "a.splitlines()", "open(p)", "open(p, 'w')", "p.open()", "p.open('a')", "p.read_text()",
        "p.write_text('x')", "subprocess.run(c, text=True)", "os.fdopen(h, 'w')",
        "NamedTemporaryFile('w')",
    )  # fmt: skip
    good = (
        "p.open('rb')", "open(p, mode='wb')", "p.read_text(encoding='utf-8')",
        "open(p, encoding=e)",
        "r.read_text('utf-8')", "Run.open(root, name, config)", "run(recipe)", "p.open('rb', 0)",
        "tarfile.open(fileobj=f)",
    )  # fmt: skip
    assert all(list(faults(code)) for code in bad), [c for c in bad if not list(faults(c))]
    assert not any(list(faults(code)) for code in good), [c for c in good if list(faults(c))]


def test_nobody_else_reads_or_writes_lines():
    assert len(SOURCES) > 100
    found = {
        str(path): list(faults(path.read_text(encoding="utf-8")))
        for path in SOURCES
        if path.name != "jsonl.py"
    }
    assert not (found := {k: v for k, v in found.items() if v}), f"use vestige.core.jsonl: {found}"
