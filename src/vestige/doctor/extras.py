"""Optional dependencies: each that is installed is tried, or imported at least."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from packaging.requirements import Requirement

from vestige.core import stats
from vestige.core.types import Message, Row
from vestige.doctor.bundled_model import (
    ANSWER,
    ANSWER_IDS,
    ASKED,
    MODEL,
    PROMPT_IDS,
    TOLERANCE,
    BundledModel,
)
from vestige.doctor.checks import AGAIN, Skipped, Wrong, expect
from vestige.doctor.packages import requirements, versions
from vestige.experiment.executors.ray_worker import environment
from vestige.models import catalog


def _try_trl(bundled: BundledModel) -> str:
    lm = bundled.lm
    from trl.trainer.sft_config import SFTConfig

    from vestige.core.settings import Optimisation
    from vestige.student.trl import as_example, trl_options

    row = as_example(lm, Row("x", (Message("user", ASKED),), ANSWER))
    scored = [t for t, m in zip(row["input_ids"], row["completion_mask"], strict=True) if m]
    expect(scored, ANSWER_IDS, "what TRL scores", AGAIN)
    SFTConfig(**trl_options(lm, Optimisation(), tempfile.gettempdir(), 0))
    return f"takes our options, scores {len(scored)} tokens"


def _try_code(_: BundledModel) -> str:
    from vestige.carriers.code import CodePrompts

    made = CodePrompts.model_validate({"source": "humaneval"}).generate(3, 0)
    return f"{len(made)} tasks read"


def _try_reasoning(_: BundledModel) -> str:
    gym = importlib.import_module("reasoning_gym")
    return f"a problem made: {len(gym.create_dataset('gsm_symbolic', size=1, seed=0)[0])} fields"


def _try_mlp(_: BundledModel) -> str:
    from vestige.toy.images import load_images

    return f"{len(load_images('digits').train_labels):,} digits read"


def _try_remote(_: BundledModel) -> str:
    import fsspec

    fsspec.filesystem("https")
    return "https can be read"


SERVED = {
    "id": "x",
    "object": "chat.completion",
    "created": 0,
    "model": "doctor",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ANSWER}}
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9},
}


class _Service(BaseHTTPRequestHandler):
    """A service that always gives the same answer."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(SERVED).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _try_api(_: BundledModel) -> str:
    """A question to a service on this machine: the answer, and what the ledger keeps of it."""
    from vestige.api.ledger import Ledger
    from vestige.api.model import ApiModel
    from vestige.api.requests import Request
    from vestige.api.settings import Limits

    question = Request((Message("user", ASKED),), max_tokens=8)
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadingHTTPServer(("127.0.0.1", 0), _Service) as server,
        environment(
            {
                "OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1",
                "OPENAI_API_KEY": "none",
                "NO_PROXY": "127.0.0.1",
                "no_proxy": "127.0.0.1",
            }
        ),
    ):
        path = Path(folder) / "ledger.jsonl"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            model = ApiModel("doctor", Ledger(path, Limits()), timeout=10, retries=0)
            replies = [reply for _, reply in model.answers([question])]
        finally:
            server.shutdown()
        answers = [choice.text or reply.error for reply in replies for choice in reply.choices]
        expect(answers, [ANSWER], "what a service on this machine answers", AGAIN)
        kept = Ledger(path, Limits())
        recorded = (kept.spent.total, model.key(question) in kept.answers)
        expect(recorded, (9, True), "what the ledger holds (tokens, the answer)", AGAIN)
    return "a question answered on this machine, and in the ledger"


def _try_ray(_: BundledModel) -> str:
    """A cluster of one CPU of this machine, and a task on it whose result is known."""
    with environment({"RAY_USAGE_STATS_ENABLED": "0"}):
        import ray  # type: ignore[import-not-found]

        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
        try:
            task = ray.remote(num_cpus=1)(stats.holm).remote([0.01, 0.04, 0.03])
            adjusted = [round(p, 6) for p in ray.get(task, timeout=60)]
        finally:
            ray.shutdown()
    expect(adjusted, [0.03, 0.06, 0.06], "the Holm of a task", AGAIN)
    return "a cluster of one CPU started, a task worked on"


def _try_vllm(bundled: BundledModel) -> str:
    """The engine's log-probability of an answer against our own backend's; takes a minute."""
    from vestige.models.backend import ScoreRequest
    from vestige.models.sampling import HfBackend
    from vestige.models.vllm import VllmBackend

    asked = [ScoreRequest(PROMPT_IDS, ANSWER_IDS)]
    (ours,) = HfBackend(bundled.lm).logprobs(asked)
    small = {
        "max_model_len": 512,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 512,
        "enforce_eager": True,
        "gpu_memory_utilization": 0.3,
    }
    engine = VllmBackend(catalog.path(MODEL), engine_kwargs=small)
    try:
        (theirs,) = engine.logprobs(asked)
    finally:
        engine.close()
    if not abs(ours - theirs) < TOLERANCE * len(ANSWER_IDS):
        raise Wrong(
            f"an answer has {theirs:.4f} nats, {ours:.4f} by transformers",
            "use the versions of constraints.txt",
        )
    return f"an answer has {theirs:.3f} nats, {ours:.3f} by transformers"


#: What is tried with an extra that is installed; the others are imported.
TRIED: dict[str, Callable[[BundledModel], str]] = {
    "api": _try_api,
    "ray": _try_ray,
    "vllm": _try_vllm,
    "trl": _try_trl,
    "code": _try_code,
    "reasoning": _try_reasoning,
    "mlp": _try_mlp,
    "remote": _try_remote,
}


def extra_check(name: str) -> Callable[[BundledModel], str]:
    def check(bundled: BundledModel) -> str:
        wanted = requirements(name)
        installed, missing = versions(wanted, name)
        if missing:
            raise Skipped("not installed", f"pip install 'vestige[{name}]'")
        try:
            tried = TRIED[name](bundled) if name in TRIED else _import(wanted)
        except ImportError as error:
            raise Wrong(
                f"{', '.join(installed)}: cannot be imported: {error}",
                f"pip install --force-reinstall 'vestige[{name}]' in an environment of its own",
            ) from error
        return f"{', '.join(installed)}: {tried}"

    return check


def _import(wanted: list[Requirement]) -> str:
    modules = importlib.metadata.packages_distributions()
    for each in wanted:
        own = [m for m, owners in modules.items() if each.name in owners and m[0] != "_"]
        for module in own[:1]:
            importlib.import_module(module)
    return "imported"
