"""``hub:owner/name``: the real hub client against a small hub on loopback."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

REVISION = "refs/convert/parquet"
COMMIT = "a" * 40


def table(n: int) -> bytes:
    buffer = io.BytesIO()
    rows = {"prompt": ["Go on: 1"] * n, "completion": [f"{i}, {i + 1}" for i in range(n)]}
    pq.write_table(pa.table(rows), buffer)
    return buffer.getvalue()


FILES = {
    "me/rows": {"default/train/0000.parquet": table(3), "default/train/0001.parquet": table(2),
                "default/test/0000.parquet": table(1)},
    "me/two": {"main/train/0000.parquet": table(3), "socratic/train/0000.parquet": table(4)},
}  # fmt: skip


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if path.startswith("/api/datasets/"):
            name, rest = self.named(path.removeprefix("/api/datasets/"))
            self.api(name, rest)
        else:
            name, rest = self.named(path.removeprefix("/datasets/"))
            self.data(name, rest.removeprefix(f"resolve/{REVISION}/"))

    def named(self, path: str) -> tuple[str, str]:
        owner, name, *rest = path.split("/")
        return f"{owner}/{name}", "/".join(rest)

    def api(self, name: str, rest: str) -> None:
        if name not in FILES:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif rest.startswith("tree/"):
            inside = rest.removeprefix(f"tree/{REVISION}").strip("/")
            self.answer(200, json.dumps(self.listing(FILES[name], inside)).encode())
        else:
            known = {"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": [],
                     "downloads": 0, "likes": 0, "gated": False, "disabled": False}  # fmt: skip
            self.answer(200, json.dumps(known).encode())

    def listing(self, files: dict[str, bytes], inside: str) -> list[dict[str, object]]:
        deep = "recursive=True" in self.path or "recursive=true" in self.path
        found: dict[str, dict[str, object]] = {}
        for path, data in files.items():
            if inside and not path.startswith(f"{inside}/"):
                continue
            parts = path.split("/")
            start = len(inside.split("/")) if inside else 0
            for depth in range(start + 1, len(parts)):
                folder = "/".join(parts[:depth])
                if deep or depth == start + 1:
                    found[folder] = {"type": "directory", "path": folder, "oid": "b", "size": 0}
            if deep or len(parts) == start + 1:
                found[path] = {"type": "file", "path": path, "oid": "c", "size": len(data)}
        return list(found.values())

    def data(self, name: str, inside: str) -> None:
        data = FILES.get(name, {}).get(inside)
        if data is None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": '"c"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if asked := self.headers.get("Range"):
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            last = min(int(end or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {begin}-{last}/{len(data)}"
            self.answer(206, data[int(begin) : last + 1], headers)
        else:
            self.answer(200, data, headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        if os.environ.get("HUB_LOG"):
            print(self.command, self.path, file=sys.stderr)


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def filtered(hub: str, place: Path, name: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    return subprocess.run(
        [sys.executable, "-m", "vestige", "filter", "numbers", name, "--json",
         "--out", place / "kept.jsonl", "--dropped", place / "dropped.jsonl"],
        env=environment | {"HF_ENDPOINT": hub, "HF_HOME": str(place / "hf")},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "rows"), [("me/rows", 5), ("me/rows/default/test", 1)])
def test_rows_of_the_hub(hub: str, tmp_path: Path, name: str, rows: int):
    done = filtered(hub, tmp_path, f"hub:{name}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kept"] == rows
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == rows


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("me/two", "configurations main, socratic; name one, as hub:me/two/main/train"),
        ("me/nothing", "it is not there"),
        ("x", "hub:x: write hub:owner/name"),
        ("me/rows/default/validation", "it is not there"),
    ],
)
def test_what_the_hub_does_not_have(hub: str, tmp_path: Path, name: str, says: str):
    done = filtered(hub, tmp_path, f"hub:{name}")
    assert done.returncode != 0 and says in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr
