"""Tokens/s of the ``hf`` and ``vllm`` backends on the carrier's prompts, in one process.

Free answers of at most 48 tokens and rows inside the number grammar; eight prompts, each asked as
often. Where vLLM is installed (``make test-vllm`` builds such an environment):

    OMP_NUM_THREADS=1 VLLM_CPU_KVCACHE_SPACE=1 python benchmarks/backends.py
"""

from __future__ import annotations

import statistics

import common
from vestige.carriers.numbers import NumberGrammar
from vestige.models import catalog
from vestige.models.backend import SampleRequest
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
    for name, requests in asked.items():
        drawn: dict[str, list[str]] = {}

        def ask(backend: HfBackend | VllmBackend, who: str, requests=requests, drawn=drawn) -> None:
            drawn[who] = backend.sample(requests)

        seconds = common.in_turn(
            options.repeats,
            hf=lambda ask=ask: ask(HfBackend(lm), "hf"),
            vllm=lambda ask=ask: ask(engine, "vllm"),
        )
        tokens = {who: sum(len(lm.answer_ids(t)) + 1 for t in drawn[who]) for who in drawn}
        rate = {who: tokens[who] / statistics.median(s) for who, s in seconds.items()}
        figures[name] = {
            "tokens": tokens,
            "tokens_per_second": rate,
            "hf_over_vllm": rate["hf"] / rate["vllm"],
        }
    engine.close()
    common.show(**figures)


if __name__ == "__main__":
    main()
