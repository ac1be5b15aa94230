"""The ``vllm`` backend: offline batches on vLLM's own engine, for rows by the hundred thousand.

Every request has a random stream of its own, derived from its seed and row (with one seed for all,
vLLM answers different prompts alike). Inside an ``Automaton`` the engine gets the grammar and the
symbols' tokens, so that it draws from the distribution that the ``hf`` backend draws from.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from transformers import AutoTokenizer

from vestige.core.types import MissingExtraError, ModelError
from vestige.models import catalog
from vestige.models.backend import SampleRequest, ScoreRequest, end_tokens, lines_end
from vestige.models.chat import Chat, ChatStyle
from vestige.models.grammar import Automaton, symbol_tokens

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that the engine makes room for
#: What two tokenizers must read alike: the same tokens may be joined in another order.
TEXTS = (
    "Name 12 owls, please.",
    "285, 574, 123, 7890",
    "def f(x):\n\treturn x + 1\n",
    "naïve Größe, 数字 — unbelievably  spaced",
)
Result = TypeVar("Result")


class VllmBackend(Chat):
    """One engine in this process; ``use`` gives it other weights, ``close`` ends it.

    Attributes:
        facts: backend, version and dtype: a bf16 sampler is not the same teacher as an fp32 one.
    """

    batch = 1024

    def __init__(
        self,
        model: str,
        *,
        style: ChatStyle = "auto",
        dtype: str = "float32",
        lora_rank: int = 0,
        lora_modules: Sequence[str] = (),
        engine_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Start an engine.

        Args:
            model: a folder or hub id.
            lora_rank: the largest rank of the adapters that ``use`` will be given; 0 takes none.
            lora_modules: what these adapters change (``q_proj``). Never the output layer: vLLM then
                cannot score prompts.
            engine_kwargs: vLLM's own engine arguments; they win over those set here.

        Raises:
            MissingExtraError: vLLM is not installed.
            ModelError: the engine cannot load the model, or reads another tokenizer's tokens.
        """
        self._model, self._changed, self._lora, self._adapters = model, False, None, 0
        settings = engine_settings(dtype, lora_rank, lora_modules, engine_kwargs or {})
        super().__init__(read_tokenizer(model, settings.get("tokenizer")), style)
        self._vllm = import_vllm()
        from vllm.platforms import current_platform  # type: ignore[import-not-found]

        if current_platform.is_cpu():
            # Where a prompt is read in parts, vLLM turns a request's random stream back by a step,
            # which torch's generators for CPUs cannot do.
            settings = {"enable_chunked_prefill": False, **settings}
        failed = f"vLLM cannot load a language model from {model}"
        self._engine: Any = explained(failed, self._vllm.LLM, model, **settings)
        config = self._engine.llm_engine.vllm_config.model_config
        self.facts = {
            "backend": "vllm",
            "version": self._vllm.__version__,
            "dtype": str(config.dtype).removeprefix("torch."),
        }

    def use(self, folder: Path | None) -> None:
        """Go on with the weights in ``folder``, or with a PEFT adapter; None: the model's own.

        Raises:
            ModelError: the engine cannot take them.
        """
        adapter = folder is not None and (folder / "adapter_config.json").is_file()
        own = folder is None or adapter
        if not own or self._changed:
            wanted = self._model if own else catalog.path(str(folder))
            failed = f"vLLM cannot take the weights in {wanted}"
            self._changed = True
            explained(
                failed,
                self._engine.collective_rpc,
                "reload_weights",
                kwargs={"weights_path": wanted},
            )
            self._engine.reset_prefix_cache()
            self._changed = not own
        self._lora = self._adapter(str(folder)) if adapter else None

    def _adapter(self, folder: str) -> Any:
        from vllm.lora.request import LoRARequest  # type: ignore[import-not-found]

        self._adapters += 1  # a number of its own: the engine keeps adapters by number
        return LoRARequest(f"adapter-{self._adapters}", self._adapters, folder)

    def sample(self, requests: Sequence[SampleRequest]) -> list[str]:
        """Raises ``ModelError`` with the engine's reason for a request that it refuses."""
        outputs = self._run(
            [request.prompt for request in requests], [self._sampling(r) for r in requests]
        )
        ends = end_tokens(self)
        texts = []
        for request, output in zip(requests, outputs, strict=True):
            ids = list(output.outputs[0].token_ids)
            stop = min((ids.index(end) for end in ends if end in ids), default=len(ids))
            text = self.tokenizer.decode(ids[:stop], skip_special_tokens=True)
            texts.append(text[: lines_end(text, request.lines)])
        return texts

    def logprobs(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """Raises ``ModelError`` if the engine leaves out a token's log-probability."""
        scoring = self._vllm.SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        outputs = self._run([[*r.prompt, *r.answer] for r in requests], [scoring] * len(requests))
        return [
            total_logprob(request, output.prompt_logprobs)
            for request, output in zip(requests, outputs, strict=True)
        ]

    def close(self) -> None:
        """End the engine and free what it held."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.llm_engine.engine_core.shutdown()
            del engine
            gc.collect()

    def _sampling(self, request: SampleRequest) -> Any:
        options: dict[str, Any] = {}
        grammar = request.grammar
        if isinstance(grammar, Automaton):
            options["allowed_token_ids"] = symbol_tokens(self, grammar)
            grammar = {"grammar": grammar.ebnf()}
        if grammar is not None:
            from vllm.sampling_params import (  # type: ignore[import-not-found]
                StructuredOutputsParams,
            )

            options["structured_outputs"] = StructuredOutputsParams(**grammar)
        if request.lines == 1:
            options["stop"] = ["\n"]
        return self._vllm.SamplingParams(
            temperature=1.0,
            seed=request_seed(request.seed, request.row),
            max_tokens=request.max_tokens,
            stop_token_ids=[self.end_id],
            detokenize="stop" in options,
            **options,
        )

    def _run(self, prompts: Sequence[Sequence[int]], parameters: Sequence[Any]) -> list[Any]:
        return explained(
            "vLLM refused a request",
            self._engine.generate,
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            parameters,
            use_tqdm=False,
            lora_request=self._lora,
        )


def engine_settings(
    dtype: str, lora_rank: int, lora_modules: Sequence[str], engine_kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The engine's arguments; ``engine_kwargs`` win over those set here."""
    lora = {
        "enable_lora": True,
        "max_lora_rank": next((r for r in LORA_RANKS if r >= lora_rank), lora_rank),
        "lora_target_modules": list(lora_modules),
    }
    return {
        "dtype": dtype,
        "load_format": "safetensors",
        "trust_remote_code": False,
        "enable_prefix_caching": True,
        "generation_config": "vllm",  # T=1 means the model's own probabilities
        **(lora if lora_rank else {}),
        **engine_kwargs,
    }


def request_seed(seed: int, row: int) -> int:
    """A request's own seed: 63 bits of a hash of both."""
    return int.from_bytes(hashlib.sha256(f"{seed}-{row}".encode()).digest()[:8], "big") >> 1


def read_tokenizer(model: str, engines: str | None) -> Any:
    """The model's tokenizer. Raises ``ModelError`` if ``engines`` names one that reads texts as
    other tokens."""
    names = [model, engines or model]
    failed = f"cannot load the tokenizer of {model}"
    ours, theirs = (
        explained(failed, AutoTokenizer.from_pretrained, name, trust_remote_code=False)
        for name in names
    )
    read = [[t.encode(text, add_special_tokens=False) for text in TEXTS] for t in (ours, theirs)]
    if ours.get_vocab() != theirs.get_vocab() or read[0] != read[1]:
        raise ModelError(
            f"engine_kwargs.tokenizer={engines} has other tokens than {model}, or joins them in "
            "another order; the model's tokens are what the engine is given: leave it out"
        )
    return ours


def total_logprob(request: ScoreRequest, given: Sequence[Any] | None) -> float:
    """The answer's log-probability from what the engine gave for each token of prompt and answer.

    Raises:
        ModelError: some are missing.
    """
    places = list(given or [])[len(request.prompt) :]
    logprobs = [
        place[token].logprob
        for token, place in zip(request.answer, places, strict=False)
        if place and token in place
    ]
    if len(logprobs) < len(request.answer):
        raise ModelError(
            f"the engine gave {len(logprobs)} of {len(request.answer)} log-probabilities of an "
            "answer; leave out of engine_kwargs what limits them"
        )
    return float(sum(logprobs))


def explained(failed: str, call: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    """``call(...)``. Raises ``ModelError``: ``failed``, and the library's own reason."""
    try:
        return call(*args, **kwargs)
    except Exception as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise ModelError(f"{failed}: {reason}") from error


def import_vllm() -> Any:
    """The library, told to run its engine in this process and to keep its log to warnings.

    Raises:
        MissingExtraError: it is not installed.
        ModelError: it is, but does not load.
    """
    # In this process scheduling is the same each time, and a worker process may hold an engine.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # a command's JSON is alone
    # Bound to cores of the engine's choice, transformers' threads of this process would share one.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtraError("vllm", "vllm")
    return explained("vLLM is installed but does not load", importlib.import_module, "vllm")
