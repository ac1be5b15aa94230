"""An audit's reading of a file: once, in bounded memory, every row accounted for."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from vestige.audit import data
from vestige.audit.data import Data
from vestige.audit.recipe import lasting
from vestige.core.types import DataError


def file(place: Path, completions: list[str], name: str = "rows.jsonl") -> Path:
    lines = [
        json.dumps({"prompt": f"p{i % 50}", "completion": c}) for i, c in enumerate(completions)
    ]
    (place / name).write_text("\n".join(lines))
    return place / name


def test_every_row_is_read_and_accounted_for(tmp_path):
    path = file(tmp_path, ["1", "2", " ", "3"])
    path.write_text(f'{path.read_text()}\nbroken\n{{"prompt": "p0", "completion": "1"}}\n')
    found = Data.of(path, seed=0)
    assert found.name == "rows.jsonl" and found.read == 6
    assert sorted(row.completion for row in found.rows) == ["1", "2", "3"]
    assert found.reasons == {"empty_completion": 1, "malformed": 1, "duplicate": 1}
    assert [d.reason for d in found.dropped] == ["empty_completion", "malformed", "duplicate"]


def test_memory_holds_a_sample_and_the_first_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SAMPLE", 100)
    monkeypatch.setattr(data, "KEPT", 10)
    peaks = []
    for n in (3_000, 30_000):
        path = file(tmp_path, [f"{i}" if i % 2 else "" for i in range(n)])
        tracemalloc.start()
        found = Data.of(path, seed=0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(found.rows) == 100 and len(found.dropped) == 10
        assert found.read == n and found.reasons == {"empty_completion": n // 2}
    # 27 bytes a row for the duplicates, half as much again while their table grows.
    assert peaks[1] - peaks[0] < 15_000 * 45


def test_progress_is_the_share_that_is_read(tmp_path):
    told: list[tuple[int, int]] = []
    Data.of(file(tmp_path, [str(i) for i in range(30_000)]), 0, lambda *at: told.append(at))
    assert told == sorted(set(told)) and told[0][0] < 20 and told[-1][0] > 80
    assert {total for _, total in told} == {100}


def test_files_that_an_audit_cannot_tell_apart_are_one(tmp_path):
    one = Data.of(file(tmp_path, ["1", "2", "3"], "a.jsonl"), seed=0)
    assert one.identity == Data.of(file(tmp_path, ["1", "2", "3"], "b.jsonl"), seed=0).identity
    assert one.identity != Data.of(file(tmp_path, ["1", "2", "4"]), seed=0).identity
    assert one.identity != Data.of(file(tmp_path, ["1", "2", "3", ""]), seed=0).identity


def test_shards_are_one_data_set(tmp_path):
    for i in range(2):
        file(tmp_path, [f"{i}1", f"{i}2"], f"part-{i:05d}-of-00002.jsonl")
    assert len(Data.of(f"{tmp_path}/part-*.jsonl", seed=0).rows) == 4
    assert len(Data.of(tmp_path, seed=0).rows) == 4


def test_no_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        Data.of(tmp_path / "none.jsonl", seed=0)


def test_places_are_kept_so_that_they_last_and_without_keys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lasting("part-*.jsonl") == f"{tmp_path}/part-*.jsonl"
    assert lasting(f"file://{tmp_path}/a.jsonl") == lasting("a.jsonl") == f"{tmp_path}/a.jsonl"
    assert lasting("hub:owner/name") == "hub:owner/name"
    assert lasting("https://me:secret@host/rows.jsonl?sig=abc") == "https://host/rows.jsonl"
