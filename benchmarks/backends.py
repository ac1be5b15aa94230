"""Tokens/s of the ``hf`` and ``vllm`` backends on the carrier's prompts, in one process, and how
far their log-probabilities are from those in fp32.

Free answers of at most 48 tokens and rows inside the number grammar; eight prompts, each asked as
often. Where vLLM is installed (``make test-vllm`` builds such an environment):

    OMP_NUM_THREADS=1 VLLM_CPU_KVCACHE_SPACE=1 python benchmarks/backends.py
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial

import common
from vestige.carriers.numbers import NumberGrammar
from vestige.models import catalog
from vestige.models.backend import Backend, SampleRequest, ScoreRequest
from vestige.models.hf import LanguageModel
from vestige.models.sampling import HfBackend
from vestige.models.vllm import DTYPES, VllmBackend

ROWS, PER_PROMPT = 64, 8


def main() -> None:
    options = common.arguments(__doc__ or "")
    lm, short = common.load(options), {"max_model_len": 512}
    engine = VllmBackend(
        catalog.path(options.model), dtype=DTYPES[lm.precision], engine_kwargs=short
    )
    rules, longest = common.grammar(), NumberGrammar().longest
    texts = [t for t in common.prompts(ROWS // PER_PROMPT) for _ in range(PER_PROMPT)]
    ids = [lm.question_ids(text) for text in texts]
    asked = {
        "free": [SampleRequest(prompt, 0, i, 48) for i, prompt in enumerate(ids)],
        "grammar": [SampleRequest(p, 0, i, longest, grammar=rules) for i, p in enumerate(ids)],
    }
    figures: dict[str, object] = {"threads": options.threads, "vllm": engine.facts}
    drawn: dict[str, list[str]] = {}

    def ask(backend: Backend, who: str, requests: Sequence[SampleRequest]) -> None:
        drawn[who] = backend.sample(requests)

    for name, requests in asked.items():
        drawn = {}
        seconds = common.in_turn(
            options.repeats,
            hf=partial(ask, HfBackend(lm), "hf", requests),
            vllm=partial(ask, engine, "vllm", requests),
        )
        tokens = {who: sum(len(lm.answer_ids(t)) + 1 for t in drawn[who]) for who in drawn}
        rate = {who: tokens[who] / statistics.median(s) for who, s in seconds.items()}
        figures[name] = {
            "tokens": tokens,
            "tokens_per_second": rate,
            "hf_over_vllm": rate["hf"] / rate["vllm"],
        }
    rows = [ScoreRequest(p, lm.answer_ids(t)) for p, t in zip(ids, drawn["hf"], strict=True)]
    figures["nats_off"] = nats_off(lm, engine, rows)
    engine.close()
    common.show(**figures)


def nats_off(
    lm: LanguageModel, engine: VllmBackend, rows: Sequence[ScoreRequest]
) -> dict[str, float]:
    """How far each backend's log-probabilities of whole rows are from fp32 ones, at most."""
    found = {"hf": HfBackend(lm).logprobs(rows), "vllm": engine.logprobs(rows)}
    lm.passes.precision = "fp32"
    exact = HfBackend(lm).logprobs(rows)
    return {
        who: max(abs(a - b) for a, b in zip(values, exact, strict=True))
        for who, values in found.items()
    }


if __name__ == "__main__":
    main()
