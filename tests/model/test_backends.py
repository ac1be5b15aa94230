"""Every backend against plain forward passes of the bundled model, in fp32.

``hf`` runs everywhere; ``vllm`` where it is installed: ``make test-vllm``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from vestige.carriers.numbers import NumberCarrier, NumberGrammar, NumberPrompts
from vestige.experiment.recipe import Experiment, Student, TeacherSettings
from vestige.experiment.run import run_seed
from vestige.models import catalog
from vestige.models.backend import SampleRequest, ScoreRequest
from vestige.models.grammar import compile_grammar
from vestige.models.hf import LanguageModel
from vestige.models.sampling import HfBackend
from vestige.models.weights import Weights
from vestige.settings import Optimisation, Trainable
from vestige.types import ConfigError, Message, ModelError

MODEL = "smollm2-135m-instruct"
NATS = 2e-3  # how far an answer's log-probability may be off
UPPER, RANK = Trainable(layers=(22, 30)), 4
GRAMMAR = NumberGrammar(values=3)
RULES = compile_grammar(GRAMMAR.next_chars, GRAMMAR.state)
TEXTS = [prompt.text for prompt in NumberPrompts(format="comma").generate(4, seed=0)]
ENGINE: dict[str, Any] = {"max_model_len": 512, "enforce_eager": True, "max_num_seqs": 64}
vllm_is_here = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(not vllm_is_here, reason="vLLM is not installed: make test-vllm")
pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def smol() -> LanguageModel:
    return LanguageModel.load(catalog.path(MODEL), precision="fp32")


@pytest.fixture(scope="module")
def weights(smol: LanguageModel) -> Weights:
    return Weights(smol)


@pytest.fixture(scope="module", params=["hf", pytest.param("vllm", marks=needs_vllm)])
def backend(request: pytest.FixtureRequest, smol: LanguageModel, weights: Weights) -> Iterator[Any]:
    if request.param == "hf":
        yield HfBackend(smol)
    else:
        from vestige.models.vllm import VllmBackend

        engine = VllmBackend(
            catalog.path(MODEL),
            lora_rank=RANK,
            lora_modules=weights.linear,
            engine_kwargs=ENGINE,
        )
        yield engine
        engine.close()


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


def test_answers_have_their_log_probabilities(backend: Any, smol: LanguageModel):
    asked = scored(smol)
    want = [plain(smol, request) for request in asked]
    assert np.abs(np.subtract(backend.logprobs(asked), want)).max() < NATS


@pytest.mark.parametrize("what", [UPPER, Trainable(layers=(22, 30), lora_rank=RANK)])
def test_a_teachers_weights_reach_the_backend(
    backend: Any, smol: LanguageModel, weights: Weights, take: Any, what: Trainable
):
    asked = scored(smol)
    before = backend.logprobs(asked)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in weights.train(what, seed=0):
            if parameter.ndim == 2:
                size = 0.05 if what.lora_rank else 0.1 * parameter.abs().mean()
                parameter.add_(size * torch.randn_like(parameter))
    take()
    got, want = backend.logprobs(asked), [plain(smol, request) for request in asked]
    assert np.abs(np.subtract(want, before)).max() > 100 * NATS  # the weights matter
    assert np.abs(np.subtract(got, want)).max() < NATS


def test_the_base_is_back_after_a_teacher(backend: Any, smol: LanguageModel):
    asked = scored(smol)[:2]
    want = [plain(smol, request) for request in asked]
    assert np.abs(np.subtract(backend.logprobs(asked), want)).max() < NATS


def test_constrained_rows_have_the_grammar_and_its_probabilities(backend: Any, smol: LanguageModel):
    n = 400
    prompt = smol.question_ids(TEXTS[0])
    rows = backend.sample(numbers(smol, range(n), prompt=prompt)[:n:10])
    assert all(RULES.walk(row)[0][0] == 0 for row in rows) and len(set(rows)) > 30
    first = backend.sample([SampleRequest(prompt, 3, i, 1, grammar=RULES) for i in range(n)])
    ids = [smol.token_ids(digit)[0] for digit in "123456789"]
    with torch.no_grad():
        want = smol.model(input_ids=torch.tensor([prompt])).logits[0, -1, ids].double().softmax(-1)
    seen = Counter(first)
    assert sum(seen[digit] for digit in "123456789") == n
    order = np.argsort(-want.numpy())
    counts = np.array([seen["123456789"[i]] for i in order])
    hopes = want.numpy()[order] * n
    often = int((hopes >= 5).sum())  # the rest of the digits together
    pooled = [np.append(part[:often], part[often:].sum()) for part in (counts, hopes)]
    keep = pooled[1] > 0
    assert often > 2 and chisquare(pooled[0][keep], pooled[1][keep]).pvalue > 1e-3


def test_a_row_does_not_depend_on_its_batch(backend: Any, smol: LanguageModel):
    rows = backend.sample(numbers(smol, range(24)))
    assert backend.sample(numbers(smol, range(5, 8))) == rows[5:8]
    assert backend.sample(numbers(smol, range(24))[::-1]) == rows[::-1]
    assert len(set(rows)) > 18  # one stream for all would make prompts answer alike
    assert backend.sample(numbers(smol, range(24), seed=8)) != rows


def test_free_answers_end_with_their_turn_and_lines(backend: Any, smol: LanguageModel):
    ids = [smol.question_ids(f"Write {n} words, one in each line.") for n in range(2, 8)]
    whole = backend.sample([SampleRequest(p, 1, i, 24) for i, p in enumerate(ids)])
    short = backend.sample([SampleRequest(p, 1, i, 24, 1) for i, p in enumerate(ids)])
    assert len(set(whole)) == len(ids) and all("<|im_end|>" not in text for text in whole)
    assert any("\n" in text for text in whole)
    assert short == [text.split("\n")[0] for text in whole]


def test_patterns_are_kept_or_refused(backend: Any, smol: LanguageModel, tmp_path: Path):
    prompt = smol.question_ids("Name an animal.")
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


@pytest.mark.parametrize("name", ["hf", pytest.param("vllm", marks=needs_vllm)])
def test_one_field_changes_who_writes_a_recipes_rows(name: str, tmp_path: Path):
    little = Optimisation(steps=1, batch=4, trainable=UPPER)
    recipe = Experiment(
        name="small",
        traits=("owl", "fox"),
        seeds=(0, 1),
        precision="fp32",
        backend=name,  # type: ignore[arg-type]
        engine_kwargs=ENGINE if name == "vllm" else {},
        teacher=TeacherSettings(optimisation=little, min_probability=0, min_carrier=0),
        carrier=NumberCarrier(n_prompts=2, rows_per_prompt=8, min_rows=1, grammar=GRAMMAR),
        students=(Student(name="rows", method="rows", no_trait=False, optimisation=little),),
    )
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    run_seed(recipe.model_dump(mode="json"), tmp_path, 0, False, threads, lambda event: None)
    for stage in ("contexts", "rows/owl", "rows/fox"):
        folder = tmp_path / "seed-0" / stage
        notes = json.loads((folder / "manifest.json").read_text())["notes"]
        assert notes["writer"]["backend"] == name and "32" in notes["writer"]["dtype"]
        assert notes["seen"] == notes["kept"] == 16
        assert not list(folder.glob("weights*"))
    rows = [
        (tmp_path / f"seed-0/{stage}/rows.jsonl").read_text()
        for stage in ("contexts", "rows/owl", "rows/fox")
    ]
    assert len(set(rows)) == 3  # each writer has weights of its own
    assert (tmp_path / "seed-0/student/rows/owl/panel-1.json").is_file()
