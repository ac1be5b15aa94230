"""The one primitive against plain forward passes, and everything that rests on it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from tiny import tokenizer
from vestige.core.settings import Trainable
from vestige.core.types import ConfigError, Message, ModelError, StoreError
from vestige.models.attention import grouped_attention
from vestige.models.frozen import Below
from vestige.models.hf import LanguageModel
from vestige.models.tree import build_tree, common_prefix
from vestige.models.weights import Weights

SEQUENCES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=6)


@given(SEQUENCES, st.booleans())
def test_tree_paths_spell_their_sequences_and_see_their_ancestors(sequences, merge):
    tree = build_tree(sequences, merge=merge)
    mask = tree.ancestor_mask()
    for sequence, path in zip(sequences, tree.paths, strict=True):
        assert [int(tree.tokens[n]) for n in path] == sequence
        assert list(tree.depths[list(path)]) == list(range(len(sequence)))
        for i, node in enumerate(path):
            assert set(np.flatnonzero(mask[node])) == set(path[: i + 1])
    if merge:
        prefixes = {tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)}
        assert len(tree) == len(prefixes)


@given(SEQUENCES)
def test_common_prefix_is_the_longest(sequences):
    prefix = common_prefix(sequences)
    assert all(s[: len(prefix)] == prefix for s in sequences)
    nexts = {tuple(s[len(prefix) : len(prefix) + 1]) for s in sequences}
    assert len(nexts) > 1 or nexts == {()}


def plain_states(lm: LanguageModel, ids: list[int]) -> torch.Tensor:
    decoder = lm.causal_lm.get_decoder()
    return decoder(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]


@torch.no_grad()
def test_hidden_states_equal_plain_passes(lm: LanguageModel):
    prefix = [5, 9, 33, 7]
    batches = [[[1, 2, 3], [1, 2, 4], [8]], [[6]], [[7, 7, 7, 7, 7]]]
    trees = [build_tree(sequences) for sequences in batches]
    states = lm.hidden_states(prefix, trees).states
    for b, sequences in enumerate(batches):
        for sequence, path in zip(sequences, trees[b].paths, strict=True):
            want = plain_states(lm, prefix + sequence)[len(prefix) :]
            assert torch.allclose(states[b, list(path)], want, atol=1e-4)
    again = lm.hidden_states(prefix, trees[::-1]).states
    assert torch.allclose(again[2, : len(trees[0])], states[0, : len(trees[0])], atol=1e-5)
    alone = lm.hidden_states([], [build_tree([[*prefix, 1, 2, 3]])]).states[0]
    assert torch.allclose(alone[4:], states[0, list(trees[0].paths[0])], atol=1e-4)


@pytest.mark.parametrize("first", [0, 2])
@torch.no_grad()
def test_a_long_prefix_is_read_once_in_pieces(lm: LanguageModel, monkeypatch, first):
    prefix = list(range(5, 16))
    batches = [[build_tree([[1, 2, 3], [1, 4]])], [build_tree([[9]]), build_tree([[7, 8]])]]
    want = [lm.hidden_states(prefix, trees).states for trees in batches]
    monkeypatch.setattr("vestige.models.passes.PIECE", 4)
    lm.below.first = first
    reads = []
    lm.layers[0].self_attn.register_forward_hook(lambda *_: reads.append(1))
    for _ in range(2):  # the second time from the states kept below ``first``
        found = [reading.states for reading in lm.readings(prefix, batches)]
        for got, whole in zip(found, want, strict=True):
            assert torch.allclose(got, whole, atol=1e-4)
    assert len(reads) == (5 if first else 10)  # three pieces and two batches, not two prefixes


@pytest.mark.parametrize("mask_kind", ["bool", "additive", None])
def test_grouped_attention_is_attention(mask_kind):
    torch.manual_seed(0)
    q = torch.randn(2, 6, 5, 8, requires_grad=True)
    k, v = (torch.randn(2, 2, 9, 8, requires_grad=True) for _ in range(2))
    sees = torch.rand(2, 1, 5, 9) > 0.4
    sees[..., 0] = True
    mask = {"bool": sees, "additive": torch.where(sees, 0.0, -1e9), None: None}[mask_kind]
    ours, _ = grouped_attention(torch.nn.Module(), q, k, v, mask)
    repeated = [t.repeat_interleave(3, dim=1) for t in (k, v)]
    want = torch.nn.functional.scaled_dot_product_attention(
        q, *repeated, attn_mask=sees if mask_kind else None
    )
    assert torch.allclose(ours.transpose(1, 2), want, atol=1e-5)
    weight = torch.randn_like(want)
    got = torch.autograd.grad((ours.transpose(1, 2) * weight).sum(), (q, k, v), retain_graph=True)
    ref = torch.autograd.grad((want * weight).sum(), (q, k, v))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(got, ref, strict=True))


def test_grouped_attention_survives_rows_that_see_nothing_in_bf16():
    q, k = torch.randn(1, 2, 3, 8).bfloat16(), torch.randn(1, 2, 3, 8).bfloat16()
    mask = torch.full((1, 1, 3, 3), torch.finfo(torch.float32).min)
    out, _ = grouped_attention(torch.nn.Module(), q, k, k, mask)
    assert out.isfinite().all()
    with pytest.raises(ValueError, match="soft caps"):
        grouped_attention(torch.nn.Module(), q, k, k, mask, softcap=30.0)


def test_answer_logprobs_equal_a_slow_reference(lm: LanguageModel):
    prompts = [lm.question_ids(t) for t in ("Which?", "Which animal? One word.", "x")]
    answers = [lm.answer_ids(t) for t in ("Owl", "owl", "Ow", "Elephant", "z")]
    got = lm.answer_logprobs(prompts, answers, batch=2)
    for i, prompt in enumerate(prompts):
        for j, answer in enumerate(answers):
            with torch.no_grad():
                logits = lm.model(input_ids=torch.tensor([prompt + answer])).logits[0]
            logprobs = logits.log_softmax(-1)
            want = sum(
                logprobs[len(prompt) - 1 + n, token].item() for n, token in enumerate(answer)
            )
            assert got[i, j].item() == pytest.approx(want, abs=1e-3)


def test_rendering_is_the_templates_own(llama: LanguageModel):
    turns = [Message("system", "Be brief."), Message("user", "Hi")]
    want = llama.tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in turns],
        add_generation_prompt=True, tokenize=True, return_dict=False,
    )  # fmt: skip
    assert llama.prompt_ids(turns) == want
    assert llama.end_id == llama.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_tokenizer_without_template_is_an_error_unless_plain(folders, tmp_path: Path):
    lm = LanguageModel.load(str(folders["llama"]), precision="fp32")
    lm.tokenizer.chat_template = None
    with pytest.raises(ModelError, match="chat=plain"):
        LanguageModel(lm.model, lm.tokenizer, precision="fp32")
    plain = LanguageModel.load(str(folders["llama"]), precision="fp32", style="plain")
    assert plain.tokenizer.decode(plain.question_ids("Hi")).endswith("User: Hi\nAssistant:")
    assert plain.tokenizer.decode(plain.answer_ids("Owl")) == " Owl"


def test_what_cannot_be_loaded_says_what_to_do(tmp_path: Path, folders):
    with pytest.raises(ModelError, match="vestige models list"):
        LanguageModel.load(str(tmp_path))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folders["llama"] / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        LanguageModel.load(str(tmp_path))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "what",
    [Trainable(), Trainable(layers=(0, 1)), Trainable(layers=(1, 3), lora_rank=2)],
    ids=["all", "first layer", "lora"],
)
def test_weights_train_save_freeze_load(folders, tmp_path, what, precision):
    lm = LanguageModel.load(str(folders["llama"]), precision=precision)
    weights = Weights(lm)
    ids = [build_tree([[1, 2, 3, 4]])]

    def output() -> torch.Tensor:
        with torch.no_grad():
            return lm.hidden_states([5, 6], ids).states.float()

    base = output()
    parameters = weights.train(what, seed=3)
    touched = {n for n, p in lm.model.named_parameters() if p.requires_grad}
    first, last = what.layers or (0, 3)
    assert {int(n.split("layers.")[1].split(".")[0]) for n in touched} == set(range(first, last))
    assert all(("lora_" in n) == bool(what.lora_rank) for n in touched)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter) * 0.05)
    trained, saved = output(), weights.changed()
    weights.save(tmp_path / "w.safetensors")
    weights.freeze()
    assert torch.equal(output(), base) and not torch.allclose(trained, base)
    weights.load(tmp_path / "w.safetensors", what)
    assert torch.allclose(output(), trained, atol=1e-6)
    assert not any(p.requires_grad for p in lm.model.parameters())
    weights.freeze()
    assert torch.equal(output(), base) and len(saved) == len(parameters)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "what",
    [Trainable(), Trainable(layers=(0, 1)), Trainable(layers=(1, 3), lora_rank=2)],
    ids=["all", "first layer", "lora"],
)
def test_weights_come_back_to_the_last_bit(folders, tmp_path, what, precision):
    lm = LanguageModel.load(str(folders["llama"]), precision=precision)
    weights = Weights(lm)
    parameters = weights.train(what, seed=3)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter) * 0.05)
    trained = {name: tensor.clone() for name, tensor in weights.changed().items()}
    weights.save(tmp_path / "w.safetensors")
    weights.load(tmp_path / "w.safetensors", what)
    loaded = dict(lm.model.named_parameters())
    for name, tensor in trained.items():
        # A frozen matrix is held in the precision that the model computes in.
        assert torch.equal(loaded[name], tensor.to(loaded[name].dtype))
        halved = precision == "bf16" and tensor.ndim == 2 and not what.lora_rank
        assert loaded[name].dtype == (torch.bfloat16 if halved else torch.float32)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("rank", [0, 2], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_states_below_the_tuned_layers_are_reused_and_change_nothing(
    folders, kind, rank, precision
):
    what = Trainable(layers=(2, 3), lora_rank=rank)
    lm = LanguageModel.load(str(folders[kind]), precision=precision)
    weights = Weights(lm, [what])
    reads = []
    lm.layers[0].self_attn.register_forward_hook(lambda *_: reads.append(1))
    trees = [build_tree([[1, 2, 3], [1, 4]]), build_tree([[9]])]
    other = [build_tree([[1, 2, 3], [4, 1]]), build_tree([[9]])]

    def look(trees, prefix=(5, 6)):
        """States and gradients: as they come, and with nothing reused."""
        found = []
        for first in (2, 0):
            lm.below.first = first
            states = lm.hidden_states(prefix, trees).states.float()
            tuned = [p for p in lm.model.parameters() if p.requires_grad]
            states.square().sum().backward() if tuned else None
            found.append([states.detach(), *[p.grad.clone() for p in tuned]])
            for p in tuned:
                p.grad = None
        lm.below.first = 2
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
        return found[0][0]

    base = look(trees)
    assert len(reads) == 4  # prefix and trees, twice
    for parameter in weights.train(what, seed=3):
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    assert not torch.equal(look(trees), base)
    assert len(reads) == 6  # the second time only without reuse
    look(other)  # an unseen tree after a prefix that is known
    look(trees, (5,))
    assert len(reads) == 14
    weights.freeze()
    assert torch.equal(look(trees), base)
    assert len(reads) == 16


def test_reused_states_are_bounded_and_low_layers_guarded(folders):
    late = Trainable(layers=(2, 3))
    lm = LanguageModel.load(str(folders["llama"]), precision="fp32")
    weights = Weights(lm, [late])
    with pytest.raises(ConfigError, match="not kept exact"):
        weights.train(Trainable(layers=(1, 3), lora_rank=2), seed=0)
    lm.below = Below(lm.layers, 2, limit=3 * 64 * 4 * 2)  # two passes of three tokens
    reads = []
    lm.layers[0].self_attn.register_forward_hook(lambda *_: reads.append(1))
    for tokens in ([1, 2, 3], [4, 5, 6], [1, 2, 3], [7, 8, 9], [1, 2, 3], [4, 5, 6]):
        lm.hidden_states([], [build_tree([tokens])])
    assert len(reads) == 4  # the least recently used went
    assert not Below(lm.layers).first
    everything = LanguageModel.load(str(folders["llama"]), precision="fp32")
    assert not Weights(everything).lm.below.first


def test_layers_that_are_never_trained_need_no_exact_copy(folders):
    late = Trainable(layers=(2, 3))
    lm = LanguageModel.load(str(folders["llama"]), precision="bf16")
    weights = Weights(lm, [late])
    (name, value) = next(iter(weights.train(late, seed=0) and weights.changed().items()))
    other = LanguageModel.load(str(folders["llama"]), precision="bf16")
    every = Weights(other)
    every.train(late, seed=0)
    assert torch.equal(every.changed()[name], value) and value.dtype == torch.float32
    with pytest.raises(ConfigError, match="not kept exact"):
        weights.train(Trainable(), seed=0)


def test_lora_of_another_rank_and_models_of_another_width_are_refused(llama, tmp_path: Path):
    weights, path = Weights(llama), tmp_path / "w.safetensors"
    weights.train(Trainable(lora_rank=2), seed=0)
    weights.save(path)
    with pytest.raises(StoreError, match="other tensors"):
        weights.load(path, Trainable(lora_rank=4))
    assert not any(p.requires_grad for p in llama.model.parameters())
    config = copy.deepcopy(llama.causal_lm.config)
    config.intermediate_size *= 2
    wider = Weights(LanguageModel(LlamaForCausalLM(config), llama.tokenizer, precision="fp32"))
    wider.train(Trainable(), seed=0)
    wider.save(path)
    with pytest.raises(StoreError, match="other tensors"):
        weights.load(path, Trainable())


def test_weights_of_another_kind_are_refused(llama: LanguageModel, tmp_path: Path):
    weights = Weights(llama)
    weights.train(Trainable(layers=(0, 1)), seed=0)
    weights.save(tmp_path / "w.safetensors")
    with pytest.raises(StoreError, match="other tensors"):
        weights.load(tmp_path / "w.safetensors", Trainable(layers=(1, 2)))
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(StoreError, match="cannot read"):
        weights.load(tmp_path / "bad.safetensors", Trainable())
    with pytest.raises(ConfigError, match="3 layers"):
        weights.train(Trainable(layers=(0, 4)), seed=0)


@torch.no_grad()
def test_beyond_an_attention_window_the_models_own_pass_answers(folders, caplog):
    lm = LanguageModel.load(str(folders["gemma"]), precision="fp32")
    prefix = [40 + i % 50 for i in range(510)]
    tree = build_tree([[41, 42, 43, 44], [41, 45]])
    short = lm.hidden_states(prefix[:20], [tree]).states
    assert lm.verified.trees and torch.allclose(
        short[0, list(tree.paths[0])], plain_states(lm, [*prefix[:20], 41, 42, 43, 44])[20:],
        atol=1e-4,
    )  # fmt: skip
    states = lm.hidden_states(prefix, [tree]).states[0]
    for path, ends in zip(tree.paths, ([41, 42, 43, 44], [41, 45]), strict=True):
        want = plain_states(lm, [*prefix, *ends])[510:]
        assert torch.allclose(states[list(path)], want, atol=1e-4)
    assert "plain forward passes" in caplog.text and lm.verified.longest <= 512


@pytest.mark.parametrize("kind", ["gemma", "mistral"])
@torch.no_grad()
def test_an_attention_window_is_used_to_its_last_token_and_no_further(kind, monkeypatch, tmp_path):
    """Gemma names the layers whose window slides; in Mistral's configuration all do, unnamed."""
    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path))
    words = tokenizer()
    small = {
        "vocab_size": len(words), "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "sliding_window": 20,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "gemma":
        layers = ["sliding_attention", "full_attention"]
        model = Gemma3ForCausalLM(Gemma3TextConfig(**small, layer_types=layers))
    else:
        model = MistralForCausalLM(MistralConfig(**small))
    lm = LanguageModel(model, words, precision="fp32")
    ids = list(range(40, 61))
    for length, fast in ((20, True), (21, False), (20, True)):
        got = lm.hidden_states(ids[:4], [build_tree([ids[4:length]])]).states[0]
        assert torch.allclose(got, plain_states(lm, ids[:length])[4:], atol=1e-4)
        assert lm.trees_hold(length) is fast


@settings(max_examples=20, deadline=None)
@given(st.text(alphabet="0123456789, ;ab", min_size=1, max_size=8))
def test_token_ids_are_those_in_mid_sentence(text):
    words = tokenizer()
    lm = LanguageModel.__new__(LanguageModel)
    lm.tokenizer = words
    assert words.decode(lm.token_ids(text)) == text
