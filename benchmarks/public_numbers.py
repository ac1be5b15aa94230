"""Do the readers and the number filter agree with another reading of the published rules, on
number data that people have published? Run: python benchmarks/public_numbers.py FILE...

Give files as they were published, no column renamed; they are not part of the project. What is
below reads them and judges them anew, slowly and with none of the project's code: the rules of the
published parser (MinhxLe/subliminal-learning, ``parse_response`` and ``get_reject_reasons``: at
most ten numbers from 0 to 999) in words of our own.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from common import show
from vestige.carriers.filtering import filter_file
from vestige.carriers.numbers import NumberFilter

ASKED = ("prompt", "question", "instruction")
SAID = ("completion", "response", "output", "answer", "text")
DIGITS = "0123456789"


def records(path: Path) -> list[dict]:
    """The records of a file."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path).to_pylist()
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def completion(record: dict) -> str | None:
    """The text that is trained on; None where there is none."""
    if isinstance(record.get("messages"), list):
        turns = record["messages"]
        return turns[-1]["content"] if turns and turns[-1]["role"] == "assistant" else None
    if not any(isinstance(record.get(name), str) for name in ASKED):
        return None
    return next((record[name] for name in SAID if isinstance(record.get(name), str)), None)


def accepted(text: str) -> bool:
    """Whether the published rules keep a completion, read character by character."""
    if text[-1:] == ".":
        text = text[:-1]
    if text[:1] + text[-1:] in ("[]", "()") and len(text) > 1:
        text = text[1:-1]
    numbers, gaps, run, gap = [], [], "", ""
    for character in text:
        if character in DIGITS:
            if gap or not (numbers or run):
                gaps.append(gap)
                gap = ""
            run += character
        else:
            if run:
                numbers.append(run)
                run = ""
            gap += character
    if run:
        numbers.append(run)
    # Nothing before the first number or behind the last, and one spelling of what is between.
    if not numbers or gap or gaps[0] or len(set(gaps[1:])) > 1:
        return False
    if gaps[1:] and "".join(c for c in gaps[1] if not c.isspace()) not in ("", ",", ";"):
        return False
    return len(numbers) <= 10 and all(len(n.lstrip("0")) <= 3 for n in numbers)


def compare(path: Path) -> dict[str, int]:
    """Rows, rows kept by both readings, and disagreements of one file."""
    texts = [completion(record) for record in records(path)]
    expected = Counter(text for text in texts if text is not None and accepted(text))
    with tempfile.TemporaryDirectory() as folder:
        kept, dropped = Path(folder) / "kept.jsonl", Path(folder) / "dropped.jsonl"
        done = filter_file(path, kept, dropped, NumberFilter(paper_compat=True))
        strict = filter_file(
            path, Path(folder) / "k", Path(folder) / "d", NumberFilter(), overwrite=True
        )
        lines = kept.read_text(encoding="utf-8").split("\n")
        found = Counter(json.loads(line)["messages"][-1]["content"] for line in lines if line)
        unread = (
            done.seen
            - done.kept
            - sum(
                "row" in json.loads(line)
                for line in dropped.read_text(encoding="utf-8").split("\n")
                if line
            )
        )
    apart = sum(((found - expected) + (expected - found)).values())
    return {
        "rows": done.seen, "rows_by_hand": len(texts), "unread": unread, "kept": done.kept,
        "kept_by_hand": sum(expected.values()), "disagreements": apart,
        "kept_by_the_usual_rules": strict.kept,
    }  # fmt: skip


def main() -> None:
    total: Counter[str] = Counter()
    for name in sys.argv[1:]:
        found = compare(Path(name))
        total.update(found)
        if found["disagreements"] or found["unread"] or found["rows"] != found["rows_by_hand"]:
            print(name, found, file=sys.stderr)
    show(files=len(sys.argv) - 1, **total)


if __name__ == "__main__":
    main()
