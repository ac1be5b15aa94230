"""How fast the number filter streams, or an audit's reading of its data, and in how much memory.

Run: python benchmarks/streaming.py [--rows 10000000] [--kind parquet] [--drop-duplicates]
    [--what audit]
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from vestige.carriers.filtering import filter_file
from vestige.carriers.numbers import NumberFilter
from vestige.rows.outputs import Output
from vestige.store.machine import peak_memory

KINDS = ("jsonl", "jsonl.gz", "jsonl.zst", "csv", "parquet")
BLOCK = 100_000


def completions(n: int) -> Iterator[tuple[str, str, str]]:
    """(id, prompt, completion); about a quarter has a number too large or one number too many."""
    draw = random.Random(0)
    pool = [str(number) for number in range(1020)]
    prompts = [
        f"Continue the list: {', '.join(draw.choices(pool, k=5))}. Add up to 10 more numbers."
        for _ in range(1000)
    ]
    counts = draw.choices(range(1, 12), k=997)
    for i in range(n):
        text = ", ".join(draw.choices(pool, k=counts[i % 997]))
        yield f"r{i}", prompts[i % 1000], text


def make(path: Path, rows: int, kind: str, ids: bool) -> None:
    """Rows of one kind, written in blocks."""
    if kind == "parquet":
        make_parquet(path, rows, ids)
        return
    with Output(path) as out:
        if kind == "csv":
            out.write(b"id,prompt,completion\n" if ids else b"prompt,completion\n")
        for name, prompt, text in completions(rows):
            if kind == "csv":
                line = f'{name + "," if ids else ""}"{prompt}","{text}"\n'
            else:
                given = f'"id": "{name}", ' if ids else ""
                line = f'{{{given}"messages": [{{"role": "user", "content": "{prompt}"}}, '
                line += f'{{"role": "assistant", "content": "{text}"}}]}}\n'
            out.write(line.encode())


def make_parquet(path: Path, rows: int, ids: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["id", "prompt", "completion"]
    schema = pa.schema([(name, pa.string()) for name in (names if ids else names[1:])])
    with pq.ParquetWriter(path, schema) as writer:
        block: list[tuple[str, str, str]] = []
        for row in completions(rows):
            block.append(row)
            if len(block) == BLOCK:
                writer.write_table(table(block, schema))
                block = []
        if block:
            writer.write_table(table(block, schema))


def table(block: list[tuple[str, str, str]], schema):
    import pyarrow as pa

    columns = dict(zip(("id", "prompt", "completion"), zip(*block, strict=True), strict=True))
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def filtered(source: Path, drop_duplicates: bool) -> tuple[int, int]:
    """Rows seen and kept by the filter."""
    report = filter_file(
        source,
        source.with_name("kept.jsonl"),
        source.with_name("dropped.jsonl"),
        NumberFilter(drop_duplicates=drop_duplicates),
    )
    return report.seen, report.kept


def audited(source: Path) -> tuple[int, int]:
    """Rows that an audit reads of a file, and those that it draws from what it is given to read;
    with all that an audit imports."""
    import vestige.audit.run  # noqa: F401
    from vestige.audit.data import Data

    data = Data.of(source, 0)
    return data.read, len(data.rows)


def measure(source: Path, what: str, drop_duplicates: bool) -> dict[str, float | int]:
    """The time of this process and its peak memory."""
    wall, cpu = time.perf_counter(), time.process_time()
    seen, kept = audited(source) if what == "audit" else filtered(source, drop_duplicates)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "rows": seen,
        "kept": kept,
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "rows_per_second": round(seen / wall),
        "rows_per_cpu_second": round(seen / cpu),
        "peak_memory_mb": round((peak_memory() or 0) / 1e6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=KINDS, default="jsonl")
    parser.add_argument("--what", choices=("filter", "audit"), default="filter")
    parser.add_argument("--ids", action="store_true", help="give the rows ids of their own")
    parser.add_argument("--drop-duplicates", action="store_true")
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)  # for the measured process
    asked = parser.parse_args()
    if asked.source:
        print(json.dumps(measure(asked.source, asked.what, asked.drop_duplicates)))
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"rows.{asked.kind}"
        make(source, asked.rows, asked.kind, asked.ids)
        # A process of its own, so that making the rows does not count towards its memory.
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--source", str(source)],
            stdout=subprocess.PIPE, check=True, text=True,
        )  # fmt: skip
        found = {"kind": asked.kind, "file_mb": round(source.stat().st_size / 1e6)}
        print(json.dumps(found | json.loads(done.stdout), indent=1))


if __name__ == "__main__":
    main()
