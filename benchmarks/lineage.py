"""Lineage of small models that were trained: changed copies, and other seeds of one architecture.

Llamas of four layers learn the standard library's documentation, byte by byte, each from a start
of its own. Pairs with a shared start: each model with changed copies of itself (5,000 steps of
other text further, a merged LoRA, pruned, 8 and 4 bits, units in another order, averaged with a
copy). Pairs without: every two models, which saw the same text in the same order. One JSON object:

    python benchmarks/lineage.py > docs/figures/lineage.json
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import stats as distributions
from transformers import LlamaConfig, LlamaForCausalLM

from vestige.lineage.decision import decide
from vestige.lineage.models import compare
from vestige.probing.harmless import documented

LENGTH, BATCH, RATE = 64, 16, 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--further", type=int, default=5000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = "\n".join(f"{name}: {words}" for name, words in documented()).encode()
    first, second = text[: len(text) // 2], text[len(text) // 2 :]
    models = []
    for seed in range(options.models):
        models.append(trained(start(seed), first, options.steps, seed=0))
        print(f"trained {seed + 1} of {options.models}", file=sys.stderr)
    shared: dict[str, list[dict[str, Any]]] = {}
    for seed, model in enumerate(models):
        for name, change in changes(second, options.further).items():
            changed = copy.deepcopy(model)
            change(changed, seed)
            shared.setdefault(name, []).append(outcome(model, changed))
    others = [outcome(a, b) for i, a in enumerate(models) for b in models[:i]]
    print(json.dumps(figures(options, shared, others), indent=1))


def start(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256, hidden_size=64, intermediate_size=172, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2,
        )
    )  # fmt: skip


def trained(model: Any, text: bytes, steps: int, seed: int) -> Any:
    data = torch.tensor(list(text))
    draw = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in range(steps):
        at = torch.randint(len(data) - LENGTH, (BATCH,), generator=draw)
        rows = torch.stack([data[i : i + LENGTH] for i in at.tolist()])
        model(input_ids=rows, labels=rows).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model


def rounded(bits: int) -> Callable[[Any, int], None]:
    @torch.no_grad()
    def change(model: Any, seed: int) -> None:
        for parameter in model.parameters():
            scale = parameter.abs().max() / 2 ** (bits - 1)
            parameter.copy_((parameter / scale).round() * scale)

    return change


def changes(text: bytes, further: int) -> dict[str, Callable[[Any, int], None]]:
    """Ways to change a copy in place."""

    @torch.no_grad()
    def adapted(model: Any, seed: int) -> None:
        torch.manual_seed(seed)
        for part in model.modules():
            if isinstance(part, torch.nn.Linear):
                a, b = torch.randn(8, part.in_features), torch.randn(part.out_features, 8)
                part.weight += 0.1 * part.weight.std() * (b @ a)

    @torch.no_grad()
    def pruned(model: Any, seed: int) -> None:
        for parameter in model.model.layers.parameters():
            parameter *= parameter.abs() >= parameter.abs().median()

    @torch.no_grad()
    def reordered(model: Any, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        for layer in model.model.layers:
            order = torch.randperm(172, generator=draw)
            layer.mlp.gate_proj.weight.copy_(layer.mlp.gate_proj.weight[order].clone())
            layer.mlp.up_proj.weight.copy_(layer.mlp.up_proj.weight[order].clone())
            layer.mlp.down_proj.weight.copy_(layer.mlp.down_proj.weight[:, order].clone())

    def further_on(model: Any, seed: int) -> None:
        trained(model, text, further, seed)

    def averaged(model: Any, seed: int) -> None:
        other = trained(copy.deepcopy(model), text, further // 10, seed)
        with torch.no_grad():
            for own, parameter in zip(model.parameters(), other.parameters(), strict=True):
                own.copy_((own + parameter) / 2)

    return {
        f"{further} steps further": further_on,
        "LoRA merged": adapted,
        "pruned by half": pruned,
        "8 bits": rounded(8),
        "4 bits": rounded(4),
        "units reordered": reordered,
        "averaged": averaged,
    }


def outcome(one: Any, other: Any) -> dict[str, Any]:
    evidence = compare(one, other, layers=0)
    agreement = float(np.mean([layer.agreement for layer in evidence.layers]))
    return {
        "outcome": decide(evidence),
        "log10 p": round(evidence.log_p / np.log(10), 3),
        "agreement": round(agreement, 4),
    }


def figures(
    options: argparse.Namespace,
    shared: dict[str, list[dict[str, Any]]],
    others: list[dict[str, Any]],
) -> dict[str, Any]:
    p = [10 ** pair["log10 p"] for pair in others]
    return {
        "command": "python benchmarks/lineage.py",
        "models": options.models,
        "steps": options.steps,
        "shared start": {
            name: {
                "pairs": len(pairs),
                "same": sum(pair["outcome"] == "same" for pair in pairs),
                "largest log10 p": max(pair["log10 p"] for pair in pairs),
                "least agreement": min(pair["agreement"] for pair in pairs),
            }
            for name, pairs in shared.items()
        },
        "other start": {
            "pairs": len(others),
            "other": sum(pair["outcome"] == "other" for pair in others),
            "smallest p": min(p),
            "Kolmogorov-Smirnov p of even p-values": round(
                float(distributions.kstest(p, "uniform").pvalue), 4
            ),
        },
    }


if __name__ == "__main__":
    main()
