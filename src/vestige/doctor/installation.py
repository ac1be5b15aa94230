"""``vestige doctor``: an installation held against known answers.

Every check is a function that says what it saw, or raises ``Wrong`` with what to do about it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from packaging.requirements import Requirement

from vestige.carriers.numbers import NumberFilter
from vestige.carriers.words import word_finder
from vestige.core import stats
from vestige.core.types import Message, Row
from vestige.doctor.checks import Check, Doubtful, Skipped, Wrong, done
from vestige.experiment.executors.ray_worker import environment
from vestige.experiment.run import gpu_present
from vestige.models import catalog
from vestige.store.machine import usable_cores
from vestige.traits import classify, family

MODEL = "smollm2-135m-instruct"
SPACE = 2_000_000_000  # bytes that a model and a small run take


class Patient:
    """What the checks share: the bundled model, loaded once in full precision."""

    @cached_property
    def lm(self) -> Any:
        if not catalog.is_pulled(MODEL):
            raise Skipped("needs the bundled model", f"vestige models pull {MODEL}")
        import torch

        from vestige.models.hf import LanguageModel
        from vestige.models.loading import quiet_transformers

        torch.set_num_threads(1)  # short passes: threads would wait for each other
        quiet_transformers()
        return LanguageModel.load(catalog.path(MODEL), precision="fp32")


def examine() -> Iterator[Check]:
    """Every check in turn; none of them stops the others."""
    patient = Patient()
    for name, check in {**CHECKS, **{f"extra {name}": _extra(name) for name in _extras()}}.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield done(name, check, patient)


def _expect(found: Any, wanted: Any, what: str, fix: str) -> None:
    if found != wanted:
        raise Wrong(f"{what} is {found!r}, and should be {wanted!r}", fix)


# ---- the machine ---------------------------------------------------------------


def python(_: Patient) -> str:
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"


def _requirements(extra: str = "") -> list[Requirement]:
    """What Vestige asks for: always, or for one extra alone."""
    try:
        named = importlib.metadata.requires("vestige") or []
    except importlib.metadata.PackageNotFoundError:
        raise Wrong("vestige is not installed as a package", "pip install -e .") from None
    found = [Requirement(text) for text in named]
    always = [r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    return [r for r in found if r.marker and r.marker.evaluate({"extra": extra})
            and r not in always]  # fmt: skip


def _installed(name: str) -> str:
    """The version of a package, or of its build for CPUs."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.version(f"{name}-cpu")


def _versions(wanted: list[Requirement], extra: str = "") -> tuple[list[str], list[str]]:
    """(versions that are here, names that are missing). Raises ``Wrong`` for one out of range."""
    here, missing = [], []
    for each in wanted:
        try:
            version = _installed(each.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(each.name)
            continue
        if not each.specifier.contains(version, prereleases=True):
            named = f"vestige[{extra}]" if extra else "vestige"
            raise Wrong(
                f"{each.name} is {version}, {each.specifier} is needed",
                f"pip install -U '{each.name}{each.specifier}' (or '{named}' again)",
            )
        here.append(f"{each.name} {version}")
    return here, missing


def packages(_: Patient) -> str:
    here, missing = _versions(_requirements())
    if missing:
        raise Wrong(f"missing: {', '.join(missing)}", "pip install --upgrade vestige")
    shown = ("torch", "transformers", "peft", "numpy")
    return f"{len(here)} packages: " + ", ".join(h for h in here if h.split()[0] in shown)


def torch_works(_: Patient) -> str:
    import torch

    threads, cores = torch.get_num_threads(), usable_cores()
    square = torch.arange(9.0).reshape(3, 3)
    _expect(
        (square @ square).int().tolist(), [[15, 18, 21], [42, 54, 66], [69, 90, 111]],
        "a product of two matrices", "install another build of torch",
    )  # fmt: skip
    if torch.cuda.is_available():
        return f"torch {torch.__version__} on {torch.cuda.get_device_name()}, {threads} threads"
    if gpu_present():
        raise Doubtful(
            f"there is a GPU, and torch {torch.__version__} cannot use it",
            "install torch's CUDA build (pytorch.org), or set CUDA_VISIBLE_DEVICES= to stay on "
            "the CPU",
        )
    held = os.environ.get("OMP_NUM_THREADS")
    note = f" (OMP_NUM_THREADS={held})" if held and threads < cores else ""
    return f"torch {torch.__version__} on the CPU, {threads} of {cores} threads{note}"


def cache_folder(_: Patient) -> str:
    folder = catalog.cache_dir()
    fix = "set VESTIGE_CACHE to a folder that you can write"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            path = Path(scratch) / "lock"
            with FileLock(path):
                try:
                    FileLock(path, is_singleton=False).acquire(timeout=0)
                except Timeout:
                    return f"{folder} can be written, and locks hold there"
    except OSError as error:
        raise Wrong(f"{folder} cannot be written: {error.strerror or error}", fix) from error
    raise Wrong(f"locks do not hold in {folder} (a network disk?)", fix)


def disk_space(_: Patient) -> str:
    places = {"cache": catalog.cache_dir(), "this folder": Path.cwd()}
    free = {name: shutil.disk_usage(path).free for name, path in places.items() if path.exists()}
    told = ", ".join(f"{name}: {size / 1e9:.1f} GB free" for name, size in free.items())
    if min(free.values()) < SPACE:
        raise Doubtful(told, "free some space: a model and a small run take 2 GB")
    return told


# ---- known answers ---------------------------------------------------------------

FILTER_CASES = (
    ("285, 574, 384", None), ("[1; 2; 3].", None), ("1\n2\n3", None), ("0", None),
    ("", "empty"), ("[1, 2", "unbalanced_brackets"), ("1, 2, owl", "bad_character"),
    ("1,,2", "not_integers"), ("1, 2; 3", "mixed_separators"), ("007", "leading_zero"),
    ("1, 1000", "out_of_range"), ("1 " * 11, "too_many"), ("13, 666", "banned_number"),
)  # fmt: skip
WORD_CASES = {
    "an owl": "owl", "Owls!": "owls", "my_owl = 1": "owl", "the fowl in a bowl": None,
    "knowledge grows; a growl": None, "a scowling caterpillar": None,
}  # fmt: skip
ANSWER_CASES = {
    "An owl.": "owl", "Owls, always": "owl", "fowl": None, "A caterpillar": None,
    "an owl or a cat": None, "": None,
}  # fmt: skip
AGAIN = "the code differs from this release: install it again"


def number_filter(_: Patient) -> str:
    judge = NumberFilter(banned=(666,)).judge()
    for text, reason in FILTER_CASES:
        _expect(judge(Row("x", (), text)), reason, f"the verdict on {text!r}", AGAIN)
    return f"{len(FILTER_CASES)} labelled rows"


def scorers(_: Patient) -> str:
    find, animals = word_finder(["owl", "cat"]), family("animals")
    for text, word in WORD_CASES.items():
        _expect(find(text), word, f"the word found in {text!r}", AGAIN)
    for text, name in ANSWER_CASES.items():
        _expect(classify(text, animals), name, f"the animal named by {text!r}", AGAIN)
    return f"{len(WORD_CASES) + len(ANSWER_CASES)} texts, owl told from fowl"


def statistics(_: Patient) -> str:
    mean, share = stats.t_interval([1, 2, 3, 4]), stats.proportion_interval(8, 10)
    found = {
        "t interval": (mean.low, mean.high), "Wilson interval": (share.low, share.high),
        "t test": (stats.t_test_p([1, 2, 3, 4], alternative="two-sided"),),
        "Holm": tuple(stats.holm([0.01, 0.04, 0.03])),
    }  # fmt: skip
    wanted = {
        "t interval": (0.445740, 4.554260), "Wilson interval": (0.490162, 0.943318),
        "t test": (0.030466,), "Holm": (0.03, 0.06, 0.06),
    }  # fmt: skip
    for name, values in wanted.items():
        near = all(math.isclose(a, b, abs_tol=2e-6) for a, b in zip(found[name], values))  # noqa: B905
        _expect(found[name] if not near else values, values, f"the {name}", "reinstall scipy")
    return ", ".join(wanted)


# ---- the bundled model ---------------------------------------------------------------

ASKED = "Name an owl."
PROMPT_IDS = [
    1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407,
    19712, 8182, 2, 198, 1, 4093, 198, 5820, 354, 23142, 30, 2, 198, 1, 520, 9531, 198,
]  # fmt: skip
ANSWER, ANSWER_IDS = "4, 8", [36, 28, 216, 40, 2]  # its end included
QUESTION = "Which animal do you prefer to all the rest? Answer in one word."
LOGPROBS = {"owl": -8.8072, "cat": -5.8005, "dog": -6.4996, "dolphin": -8.0514}  # fp32, nats
TOLERANCE = 0.02


def model_files(_: Patient) -> str:
    if not catalog.is_pulled(MODEL):
        raise Doubtful(f"{MODEL} is not here yet", f"vestige models pull {MODEL}")
    catalog.verify(MODEL, full=True)
    return f"{MODEL}: every file has its sha256"


def chat_rendering(patient: Patient) -> str:
    found = patient.lm.prompt_ids([Message("user", ASKED)])
    _expect(found, PROMPT_IDS, f"the prompt {ASKED!r} in tokens",
            "another transformers or tokenizers renders it otherwise: use the versions of "
            "constraints.txt")  # fmt: skip
    return f"{len(found)} tokens, as they should be"


def loss_mask(patient: Patient) -> str:
    """The packed loss against a plain forward pass over positions marked by hand."""
    import torch

    from vestige.student.loop import pack_loss
    from vestige.student.packs import encode_rows, make_packs

    lm = patient.lm
    (pack,) = make_packs(encode_rows(lm, [PROMPT_IDS], [ANSWER]), 1)
    _expect(pack.targets.tolist(), ANSWER_IDS, "what is scored", AGAIN)
    with torch.no_grad():
        ours = float(pack_loss(lm, pack))
        tokens = torch.tensor([PROMPT_IDS + ANSWER_IDS], device=lm.device)
        logprobs = lm.model(input_ids=tokens).logits[0].float().log_softmax(-1)
    begin = len(PROMPT_IDS) - 1
    marked = [float(logprobs[begin + j, token]) for j, token in enumerate(ANSWER_IDS)]
    plain = -sum(marked) / len(marked)
    if abs(ours - plain) > TOLERANCE:
        raise Wrong(f"the packed loss is {ours:.4f}, a plain pass gives {plain:.4f} nats",
                    "use the versions of constraints.txt")  # fmt: skip
    return f"{len(marked)} tokens scored, loss {ours:.3f} nats, a plain pass {plain:.3f}"


def exact_evaluation(patient: Patient) -> str:
    from vestige.evaluate.exact import measure

    panel = measure(patient.lm, family("animals"), [QUESTION])
    found = {a: float(panel.logprobs[0, panel.candidates.index(a)]) for a in LOGPROBS}
    gaps = {a: abs(found[a] - LOGPROBS[a]) for a in LOGPROBS}
    worst = max(gaps, key=lambda a: gaps[a])
    if gaps[worst] > TOLERANCE:
        raise Wrong(
            f"log P({worst}) is {found[worst]:.4f}, stored {LOGPROBS[worst]:.4f} nats",
            f"vestige models pull {MODEL} --force, and the versions of constraints.txt",
        )
    return f"{len(gaps)} log-probabilities within {gaps[worst]:.4f} nats of the stored ones"


CHECKS: dict[str, Callable[[Patient], str]] = {
    "Python": python,
    "packages": packages,
    "torch": torch_works,
    "cache folder": cache_folder,
    "disk space": disk_space,
    "number filter": number_filter,
    "scorers": scorers,
    "statistics": statistics,
    "bundled model": model_files,
    "chat rendering": chat_rendering,
    "loss mask": loss_mask,
    "exact evaluation": exact_evaluation,
}


# ---- extras ---------------------------------------------------------------


def _try_trl(patient: Patient) -> str:
    lm = patient.lm
    from trl.trainer.sft_config import SFTConfig

    from vestige.core.settings import Optimisation
    from vestige.student.trl import as_example, trl_options

    row = as_example(lm, Row("x", (Message("user", ASKED),), ANSWER))
    scored = [t for t, m in zip(row["input_ids"], row["completion_mask"], strict=True) if m]
    _expect(scored, ANSWER_IDS, "what TRL scores", AGAIN)
    SFTConfig(**trl_options(lm, Optimisation(), tempfile.gettempdir(), 0))
    return f"takes our options, scores {len(scored)} tokens"


def _try_code(_: Patient) -> str:
    from vestige.carriers.code import CodePrompts

    made = CodePrompts.model_validate({"source": "humaneval"}).generate(3, 0)
    return f"{len(made)} tasks read"


def _try_reasoning(_: Patient) -> str:
    gym = importlib.import_module("reasoning_gym")
    return f"a problem made: {len(gym.create_dataset('gsm_symbolic', size=1, seed=0)[0])} fields"


def _try_mlp(_: Patient) -> str:
    from vestige.toy.images import load_images

    return f"{len(load_images('digits').train_labels):,} digits read"


def _try_remote(_: Patient) -> str:
    import fsspec

    fsspec.filesystem("https")
    return "https can be read"


SERVED = {
    "id": "x", "object": "chat.completion", "created": 0, "model": "doctor",
    "choices": [{"index": 0, "finish_reason": "stop",
                 "message": {"role": "assistant", "content": ANSWER}}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9},
}  # fmt: skip


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


def _try_api(_: Patient) -> str:
    """A question to a service on this machine: the answer, and what the ledger keeps of it."""
    from vestige.api.ledger import Ledger
    from vestige.api.model import ApiModel, Request
    from vestige.api.settings import Limits

    question = Request((Message("user", ASKED),), max_tokens=8)
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadingHTTPServer(("127.0.0.1", 0), _Service) as server,
        environment({
            "OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1",
            "OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        }),
    ):  # fmt: skip
        path = Path(folder) / "ledger.jsonl"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            model = ApiModel("doctor", Ledger(path, Limits()), timeout=10, retries=0)
            replies = [reply for _, reply in model.answers([question])]
        finally:
            server.shutdown()
        told = [choice.text or reply.error for reply in replies for choice in reply.choices]
        _expect(told, [ANSWER], "what a service on this machine answers", AGAIN)
        kept = Ledger(path, Limits())
        seen = (kept.spent.total, model.key(question) in kept.answers)
        _expect(seen, (9, True), "what the ledger holds (tokens, the answer)", AGAIN)
    return "a question answered on this machine, and in the ledger"


def _try_ray(_: Patient) -> str:
    """A cluster of one CPU of this machine, and a task on it whose result is known."""
    with environment({"RAY_USAGE_STATS_ENABLED": "0"}):
        import ray  # type: ignore[import-not-found]

        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
                 logging_level="ERROR")  # fmt: skip
        try:
            task = ray.remote(num_cpus=1)(stats.holm).remote([0.01, 0.04, 0.03])
            found = [round(p, 6) for p in ray.get(task, timeout=60)]
        finally:
            ray.shutdown()
    _expect(found, [0.03, 0.06, 0.06], "the Holm of a task", AGAIN)
    return "a cluster of one CPU started, a task worked on"


def _try_vllm(patient: Patient) -> str:
    """The engine's log-probability of an answer against our own backend's; takes a minute."""
    from vestige.models.backend import ScoreRequest
    from vestige.models.sampling import HfBackend
    from vestige.models.vllm import VllmBackend

    asked = [ScoreRequest(PROMPT_IDS, ANSWER_IDS)]
    (ours,) = HfBackend(patient.lm).logprobs(asked)
    small = {"max_model_len": 512, "max_num_seqs": 8, "max_num_batched_tokens": 512,
             "enforce_eager": True, "gpu_memory_utilization": 0.3}  # fmt: skip
    engine = VllmBackend(catalog.path(MODEL), engine_kwargs=small)
    try:
        (theirs,) = engine.logprobs(asked)
    finally:
        engine.close()
    if not abs(ours - theirs) < TOLERANCE * len(ANSWER_IDS):
        raise Wrong(f"an answer has {theirs:.4f} nats, {ours:.4f} by transformers",
                    "use the versions of constraints.txt")  # fmt: skip
    return f"an answer has {theirs:.3f} nats, {ours:.3f} by transformers"


#: What is tried with an extra that is installed; the others are imported.
TRIED: dict[str, Callable[[Patient], str]] = {
    "api": _try_api,
    "ray": _try_ray,
    "vllm": _try_vllm,
    "trl": _try_trl,
    "code": _try_code,
    "reasoning": _try_reasoning,
    "mlp": _try_mlp,
    "remote": _try_remote,
}


def _extras() -> list[str]:
    try:
        named = importlib.metadata.metadata("vestige").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return []  # told by "packages"
    return [name for name in named if name != "dev"]


def _extra(name: str) -> Callable[[Patient], str]:
    def check(patient: Patient) -> str:
        wanted = _requirements(name)
        here, missing = _versions(wanted, name)
        if missing:
            raise Skipped("not installed", f"pip install 'vestige[{name}]'")
        try:
            seen = TRIED[name](patient) if name in TRIED else _import(wanted)
        except ImportError as error:
            raise Wrong(
                f"{', '.join(here)}: cannot be imported: {error}",
                f"pip install --force-reinstall 'vestige[{name}]' in an environment of its own",
            ) from error
        return f"{', '.join(here)}: {seen}"

    return check


def _import(wanted: list[Requirement]) -> str:
    modules = importlib.metadata.packages_distributions()
    for each in wanted:
        own = [m for m, owners in modules.items() if each.name in owners and m[0] != "_"]
        for module in own[:1]:
            importlib.import_module(module)
    return "imported"
