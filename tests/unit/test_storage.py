"""Places of rows: packed, sharded, remote; written whole or not at all; memory that stays small."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import threading
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from vestige.carriers.filtering import filter_file
from vestige.carriers.numbers import NumberFilter
from vestige.core.types import (
    DataError,
    DroppedRow,
    MissingExtraError,
    Row,
    StoreError,
    VestigeError,
)
from vestige.rows.file_sets import find
from vestige.rows.files import RowSource, read_rows, sample_rows
from vestige.rows.ids import Ids, TextSet
from vestige.rows.outputs import Output, claimed
from vestige.rows.places import locate, shown

SECRET = "s3cr3t-t0ken"
PACKERS = {
    ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True), "": lambda data: data,
}  # fmt: skip


def lines(texts: list[str], first: int | None = None) -> bytes:
    """Prompt/completion JSONL; with ids from ``first`` on if given."""
    records = [{"prompt": "p", "completion": text} for text in texts]
    if first is not None:
        records = [{"id": f"r{first + i}"} | record for i, record in enumerate(records)]
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def rows(path: Path | str) -> list[Row]:
    found = list(read_rows(path))
    assert all(isinstance(item, Row) for item in found), found
    return [item for item in found if isinstance(item, Row)]


# ---- packed


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_packed_files_read_the_same(tmp_path, kind, packing):
    plain = lines(["1", "2"]) if kind == "jsonl" else b"prompt,completion\np,1\np,2\n"
    pack = PACKERS[packing]
    half = len(plain) // 2
    path = tmp_path / f"a.{kind}{packing}"
    path.write_bytes(pack(plain[:half]) + pack(plain[half:]))  # two frames, as parallel packers do
    assert [row.completion for row in rows(path)] == ["1", "2"]


@pytest.mark.parametrize("packing", [".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("fault", ["cut", "garbled", "never packed"])
def test_damaged_packing_gives_what_came_before_and_says_so(tmp_path, packing, fault):
    path = tmp_path / f"a.jsonl{packing}"
    whole = b"".join(PACKERS[packing](lines([str(i)] * 3000)) for i in range(3))
    if fault == "never packed":
        path.write_bytes(lines(["1"]))
        with pytest.raises(DataError, match="first line cannot be read"):
            list(read_rows(path))
        return
    keep = 2 * len(whole) // 3 - 20
    path.write_bytes(whole[:keep] + (b"\xff" * 90 if fault == "garbled" else b""))
    *good, last = read_rows(path)
    assert len(good) >= 2500
    assert isinstance(last, DroppedRow) and f"broken {packing[1:].replace('zst', 'zstd')}" in (
        last.detail
    )


@pytest.mark.parametrize("packing", PACKERS)
def test_outputs_are_packed_as_they_are_named(tmp_path, packing):
    source, kept = tmp_path / "in.jsonl", tmp_path / f"kept.jsonl{packing}"
    source.write_bytes(lines(["1", "owl", "2"]))
    report = filter_file(source, kept, tmp_path / f"dropped.jsonl{packing}", NumberFilter())
    assert (report.kept, report.seen) == (2, 3)
    assert [row.completion for row in rows(kept)] == ["1", "2"]
    first = kept.read_bytes()
    filter_file(source, kept, tmp_path / f"dropped.jsonl{packing}", NumberFilter(), overwrite=True)
    assert kept.read_bytes() == first  # no time in it
    assert len(list(tmp_path.iterdir())) == 3


# ---- several files


def test_a_folder_and_a_glob_are_read_in_order(tmp_path):
    for name, data in {
        "b.jsonl": lines(["3"]), "a.jsonl.gz": gzip.compress(lines(["1", "2"]) + b"{\n"),
        "c.csv": b"prompt,completion\np,4\n", "empty.jsonl": b"", "readme.txt": b"no rows",
        ".hidden.jsonl": lines(["9"]), "d.jsonl.part": lines(["9"]),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    found = list(read_rows(tmp_path))
    good = [item for item in found if isinstance(item, Row)]
    assert [row.completion for row in good] == ["1", "2", "3", "4"]
    assert len({row.id for row in good}) == 4
    (bad,) = (item for item in found if isinstance(item, DroppedRow))
    assert bad.line == 3 and bad.detail.startswith("a.jsonl.gz: not JSON")
    assert [row.completion for row in rows(str(tmp_path / "[bc].*"))] == ["3", "4"]
    with pytest.raises(DataError, match="cannot tell its format"):
        rows(str(tmp_path / "*.part"))


def test_ids_of_several_files_are_unique(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(["1", "2"], first=0))
    (tmp_path / "b.jsonl").write_bytes(lines(["3", "4"], first=1) + lines(["5"]))
    assert [row.id for row in rows(tmp_path)] == ["r0", "r1", "r1#2", "r2", "row-000003"]


def test_shards_are_written_and_read_by_one_name(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_bytes(lines([str(i) for i in range(10)]))
    kept, dropped = tmp_path / "kept-*.jsonl.gz", tmp_path / "dropped.jsonl"

    def run(size: int, **options: Any) -> list[str]:
        filter_file(source, kept, dropped, NumberFilter(), rows_a_shard=size, **options)
        assert [row.completion for row in rows(kept)] == [str(i) for i in range(10)]
        return sorted(p.name for p in tmp_path.glob("kept-*"))

    assert run(4) == [f"kept-0000{i}-of-00003.jsonl.gz" for i in range(3)]
    with pytest.raises(StoreError, match="--overwrite"):
        run(5)
    assert run(5, overwrite=True) == [f"kept-0000{i}-of-00002.jsonl.gz" for i in range(2)]
    (tmp_path / "kept-00001-of-00002.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"1 of 2 files kept-\*-of-00002.jsonl.gz are there"):
        rows(kept)
    with pytest.raises(DataError, match="three files"):
        filter_file(tmp_path / "kept-00000-of-00002.jsonl.gz", kept, dropped, NumberFilter())


def test_share_of_the_bytes_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(["1" * 1000] * 5_000))
    (tmp_path / "b.jsonl").write_bytes(lines(["1" * 1000] * 5_000))
    source = RowSource(tmp_path)
    shares = [source.share for n, _ in enumerate(source) if n % 1000 == 0]
    assert shares == sorted(shares) and 0.3 < shares[5] < 0.8 and source.share == 1.0


# ---- remote


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.rm("/", recursive=True)


def test_any_file_system_is_read_and_written(memory):
    memory.pipe("/in/a.jsonl.gz", gzip.compress(lines(["1", "owl"])))
    memory.pipe("/in/b.jsonl", lines(["2"]))
    memory.pipe("/in/notes.txt", b"x")
    for source in ("memory://in/", "memory://in/*.jsonl*"):
        filter_file(
            source, "memory://out/kept-*.jsonl.zst", "memory://out/dropped.jsonl", NumberFilter(),
            rows_a_shard=1, overwrite=True,
        )  # fmt: skip
        names = sorted(Path(name).name for name in memory.ls("/out", detail=False))
        assert names == [
            "dropped.jsonl", "kept-00000-of-00002.jsonl.zst", "kept-00001-of-00002.jsonl.zst",
        ]  # fmt: skip
        assert [row.completion for row in rows("memory://out/kept-*.jsonl.zst")] == ["1", "2"]
    with pytest.raises(StoreError, match="exists; pass --overwrite"):
        filter_file("memory://in/", "memory://out/dropped.jsonl", "memory://k", NumberFilter())


def test_a_remote_parquet_file(memory):
    import pyarrow.parquet as pq

    with memory.open("/a.parquet", "wb") as file:
        pq.write_table(pa.table({"prompt": ["p"] * 3, "completion": ["1", "2", "3"]}), file)
    assert [row.completion for row in rows("memory://a.parquet")] == ["1", "2", "3"]


def test_a_failure_leaves_nothing_at_a_remote_place(memory):
    memory.pipe("/in.jsonl", lines(["1"] * 6000))

    def stop(seen: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filter_file("memory://in.jsonl", "memory://k", "memory://d", NumberFilter(), progress=stop)
    assert [Path(n).name for n in memory.ls("/", detail=False)] == ["in.jsonl"]


def test_file_urls_are_local_files(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(lines(["1"]))
    url = f"file://{tmp_path}"
    filter_file(f"{url}/in.jsonl", f"{url}/k", f"{url}/d", NumberFilter())
    assert (tmp_path / "k").read_bytes().count(b"\n") == 1
    with pytest.raises(DataError, match="three files"):
        filter_file(f"{url}/in.jsonl", tmp_path / "in.jsonl", f"{url}/d", NumberFilter())


class Guarded(MemoryFileSystem):
    """A file system that tells its key when it refuses, as some do."""

    protocol = "guarded"

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        raise PermissionError(f"403 for key {SECRET}")

    info = _open


def test_no_permission_is_said_without_the_key():
    fsspec.register_implementation("guarded", Guarded, clobber=True)
    for act in (
        lambda: rows("guarded://in.jsonl"),
        lambda: filter_file("guarded://in.jsonl", "k", "d", NumberFilter()),
        lambda: Output(f"guarded://out.jsonl?sig={SECRET}").__enter__(),
    ):
        with pytest.raises(VestigeError, match="permission denied; check the credentials") as seen:
            act()
        assert SECRET not in str(seen.value) and "guarded://" in str(seen.value)
        assert seen.value.__suppress_context__


def test_unknown_and_missing_file_systems(monkeypatch):
    with pytest.raises(DataError, match="no file system is known for nope://"):
        rows("nope://a/b.jsonl")

    def absent(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", absent)
    with pytest.raises(DataError, match="Install s3fs"):
        rows("s3://bucket/b.jsonl")
    with pytest.raises(MissingExtraError, match=r"vestige\[remote\]"):
        rows("https://host/b.jsonl")


class Files(BaseHTTPRequestHandler):
    """A file server: /rows.jsonl is there, /secret.jsonl is refused, /cut.jsonl breaks off."""

    body = lines(["1", "owl", "2"])

    def do_HEAD(self) -> None:
        self.do_GET(send=False)

    def do_GET(self, send: bool = True) -> None:
        name = self.path.partition("?")[0]
        code = {"/rows.jsonl": 200, "/cut.jsonl": 200, "/secret.jsonl": 403}.get(name, 404)
        self.send_response(code)
        body = self.body if code == 200 else b"no"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send:
            self.wfile.write(body[:20] if name == "/cut.jsonl" else body)
            self.close_connection = name == "/cut.jsonl"

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def test_rows_over_http(server, tmp_path):
    pytest.importorskip("aiohttp", reason="the extra remote is not installed")
    report = filter_file(
        f"{server}/rows.jsonl?token={SECRET}", tmp_path / "k", tmp_path / "d", NumberFilter()
    )
    assert (report.seen, report.kept) == (3, 2)
    for name, said in (
        ("secret.jsonl", "permission denied"), ("gone.jsonl", "not there"),
        ("cut.jsonl", "cannot read"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said) as seen:
            rows(f"{server}/{name}?token={SECRET}")
        assert SECRET not in str(seen.value) and name in str(seen.value)
    with pytest.raises(StoreError, match="cannot write"):
        filter_file(f"{server}/rows.jsonl", f"{server}/k", tmp_path / "e", NumberFilter())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "k"]


def test_urls_are_shown_without_what_is_secret():
    url = f"https://me:{SECRET}@host:8080/a/b.jsonl?X-Signature={SECRET}#x"
    assert shown(locate(url)) == "https://host:8080/a/b.jsonl"
    with pytest.raises(DataError) as seen:
        find("/no/such/file.jsonl", lambda place: True)
    assert "/no/such/file.jsonl" in str(seen.value)


# ---- one writer


def test_what_another_process_writes_is_left_alone(tmp_path):
    source, kept = tmp_path / "in.jsonl", tmp_path / "kept.jsonl"
    source.write_bytes(lines(["1"]))
    with claimed(Output(kept)):
        with pytest.raises(StoreError, match="another process is writing"):
            filter_file(source, kept, tmp_path / "d", NumberFilter())
    (tmp_path / "kept.jsonl.part").write_text("left by a killed one")
    told: list[str] = []
    assert filter_file(source, kept, tmp_path / "d", NumberFilter(), note=told.append).kept == 1
    (note,) = told
    assert "kept.jsonl.part was left" in note and "beginning again" in note
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "in.jsonl", "kept.jsonl"]


# ---- memory


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=3), max_size=200))
def test_seen_is_a_set(texts):
    seen, known = TextSet(), set[str]()
    for text in texts:
        assert (text in seen) == (text in known)
        assert seen.add(text) == (text not in known)
        known.add(text)
    assert len(seen) == len(known)


def test_seen_grows_and_stays_small():
    tracemalloc.start()
    seen = TextSet()
    assert all(seen.add(f"text {i}") for i in range(50_000))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not any(seen.add(f"text {i}") for i in range(50_000))
    assert held / 50_000 < 28 and peak / 50_000 < 42


def test_an_id_that_all_rows_share_costs_no_search_of_them_all():
    ids = Ids()
    assert [ids.name("x", n) for n in range(1, 6)] == ["x", "x#2", "x#3", "x#4", "x#5"]
    assert len({ids.name("x", n) for n in range(6, 3000)}) == 2994


def test_filtering_more_rows_takes_no_more_memory(tmp_path):
    peaks = []
    for n in (2_000, 12_000):
        source = tmp_path / f"{n}.jsonl"
        source.write_bytes(lines([f"{i % 999}, {i % 7}" for i in range(n)]))
        tracemalloc.start()
        filter_file(source, tmp_path / f"k{n}", tmp_path / f"d{n}", NumberFilter())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000


# ---- a sample of a stream


def stream(n: int) -> Iterator[Row | DroppedRow]:
    for i in range(n):
        yield DroppedRow("malformed", raw="x") if i % 10 == 9 else Row(f"r{i}", (), str(i))


def test_a_sample_of_a_stream():
    drawn, seen, unreadable = sample_rows(stream(1000), 50, seed=1)
    assert (len(drawn), seen, unreadable) == (50, 900, {"malformed": 100})
    assert len({row.id for row in drawn}) == 50
    again, *_ = sample_rows(reversed(list(stream(1000))), 50, seed=1)
    assert again == drawn  # whatever the order of the file
    fewer, *_ = sample_rows(stream(1000), 20, seed=1)
    assert fewer == drawn[:20]
    assert sample_rows(stream(1000), 50, seed=2)[0] != drawn
    assert len(sample_rows(stream(10), 50, seed=1)[0]) == 9
    assert sample_rows(stream(10), 0, seed=1)[0] == []
    share = sum(int(row.completion) < 500 for row in sample_rows(stream(1000), 400, seed=3)[0])
    assert 150 < share < 250
