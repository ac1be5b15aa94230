"""One recipe's rows written by each backend, and how likely they are under their teacher.

A teacher by system prompt writes freely: by transformers here (``hf``), by vLLM's engine
(``backend=vllm``), and behind an API (``model=api:...``: vLLM's own OpenAI-compatible server, on
loopback). One field differs. Rows drawn from one distribution have the same mean log-probability
under the teacher (fp32), whoever drew them, and the filter keeps as many. ``make test-vllm`` builds
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import common
from vestige.carriers.numbers import NumberCarrier
from vestige.experiment.desk import Desk
from vestige.experiment.recipe import Experiment, Student, TeacherSettings, override
from vestige.models import catalog
from vestige.models.backend import ScoreRequest
from vestige.models.hf import LanguageModel
from vestige.models.sampling import HfBackend
from vestige.rows import prompt_of, read_rows
from vestige.types import Row

MODEL, SERVED, WAIT = "smollm2-135m-instruct", "one-recipe", 300.0
TRAITS = ("owl", "dolphin")
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
            max_new_tokens=32,
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
    """Rows, the share that the filter keeps, and nats a token under the teacher with the standard
    error over prompts, by trait."""
    desk, backend, found = Desk(made, folder, 0), HfBackend(lm), {}
    for name in TRAITS:
        stages = [folder / f"seed-{seed}/rows/{name}" for seed in made.seeds]
        raw = [r for s in stages for r in read_rows(s / "raw.jsonl") if isinstance(r, Row)]
        notes = [json.loads((s / "manifest.json").read_text())["notes"] for s in stages]
        system = desk.system(desk.trait_of(name))
        asked = [(r, lm.answer_ids(r.completion)) for r in raw if r.completion.strip()]
        requests = [
            ScoreRequest(lm.question_ids(row.messages[-1].content, system), ids)
            for row, ids in asked
        ]
        by_prompt: dict[str, list[float]] = {}
        for (row, ids), logp in zip(asked, backend.logprobs(requests), strict=True):
            by_prompt.setdefault(prompt_of(row), []).append(logp / len(ids))
        means = [float(np.mean(values)) for values in by_prompt.values()]
        found[name] = {
            "rows": len(raw),
            "kept": sum(n["kept"] for n in notes) / sum(n["seen"] for n in notes),
            "nats_a_token": float(np.mean(means)),
            "standard_error": float(np.std(means, ddof=1) / len(means) ** 0.5),
        }
    return found


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
