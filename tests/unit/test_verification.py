"""Every model's numbers are its own: on the fast path where it agrees, else on plain passes."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, GPT2Config, LlamaConfig
from transformers.models.mamba2 import Mamba2Config

from tiny import tiny_llama, tokenizer
from vestige.core.settings import Optimisation, Trainable
from vestige.core.types import ModelError
from vestige.doctor import architectures
from vestige.models import verification
from vestige.models.grammar import END, compile_grammar
from vestige.models.hf import LanguageModel
from vestige.models.passes import Passes
from vestige.models.sampling import row_noise, sample_free, sample_grammar, symbol_ids
from vestige.models.verification import Verified, comparison, outcome
from vestige.models.verification.comparison import Comparison, Sample
from vestige.models.weights import Weights
from vestige.student.loop import pack_loss, train
from vestige.student.packs import Example, make_packs

WORDS = tokenizer()
PROMPTS = [[70, 71, 72, 73], [70, 71, 72, 80, 81, 82, 83]]
ANSWERS = [[90, 91, 92], [90, 93], [94]]
# Of each kind: its attention takes any mask; it scales or caps logits; it has no attention.
KINDS = {
    "fast": ("llama", "qwen3", "phi3"),
    "scaled": ("granite", "cohere", "gemma2", "gpt_oss"),
    "plain": ("mamba2", "bloom", "recurrent_gemma"),
}


def model_of(kind: str) -> torch.nn.Module:
    return architectures.build(kind)


def loaded(model: torch.nn.Module) -> LanguageModel:
    return LanguageModel(model, WORDS, precision="fp32")


@torch.no_grad()
def slow(model: torch.nn.Module, prompt: list[int], answer: list[int]) -> float:
    """log P(answer | prompt) from the model alone, written without anything of ours."""
    logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].float().log_softmax(-1)
    return sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))


@pytest.mark.parametrize(("path", "kind"), [(p, k) for p, kinds in KINDS.items() for k in kinds])
def test_answers_are_those_of_the_model(path, kind):
    model = model_of(kind)
    want = torch.tensor([[slow(model, p, a) for a in ANSWERS] for p in PROMPTS])
    lm = loaded(model)
    found = lm.answer_logprobs(PROMPTS, ANSWERS)
    assert torch.allclose(found.float(), want, atol=2e-3, rtol=1e-4)
    assert lm.verified.trees is (path != "plain")
    assert bool(lm.verified.reasons) is (path == "plain")


def test_a_window_that_no_setting_of_ours_names():
    """GPT-Neo's local layers see 32 tokens here: longer texts are right, too."""
    prompts = [[40 + i % 60 for i in range(n)] for n in (20, 50)]
    model = model_of("gpt_neo")
    want = torch.tensor([[slow(model, p, a) for a in ANSWERS] for p in prompts])
    lm = loaded(model)
    for prompt, expected in zip(prompts, want, strict=True):
        found = lm.answer_logprobs([prompt], ANSWERS).float()[0]
        assert torch.allclose(found, expected, atol=2e-3, rtol=1e-4)
    assert not lm.verified.trees  # its windows count places, of other branches too


@pytest.mark.parametrize("kind", ["granite", "mamba2"])
def test_a_training_step_is_that_of_plain_passes(kind):
    """Some rows of one prompt, as they are packed, against separate sequences."""
    examples = [Example(tuple(PROMPTS[0]), tuple(answer)) for answer in ANSWERS]
    model = model_of(kind)
    parameters = [p for n, p in model.named_parameters() if ".layers." in f".{n}"]
    losses = []
    for example in examples:
        ids = torch.tensor([[*example.prompt, *example.completion]])
        logits = model(input_ids=ids).logits[0, len(example.prompt) - 1 : -1]
        losses.append(
            torch.nn.functional.cross_entropy(
                logits, torch.tensor(example.completion), reduction="sum"
            )
        )
    tokens = sum(len(e.completion) for e in examples)
    want = torch.autograd.grad(torch.stack(losses).sum() / tokens, parameters, allow_unused=True)
    lm = loaded(model)
    (pack,) = make_packs(examples, 8)
    found = torch.autograd.grad(pack_loss(lm, pack), parameters, allow_unused=True)
    for got, expected in zip(found, want, strict=True):
        if expected is not None:
            assert got is not None and torch.allclose(got, expected, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("kind", ["granite", "bloom"])
def test_draws_follow_the_models_own_probabilities(kind):
    """The first symbol of each row is the argmax of its plain log-probabilities and its noise."""
    automaton = compile_grammar(lambda p: {"1", "2", "3", END} if len(p) < 3 else {END}, len)
    lm = loaded(model_of(kind))
    rows = list(range(12))
    prompts = [PROMPTS[i % 2] for i in rows]
    texts = sample_grammar(lm, prompts, rows, automaton, seed=5, max_length=4)
    ids = symbol_ids(lm, automaton)
    noise = row_noise(5, rows, 4, len(ids))
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        seen = list(prompt)
        for t, symbol in enumerate([*text, END][:3]):
            with torch.no_grad():
                logits = lm.causal_lm(input_ids=torch.tensor([seen])).logits[0, -1].float()[ids]
            best = int((logits + noise[i, t]).argmax())
            assert automaton.symbols[best] == symbol
            seen.append(int(ids[best]))
    free = sample_free(lm, [PROMPTS[0], PROMPTS[1]], seed=0, max_new_tokens=3)
    assert len(free) == 2


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # PEFT sets it by itself
def test_layers_by_any_name_are_trained():
    model = AutoModelForCausalLM.from_config(
        GPT2Config(vocab_size=len(WORDS), n_embd=32, n_layer=3, n_head=2, n_positions=64)
    )
    lm = loaded(model.eval())
    assert lm.layers is model.transformer.h
    for what in (Trainable(layers=(1, 3)), Trainable(lora_rank=2)):
        weights = Weights(lm, [what])
        packs = make_packs([Example((70, 71), (90, 91, 92))] * 4, 4)
        loss = train(lm, weights, packs, Optimisation(steps=8, rate=1e-2, trainable=what), seed=0)
        assert loss < float(torch.log(torch.tensor(float(len(WORDS)))))
        assert not weights.untouched
        weights.freeze()


def test_a_model_that_sees_later_tokens_is_refused():
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, is_decoder=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ModelError, match="sees later tokens"):
        loaded(model).answer_logprobs(PROMPTS, ANSWERS)


def test_a_model_that_is_random_is_refused():
    model = tiny_llama(len(WORDS))
    layer = model.model.layers[0].mlp
    own = layer.forward
    layer.forward = lambda x: torch.nn.functional.dropout(own(x), 0.5)
    with pytest.raises(ModelError, match=r"asked again|later tokens"):
        verification.verify(Passes(model, "fp32"), WORDS, again=True)


def test_a_mask_that_shows_too_much_is_seen(monkeypatch):
    monkeypatch.setattr(Passes, "mask_for", lambda self, sees: torch.zeros(sees.shape))
    verified = Comparison(Passes(model_of("llama"), "fp32"), WORDS).outcome()
    assert not verified.trees and verified.padded and "off" in verified.reasons[0]


def test_a_head_that_forgets_its_scale_is_seen(monkeypatch):
    monkeypatch.setattr(comparison, "own_logits", lambda lm, states, ids=None: lm.lm_head(states))
    with pytest.raises(ModelError, match="its head reads other"):
        Comparison(Passes(model_of("granite"), "fp32"), WORDS).outcome()


def test_a_cache_that_forgets_is_not_drawn_from(monkeypatch):
    from vestige.models import passes

    extend = passes.Branches.extend

    def forgetful(self, tokens):
        extend(self, tokens.flip(0))

    monkeypatch.setattr(passes.Branches, "extend", forgetful)
    verified = Comparison(Passes(tiny_llama(len(WORDS)), "fp32"), WORDS).outcome()
    assert verified.trees and not verified.sampling and not verified.fast


def test_an_outcome_is_remembered_for_the_same_base_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(outcome, "outcome_file", lambda key: tmp_path / f"{key}.json")
    calls = []
    compared = Comparison.outcome
    monkeypatch.setattr(Comparison, "outcome", lambda self: calls.append(1) or compared(self))
    model = tiny_llama(len(WORDS))
    first = loaded(model).verified
    assert loaded(tiny_llama(len(WORDS))).verified == first and len(calls) == 1
    (file,) = tmp_path.iterdir()
    assert Verified(**json.loads(file.read_text()) | {"reasons": ()}) == first
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight += 1
    assert loaded(model).verified.key != first.key and len(calls) == 2
    # A cache that cannot be written, and one that is damaged, cost time and nothing else.
    file.write_text("{")
    monkeypatch.setattr(outcome, "outcome_file", lambda key: tmp_path / "x.json" / f"{key}.json")
    (tmp_path / "x.json").touch()
    assert loaded(tiny_llama(len(WORDS))).verified == first


def test_the_comparison_leaves_no_trace():
    model = tiny_llama(len(WORDS))
    seen = []
    hook = model.model.layers[0].register_forward_hook(lambda *_: seen.append(1))
    before = [p.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    lm = loaded(model)
    assert lm.verified.fast and lm.trees_hold(100)
    assert not seen and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    model.model.layers[0](torch.zeros(1, 1, 64), position_embeddings=(torch.ones(1, 1, 16),) * 2)
    assert seen
    hook.remove()


def test_bf16_has_a_tolerance_of_its_own(folders):
    lm = LanguageModel.load(str(folders["llama"]), precision="bf16")
    assert lm.verified.fast and lm.verified.longest >= 12


def test_the_run_says_that_it_is_slower(tmp_path, caplog):
    config = Mamba2Config(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=4,
        head_dim=16, n_groups=1, chunk_size=8,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    WORDS.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        lm = LanguageModel.load(str(tmp_path), precision="fp32")
    assert "plain forward passes" in caplog.text and lm.notes


def test_a_sample_is_ragged_and_branches():
    sample = Sample.draw(range(10, 200))
    assert len({len(s) for s in sample.sequences}) == 2
    assert [len(tree) for tree in sample.trees] == [7, 7]
    one, two = sample.sequences[:2]
    assert one[:8] == two[:8] and one != two


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rope_that_changes_with_length_is_compared_at_that_length(kind):
    """Scaling begins behind the original positions. There the plain pass is right, or, where even
    that depends on what was read before, nothing is."""
    torch.manual_seed(0)
    scaling = {"factor": 4.0} if kind == "dynamic" else {
        "short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "factor": 4.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
        max_position_embeddings=32 if kind == "dynamic" else 128,
        rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **scaling},
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    prompts = [[40 + i % 60 for i in range(n)] for n in (10, 60)]
    want = torch.tensor([[slow(model, p, a) for a in ANSWERS] for p in prompts])
    lm = loaded(model)
    near = lm.answer_logprobs(prompts[:1], ANSWERS)
    assert torch.allclose(near.float()[0], want[0], atol=2e-3, rtol=1e-4) and lm.verified.trees
    if kind == "dynamic":
        with pytest.raises(ModelError, match="dynamic rotary scaling"):
            lm.answer_logprobs(prompts[1:], ANSWERS)
        return
    far = lm.answer_logprobs(prompts[1:], ANSWERS)
    assert torch.allclose(far.float()[0], want[1], atol=2e-3, rtol=1e-4)
    assert not lm.trees_hold(60)
