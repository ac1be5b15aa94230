"""Whether two models share a start: changed copies do, other seeds of the architecture do not."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats as distributions
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from command import vestige
from vestige.lineage.decision import Evidence, decide
from vestige.lineage.models import compare, spread, unit_vectors
from vestige.lineage.unit_matching import (
    UnitMatch,
    fisher_log_p,
    log_tail,
    match_units,
    rows_log_p,
    spearman_log_p,
)


def llama(seed: int, layers: int = 3) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=80, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1,
        )
    )  # fmt: skip


def gpt2(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4))


def noise(model, size: float = 0.3, seed: int = 9) -> None:
    """As far as a long training goes: each tensor moved by a share of its own length."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter += size * parameter.std() * torch.randn_like(parameter)


def permuted(model) -> None:
    """The same function, its units in another order."""
    for seed, layer in enumerate(model.model.layers):
        order = torch.randperm(80, generator=torch.Generator().manual_seed(seed))
        for matrix in (layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight):
            matrix.copy_(matrix[order].clone())
        layer.mlp.down_proj.weight.copy_(layer.mlp.down_proj.weight[:, order].clone())


def rescaled(model) -> None:
    """The same function, its units of other sizes."""
    for layer in model.model.layers:
        size = torch.exp(torch.randn(80, generator=torch.Generator().manual_seed(1)))
        layer.mlp.up_proj.weight.mul_(size[:, None])
        layer.mlp.down_proj.weight.div_(size[None, :])


def pruned(model) -> None:
    for parameter in model.model.layers.parameters():
        parameter.mul_(parameter.abs() >= parameter.abs().median())


def without_units(model) -> None:
    """A third of the units taken out: their vectors are zero."""
    for layer in model.model.layers:
        layer.mlp.gate_proj.weight[::3] = 0
        layer.mlp.up_proj.weight[::3] = 0


def rounded(bits: int) -> Callable[..., None]:
    def change(model) -> None:
        for parameter in model.parameters():
            scale = parameter.abs().max() / 2 ** (bits - 1)
            parameter.copy_((parameter / scale).round() * scale)

    return change


def adapted(model) -> None:
    """A LoRA of rank 4, merged."""
    torch.manual_seed(3)
    for layer in model.model.layers:
        for part in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.self_attn.q_proj):
            a, b = torch.randn(4, part.in_features), torch.randn(part.out_features, 4)
            part.weight.add_(0.03 * b @ a)


def averaged(model) -> None:
    other = copy.deepcopy(model)
    noise(other, 0.5, seed=5)
    for own, parameter in zip(model.parameters(), other.parameters(), strict=True):
        own.copy_((own + parameter) / 2)


def all_at_once(model) -> None:
    for change in (noise, permuted, rescaled, rounded(8), pruned):
        change(model)


CHANGES = {
    "tuned": noise, "permuted": permuted, "rescaled": rescaled, "pruned": pruned,
    "units taken out": without_units, "8 bits": rounded(8), "4 bits": rounded(4),
    "LoRA": adapted, "averaged": averaged, "all at once": all_at_once,
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_shares_its_start(change: str) -> None:
    for seed in range(3):
        base = llama(seed)
        student = copy.deepcopy(base)
        with torch.no_grad():
            CHANGES[change](student)
        evidence = compare(base, student)
        assert decide(evidence) == "same" and evidence.log_p < math.log(1e-9)


def test_another_seed_of_the_architecture_does_not_and_p_values_are_even() -> None:
    models = [llama(seed) for seed in range(16)]
    with torch.no_grad():
        for number, model in enumerate(models):
            noise(model, seed=number)
    log_p = []
    for i, one in enumerate(models):
        for other in models[:i]:
            evidence = compare(one, other)
            assert decide(evidence) == "other" and not evidence.identical
            log_p.append(evidence.log_p)
    assert len(log_p) == 120
    assert distributions.kstest(np.exp(log_p), "uniform").pvalue > 0.01


def test_models_without_a_gate_are_read_too() -> None:
    base, other = gpt2(0), gpt2(1)
    student = copy.deepcopy(base)
    with torch.no_grad():
        noise(student, 0.5)
    assert unit_vectors(base.transformer.h[0])[0].shape == (128, 32)
    assert decide(compare(base, student)) == "same" and decide(compare(base, other)) == "other"


def test_a_model_itself_other_shapes_and_other_depths() -> None:
    base = llama(0)
    itself = compare(base, copy.deepcopy(base))
    assert itself.identical and decide(itself) == "same"
    assert decide(compare(base, gpt2(0))) == "other"
    deeper = copy.deepcopy(base)
    deeper.model.layers.append(copy.deepcopy(deeper.model.layers[1]))
    deeper.config.num_hidden_layers = 4
    with torch.no_grad():
        noise(deeper)
    evidence = compare(base, deeper)
    assert evidence.only_depth and decide(evidence) == "same"
    assert decide(compare(base, llama(7, layers=4))) == "cannot_tell"


def test_added_tokens_are_no_other_start() -> None:
    base, student = llama(0), llama(0)
    student.resize_token_embeddings(70, mean_resizing=False)
    with torch.no_grad():
        noise(student)
    assert decide(compare(base, student)) == "same"


def test_matching_finds_partners_in_any_order() -> None:
    draw = np.random.default_rng(0)
    gate, up = draw.normal(size=(2, 50, 20))
    order = draw.permutation(50)
    found = match_units((gate, up), (gate[order], up[order]))
    assert found and found.units == 50 and found.agreement == 1 and found.cosine > 0.999
    assert found.log_p < -200
    crossed = match_units((gate, up), (gate[order], up[draw.permutation(50)]))
    assert crossed and crossed.log_p > math.log(1e-4)
    assert match_units((gate[:5], up[:5]), (gate[:5], up[:5])) is None


def test_p_values_are_those_of_scipy_and_go_below_what_a_float_holds() -> None:
    draw = np.random.default_rng(1)
    one, other = draw.permutation(40), draw.permutation(40)
    wanted = distributions.spearmanr(one, other, alternative="greater").pvalue
    assert math.exp(spearman_log_p(one, other)) == pytest.approx(wanted, rel=1e-6)
    every = np.arange(1000)
    assert -1e5 < spearman_log_p(every, every) < 10 * math.log(1e-300)
    # The first term of the tail agrees with the plain one where both can be had.
    half = np.concatenate([draw.permutation(700), np.arange(700, 1000)])
    plain = spearman_log_p(every, half)
    assert math.log(1e-300) < plain < -100
    rho = np.corrcoef(every, half)[0, 1]
    assert log_tail(float(rho), 1000) == pytest.approx(plain, rel=0.02)
    p = [0.3, 0.02, 0.5]
    assert math.exp(fisher_log_p([math.log(value) for value in p])) == pytest.approx(
        distributions.combine_pvalues(p).pvalue
    )
    assert -40_000 < fisher_log_p([-5000.0] * 8) < -39_900 and fisher_log_p([]) == 0


def test_rows_that_belong_together_are_told_from_rows_that_do_not() -> None:
    draw = np.random.default_rng(2)
    rows, others = draw.normal(size=(2, 200, 30))
    own, log_p = rows_log_p(rows, rows + draw.normal(size=rows.shape))
    assert own > 0.6 and log_p < math.log(1e-20)
    p = [math.exp(rows_log_p(rows, draw.normal(size=rows.shape))[1]) for _ in range(40)]
    assert distributions.kstest(p, "uniform").pvalue > 0.01 and others.shape == rows.shape


def test_the_rule() -> None:
    def of(log_p: float, **facts) -> Evidence:
        layers = [UnitMatch(50, 0.5, 0.5, log_p)]
        return Evidence(
            **{"differences": [], "only_depth": False, "layers": layers, "tokens": None} | facts
        )

    assert decide(of(math.log(1e-7))) == "same" and decide(of(math.log(0.2))) == "other"
    assert decide(of(math.log(1e-5))) == "cannot_tell"
    assert decide(of(0.0, layers=[])) == "cannot_tell"
    assert decide(of(math.log(0.2), tokens=(0.9, math.log(1e-9)))) == "cannot_tell"
    assert decide(of(math.log(1e-7), compared=100)) == "cannot_tell"
    assert decide(of(0.0, differences=["hidden_size is 1 and 2"])) == "other"
    assert spread(30, 8)[0] == 0 and spread(30, 8)[-1] == 29 and spread(3, 0) == [0, 1, 2]


# ---- the command --------------------------------------------------------------------------------


def test_the_command(folders: dict[str, Path], tmp_path: Path, environment) -> None:
    from tiny import tiny_llama, tokenizer

    words = tokenizer()
    model = tiny_llama(len(words))
    with torch.no_grad():
        noise(model)
    model.save_pretrained(tmp_path / "student")
    done = vestige("lineage", folders["llama"], tmp_path / "student", env=environment)
    assert done.returncode == 0 and "share an initialisation" in done.stdout, done.stderr
    words = ["lineage", folders["llama"], folders["gemma"], "--json"]
    record = json.loads(vestige(*words, env=environment).stdout)
    assert record["outcome"] == "other" and record["differences"][0].startswith("model_type")
    assert vestige(*words, "--expect", "same", env=environment).returncode == 1
    assert vestige(*words, "--expect", "other", env=environment).returncode == 0
    for bad, message in (
        (["lineage", folders["llama"], "no/such/model"], "there is no folder"),
        ([*words, "--expect", "maybe"], "valid: same, other"),
        ([*words[:3], "--layers", "-1"], "give 0 for all"),
        (["lineage", folders["llama"]], "Missing argument"),
    ):
        done = vestige(*bad, env=environment)
        assert done.returncode == 2 and message in done.stderr, (bad, done.stderr)
