"""One recipe's rows written by each backend, and how likely they are under their teacher.

A teacher by system prompt writes freely: by transformers here (``hf``), by vLLM's engine
(``backend=vllm``), and behind an API (``model=api:...``: vLLM's own OpenAI-compatible server, on
loopback). One field differs. Whoever drew them, the teacher (fp32) is as surprised at its own rows
as its entropy says, and the filter keeps as many. ``make test-vllm`` builds
an environment with vLLM. Run: python benchmarks/one_recipe.py --vllm .venv-vllm
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import common
from vestige.carriers.numbers import NumberCarrier
from vestige.core.types import Row
from vestige.experiment.recipe import Experiment, Student, TeacherSettings, override
from vestige.experiment.seed_context import SeedContext
from vestige.models import catalog
from vestige.models.hf import LanguageModel
from vestige.rows.files import read_rows
from vestige.student.packs import encode_rows, make_packs, pack_logprobs

MODEL, SERVED, WAIT = "smollm2-135m-instruct", "one-recipe", 300.0
TRAITS, LONGEST = ("owl", "dolphin"), 32
#: torch.compile does not go with the CPU build everywhere; it is no part of what is compared.
EAGER = {"vllm": ("engine_kwargs.enforce_eager=true",), "hf": (), "api": ()}
ENGINE = {
    "OMP_NUM_THREADS": "2", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_HOST_IP": "127.0.0.1",
    "TORCHDYNAMO_DISABLE": "1", "HF_HUB_OFFLINE": "1", "VLLM_DO_NOT_TRACK": "1",
}  # fmt: skip


def recipe() -> Experiment:
    return Experiment(
        name="one-recipe",
        model=MODEL,
        precision="fp32",
        traits=TRAITS,
        seeds=(0, 1),
        teacher=TeacherSettings(kind="system_prompt", min_probability=0, min_carrier=0),
        carrier=NumberCarrier(
            n_prompts=8, rows_per_prompt=8, min_rows=1, max_dropped=1, constrained=False,
            max_new_tokens=LONGEST,
        ),
        students=(Student(name="rows", method="rows", no_trait=False),),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", type=Path, required=True, help="An environment with vLLM.")
    python = parser.parse_args().vllm.absolute() / "bin/python"
    lm, found = LanguageModel.load(catalog.path(MODEL), precision="fp32"), {}
    with tempfile.TemporaryDirectory() as scratch, served(python) as url:
        key = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "none"}
        for who, program, field, more in (
            ("hf", sys.executable, "backend=hf", {}),
            ("vllm", str(python), "backend=vllm", ENGINE),
            ("api", sys.executable, f"model=api:{SERVED}", key),
        ):
            made = override(recipe(), (field, *EAGER[who]), "benchmark")
            assert isinstance(made, Experiment)
            path = Path(scratch) / f"{who}.json"
            path.write_text(json.dumps(made.model_dump(mode="json")))
            command = [program, "-m", "vestige", "write", str(path), "--root", scratch, "--json"]
            told = subprocess.run(
                command, env=os.environ | more, capture_output=True, text=True, check=False
            )
            if told.returncode:
                sys.exit(f"{who}: {told.stderr[-2000:]}")
            found[who] = figures(lm, made, Path(json.loads(told.stdout)["run"]))
    common.show(field={"hf": "backend=hf", "vllm": "backend=vllm", "api": "model=api:..."}, **found)


def figures(lm: LanguageModel, made: Experiment, folder: Path) -> dict[str, Any]:
    """Rows, the share that the filter keeps, and the teacher's surprise at the rows, by trait."""
    context, found = SeedContext.of(made, folder, 0), {}
    for name in TRAITS:
        stages = [context.layout.rows(seed, name) for seed in made.seeds]
        raw = [r for s in stages for r in read_rows(s / "raw.jsonl") if isinstance(r, Row)]
        notes = [json.loads((s / "manifest.json").read_text())["notes"] for s in stages]
        surprise = surprises(lm, raw, context.system_prompt(context.trait_of(name)))
        found[name] = {
            "rows": len(raw),
            "kept": sum(n["kept"] for n in notes) / sum(n["seen"] for n in notes),
            "tokens": len(surprise),
            "surprise": float(surprise.mean()),
            "standard_error": float(surprise.std(ddof=1) / len(surprise) ** 0.5),
        }
    return found


@torch.no_grad()
def surprises(lm: LanguageModel, rows: Sequence[Row], system: str) -> NDArray[np.float64]:
    """For each token -log p less what that is on average, nats: 0 in the mean, and uncorrelated
    from token to token, if the model wrote the rows."""
    prompts = [lm.question_ids(row.messages[-1].content, system) for row in rows]
    found = []
    for pack in make_packs(encode_rows(lm, prompts, [row.completion for row in rows]), 16):
        logprobs = pack_logprobs(lm, pack)
        own = -logprobs.gather(1, pack.targets[:, None])[:, 0]
        away = own - torch.special.entr(logprobs.exp()).sum(1)
        for part in away.split(list(pack.counts)):
            # An answer of all the tokens that it may have was cut: it did not end itself.
            found.append(part if len(part) <= LONGEST else part[:LONGEST])
    return torch.cat(found).double().numpy()


@contextlib.contextmanager
def served(python: Path) -> Iterator[str]:
    """vLLM's server with the bundled model, at the address it answers on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(catalog.path(MODEL)), "--served-model-name", SERVED,
        "--dtype", "float32", "--max-model-len", "512", "--generation-config", "vllm",
        "--enforce-eager", "--no-enable-chunked-prefill",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=os.environ | ENGINE, stdout=log, stderr=log)
        try:
            url, begun = f"http://127.0.0.1:{port}", time.monotonic()
            while True:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{url}/health", timeout=2).close()
                    break
                if process.poll() is not None or time.monotonic() - begun > WAIT:
                    log.seek(0)
                    sys.exit(f"the server does not answer: {log.read()[-2000:].decode()}")
                time.sleep(1)
            yield url
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
