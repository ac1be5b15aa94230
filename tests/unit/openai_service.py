"""A small OpenAI-compatible service on this machine, with faults to order.

It counts what it would bill. Texts are numbers that depend on the question, the seed and the
choice, so that every answer can be predicted; ``reply`` may give others.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-a-very-secret-key-0123456789"
#: fault -> HTTP status and the error's text; the others are in ``Handler.do_POST``.
ERRORS = {
    "429": (429, "slow down"),
    "500": (500, f"something broke for {KEY}"),
    "401": (401, f"the key {KEY} was withdrawn"),
    "400": (400, "logprobs are not supported"),
}


def numbers(asked: dict[str, Any], index: int) -> str:
    """Five numbers; the same question, seed and choice give the same ones."""
    text = json.dumps([asked["messages"], asked.get("seed"), index])
    digest = hashlib.sha256(text.encode()).digest()
    return ", ".join(str(100 + byte) for byte in digest[:5])


class Service:
    """What the server was asked, what it billed, and the faults still to come."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        self.faults: list[str] = []
        self.reply: Callable[[dict[str, Any], int], str] = numbers
        self.top: dict[str, float] = {"85": 0.6, "90": 0.3, "no": 0.1}
        self.choices = 99  # answers to one request, at most
        self.billed = 0
        self.delay = 0.0
        self.url = ""
        self.lock = threading.Lock()


def handler(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with service.lock:
                service.seen.append(asked)
                service.heads.append({k.lower(): v for k, v in self.headers.items()})
                fault = service.faults.pop(0) if service.faults else ""
            if self.headers.get("Authorization") != f"Bearer {KEY}":
                told = self.headers.get("Authorization", "").removeprefix("Bearer ")
                return self.error(401, f"Incorrect API key provided: {told}")
            if asked["model"] == "unheard-of":
                return self.error(404, "The model `unheard-of` does not exist")
            if fault in ERRORS:
                return self.error(*ERRORS[fault])
            if fault == "slow":
                time.sleep(6)
            if service.delay:
                time.sleep(service.delay)
            body = self.completion(asked, fault)
            if fault == "cut":  # the head promises more than comes
                self.head(200, len(body))
                self.wfile.write(body[:20])
                return self.connection.close()
            self.send(200, body[: len(body) // 2] if fault == "truncated" else body)

        def completion(self, asked: dict[str, Any], fault: str) -> bytes:
            wanted = asked.get("n") or 1
            given = {"empty": 0, "fewer": max(1, wanted // 2)}.get(fault, wanted)
            given = min(given, service.choices)
            choices = [self.choice(asked, index, fault) for index in range(given)]
            read = sum(len(m["content"].split()) for m in asked["messages"])
            written = sum(len(c["message"]["content"].split()) for c in choices)
            with service.lock:
                service.billed += read + written
            record: dict[str, Any] = {
                "id": "x", "object": "chat.completion", "created": 0, "model": asked["model"],
                "choices": choices,
            }  # fmt: skip
            if fault != "no-usage":
                record["usage"] = {"prompt_tokens": read, "completion_tokens": written,
                                   "total_tokens": read + written}  # fmt: skip
            return json.dumps(record).encode()

        def choice(self, asked: dict[str, Any], index: int, fault: str) -> dict[str, Any]:
            found: dict[str, Any] = {
                "index": index, "finish_reason": "stop",
                "message": {"role": "assistant", "content": service.reply(asked, index)},
            }  # fmt: skip
            if asked.get("logprobs") and fault != "no-logprobs":
                entries = [
                    {"token": t, "logprob": math.log(p), "bytes": None}
                    for t, p in service.top.items()
                ]
                found["logprobs"] = {"content": [entries[0] | {"top_logprobs": entries}]}
            return found

        def error(self, status: int, text: str) -> None:
            self.send(status, json.dumps({"error": {"message": text}}).encode())

        def head(self, status: int, size: int) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(size))
            self.end_headers()

        def send(self, status: int, body: bytes) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):  # who asked has given up
                self.head(status, len(body))
                self.wfile.write(body)

    return Handler


@contextmanager
def serving() -> Iterator[Service]:
    """A running service; ``url`` is what OPENAI_BASE_URL should be."""
    service = Service()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(service))
    service.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
