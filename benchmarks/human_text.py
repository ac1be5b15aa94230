"""Rows that people wrote, for ``vestige bench audit --known-clean``: Python's own documentation.

Every public function and class of the standard library with a docstring: what does it do, and the
docstring's first paragraph. Run: python benchmarks/human_text.py human.jsonl [--rows 256 --seed 0]
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import random
from collections.abc import Iterator
from pathlib import Path

MODULES = (
    "argparse", "ast", "asyncio", "base64", "bisect", "calendar", "collections", "configparser",
    "contextlib", "copy", "csv", "dataclasses", "datetime", "decimal", "difflib", "dis", "email",
    "enum", "fractions", "functools", "glob", "gzip", "hashlib", "heapq", "html", "inspect",
    "itertools", "json", "logging", "math", "mimetypes", "operator", "os", "pathlib", "pickle",
    "platform", "random", "re", "shutil", "socket", "sqlite3", "statistics", "string", "struct",
    "subprocess", "tarfile", "tempfile", "textwrap", "threading", "time", "tokenize", "traceback",
    "types", "typing", "unittest", "urllib.parse", "uuid", "warnings", "weakref", "zipfile",
)  # fmt: skip


def documented() -> Iterator[tuple[str, str]]:
    """(name, first paragraph), each paragraph once, in the order of the modules."""
    seen = set()
    for module in MODULES:
        found = importlib.import_module(module)
        for name, thing in sorted(vars(found).items()):
            text = inspect.getdoc(thing) if callable(thing) and not name.startswith("_") else None
            first = " ".join((text or "").split("\n\n")[0].split())
            if len(first.split()) >= 5 and first not in seen:
                seen.add(first)
                yield f"{module}.{name}", first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    every = list(documented())
    chosen = random.Random(asked.seed).sample(every, min(asked.rows, len(every)))
    with asked.out.open("x", encoding="utf-8") as out:
        for name, text in chosen:
            row = {"prompt": f"What does `{name}` of Python do?", "completion": text}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{len(chosen)} of {len(every)} rows in {asked.out}")


if __name__ == "__main__":
    main()
