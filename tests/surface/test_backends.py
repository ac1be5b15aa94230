"""Every backend against plain forward passes in fp32: of a tiny model, and once of the bundled one.

``hf`` runs everywhere; ``vllm`` where it is installed: ``make test-vllm``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM

from tiny import tokenizer
from vestige.carriers.numbers import NumberCarrier, NumberGrammar, NumberPrompts
from vestige.core.settings import Optimisation, Trainable
from vestige.core.types import ConfigError, Message, ModelError
from vestige.experiment.executors.processes import run_seed
from vestige.experiment.recipe import Experiment, Student, TeacherSettings
from vestige.models import catalog
from vestige.models.backend import SampleRequest, ScoreRequest
from vestige.models.grammar import compile_grammar
from vestige.models.hf import LanguageModel
from vestige.models.sampling import HfBackend
from vestige.models.weights import Weights, linear_names

MODEL = "smollm2-135m-instruct"
NATS = 2e-3  # how far an answer's log-probability may be off
UPPER, RANK = Trainable(layers=(1, 3)), 4
GRAMMAR = NumberGrammar(values=3)
RULES = compile_grammar(GRAMMAR.next_chars, GRAMMAR.state)
TEXTS = [prompt.text for prompt in NumberPrompts(format="comma").generate(4, seed=0)]
ENGINE: dict[str, Any] = {
    "max_model_len": 512,
    "enforce_eager": True,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 512,
}
vllm_is_here = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(not vllm_is_here, reason="vLLM is not installed: make test-vllm")
BACKENDS = ["hf", pytest.param("vllm", marks=needs_vllm)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Llama whose heads are wide enough for vLLM's kernels."""
    words, place = tokenizer(), tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=128, intermediate_size=192, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=1024,
        tie_word_embeddings=True, initializer_range=0.06, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(place)
    words.save_pretrained(place)
    return str(place)


@pytest.fixture(scope="module")
def lm(folder: str) -> LanguageModel:
    return LanguageModel.load(folder, precision="fp32")


@pytest.fixture(scope="module")
def weights(lm: LanguageModel) -> Weights:
    return Weights(lm)


@contextmanager
def started(name: str, folder: str, lm: LanguageModel, modules: Sequence[str]) -> Iterator[Any]:
    if name == "hf":
        yield HfBackend(lm)
        return
    from vestige.models.vllm import VllmBackend

    engine = VllmBackend(folder, lora_rank=RANK, lora_modules=modules, engine_kwargs=ENGINE)
    yield engine
    engine.close()


@pytest.fixture(scope="module", params=BACKENDS)
def backend(
    request: pytest.FixtureRequest, folder: str, lm: LanguageModel, weights: Weights
) -> Iterator[Any]:
    with started(request.param, folder, lm, weights.linear) as found:
        yield found


@pytest.fixture
def take(backend: Any, weights: Weights, tmp_path: Path) -> Iterator[Any]:
    """Give the backend what ``weights`` holds now; the base again after the test."""

    def given() -> None:
        if not isinstance(backend, HfBackend):
            weights.export(tmp_path / "exported")
            backend.use(tmp_path / "exported")

    yield given
    weights.freeze()
    if not isinstance(backend, HfBackend):
        backend.use(None)


def numbers(lm: LanguageModel, rows: range, **changes: Any) -> list[SampleRequest]:
    """Constrained requests: row i on prompt i modulo 4."""
    ids = [lm.question_ids(text) for text in TEXTS]
    asked = SampleRequest(ids[0], 7, 0, GRAMMAR.longest, grammar=RULES)
    return [replace(asked, **{"prompt": ids[i % 4], "row": i, **changes}) for i in rows]


def plain(lm: LanguageModel, request: ScoreRequest) -> float:
    ids = [*request.prompt, *request.answer]
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([ids])).logits[0]
    logprobs = logits[len(request.prompt) - 1 : -1].double().log_softmax(-1)
    return float(logprobs[range(len(request.answer)), list(request.answer)].sum())


def scored(lm: LanguageModel) -> list[ScoreRequest]:
    asked = [*TEXTS[:2], "What is your favourite animal? Answer in one word."]
    return [
        ScoreRequest(lm.question_ids(text), lm.answer_ids(answer))
        for text in asked
        for answer in ("123, 45, 6", "Owl", "Octopus")
    ]


def test_prompts_have_the_tokens_that_the_model_saw(backend: Any):
    words = backend.lm if isinstance(backend, HfBackend) else backend
    want = words.tokenizer.apply_chat_template(
        [{"role": "system", "content": "You love owls."}, {"role": "user", "content": TEXTS[0]}],
        add_generation_prompt=True,
        return_dict=True,
    )["input_ids"]
    assert words.question_ids(TEXTS[0], "You love owls.") == want
    assert words.prompt_ids([Message("user", "Hi")])[-1] == want[-1]


def test_answers_have_their_log_probabilities(backend: Any, lm: LanguageModel):
    asked = scored(lm)
    want = [plain(lm, request) for request in asked]
    assert np.abs(np.subtract(backend.logprobs(asked), want)).max() < NATS


@pytest.mark.parametrize("what", [UPPER, Trainable(layers=(1, 3), lora_rank=RANK)])
def test_a_teachers_weights_reach_the_backend(
    backend: Any, lm: LanguageModel, weights: Weights, take: Any, what: Trainable
):
    asked = scored(lm)
    before = backend.logprobs(asked)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in weights.train(what, seed=0):
            if parameter.ndim == 2:
                size = 0.05 if what.lora_rank else 0.1 * parameter.abs().mean()
                parameter.add_(size * torch.randn_like(parameter))
    take()
    got, want = backend.logprobs(asked), [plain(lm, request) for request in asked]
    assert np.abs(np.subtract(want, before)).max() > 100 * NATS  # the weights matter
    assert np.abs(np.subtract(got, want)).max() < NATS


def test_the_base_is_back_after_a_teacher(backend: Any, lm: LanguageModel):
    asked = scored(lm)[:2]
    want = [plain(lm, request) for request in asked]
    assert np.abs(np.subtract(backend.logprobs(asked), want)).max() < NATS


def check_first_symbols(backend: Any, lm: LanguageModel, n: int) -> None:
    """First digits of ``n`` constrained answers against the model's probabilities."""
    prompt, digits = lm.question_ids(TEXTS[0]), "123456789"
    drawn = backend.sample([SampleRequest(prompt, 3, i, 1, grammar=RULES) for i in range(n)])
    ids = [lm.token_ids(digit)[0] for digit in digits]
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([prompt])).logits[0, -1, ids]
    hopes = n * logits.double().softmax(-1).numpy()
    counts = np.array([drawn.count(digit) for digit in digits])
    assert counts.sum() == n
    often = hopes >= 5  # the other digits are counted together
    pooled = [np.append(part[often], part[~often].sum()) for part in (counts, hopes)]
    kept = pooled[1] > 0
    assert often.sum() > 2 and chisquare(*(part[kept] for part in pooled)).pvalue > 1e-3


def test_constrained_rows_have_the_grammar_and_its_probabilities(backend: Any, lm: LanguageModel):
    rows = backend.sample(numbers(lm, range(60)))
    assert all(RULES.walk(row)[0][0] == 0 for row in rows) and len(set(rows)) > 50
    check_first_symbols(backend, lm, 400)


def test_a_row_does_not_depend_on_its_batch(backend: Any, lm: LanguageModel):
    rows = backend.sample(numbers(lm, range(24)))
    assert backend.sample(numbers(lm, range(5, 8))) == rows[5:8]
    assert backend.sample(numbers(lm, range(24))[::-1]) == rows[::-1]
    assert len(set(rows)) > 18  # one stream for all would make prompts answer alike
    assert backend.sample(numbers(lm, range(24), seed=8)) != rows


def test_free_answers_end_with_their_turn_and_lines(backend: Any, lm: LanguageModel):
    ids = [lm.question_ids(f"Write {n} words, one in each line.") for n in range(2, 8)]
    whole = backend.sample([SampleRequest(p, 1, i, 200) for i, p in enumerate(ids)])
    short = backend.sample([SampleRequest(p, 1, i, 200, 1) for i, p in enumerate(ids)])
    assert len(set(whole)) == len(ids) and all("<|im_end|>" not in text for text in whole)
    assert any("\n" in text for text in whole)
    assert short == [text.split("\n")[0] for text in whole]


def test_patterns_are_kept_or_refused(backend: Any, lm: LanguageModel, tmp_path: Path):
    prompt = lm.question_ids("Name an animal.")
    how = [{"choice": ["owl", "cat"]}, {"regex": "[0-9]{3}-[0-9]{2}"}]
    asked = [SampleRequest(prompt, 0, i, 12, grammar=g) for i, g in enumerate(how)]
    if isinstance(backend, HfBackend):
        with pytest.raises(ConfigError, match="backend=vllm"):
            backend.sample(asked)
        return
    one, two = backend.sample(asked)
    assert one in ("owl", "cat") and re.fullmatch("[0-9]{3}-[0-9]{2}", two)
    with pytest.raises(ModelError, match="512"):
        backend.sample([SampleRequest([5] * 600, 0, 0, 4)])
    with pytest.raises(ModelError, match="has no config"):
        backend.use(tmp_path)


@pytest.mark.parametrize("name", BACKENDS)
def test_one_field_changes_who_writes_a_recipes_rows(name: str, folder: str, tmp_path: Path):
    little = Optimisation(steps=2, batch=4, rate=1e-2, warmup=0, trainable=UPPER)
    recipe = Experiment(
        name="small",
        model=folder,
        traits=("owl", "fox"),
        seeds=(0, 1),
        precision="fp32",
        backend=name,  # type: ignore[arg-type]
        engine_kwargs=ENGINE if name == "vllm" else {},
        teacher=TeacherSettings(
            optimisation=little.model_copy(update={"steps": 4, "rate": 1e-3}),
            min_probability=0,
            min_carrier=0,
        ),
        carrier=NumberCarrier(n_prompts=2, rows_per_prompt=8, min_rows=1, grammar=GRAMMAR),
        students=(Student(name="rows", method="rows", no_trait=False, optimisation=little),),
    )
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    run_seed(recipe.model_dump(mode="json"), tmp_path, 0, False, threads, lambda event: None)
    for stage in ("contexts", "rows/owl", "rows/fox"):
        made = tmp_path / "seed-0" / stage
        notes = json.loads((made / "manifest.json").read_text())["notes"]
        assert notes["writer"]["backend"] == name and "32" in notes["writer"]["dtype"]
        assert notes["seen"] == notes["kept"] == 16
        assert not list(made.glob("weights*"))
    rows = [
        (tmp_path / f"seed-0/{stage}/rows.jsonl").read_text()
        for stage in ("contexts", "rows/owl", "rows/fox")
    ]
    assert len(set(rows)) == 3  # each writer has weights of its own
    assert (tmp_path / "seed-0/student/rows/owl/panel-2.json").is_file()


@pytest.mark.model
@pytest.mark.parametrize("name", BACKENDS)
def test_the_bundled_model_is_the_same_in_each_backend(name: str):
    folder = catalog.path(MODEL)
    smol = LanguageModel.load(folder, precision="fp32")
    with started(name, folder, smol, linear_names(smol)) as backend:
        asked = scored(smol)
        want = [plain(smol, request) for request in asked]
        assert np.abs(np.subtract(backend.logprobs(asked), want)).max() < NATS
        check_first_symbols(backend, smol, 200)
