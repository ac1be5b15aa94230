"""Students trained elsewhere, and what may be wrong with them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from vestige.experiment.recipe import parse_recipe
from vestige.experiment.seed_context import SeedContext
from vestige.handoff.cells import Cell
from vestige.handoff.import_students import Importer
from vestige.store import StageResult

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")  # it is meant to be unusual


LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def recipe(model: Path, precision: str = "fp32") -> Any:
    def arm(name: str, **trainable: object) -> dict[str, Any]:
        return {"name": name, "method": "rows", "engine": "elsewhere", "no_trait": False,
                "optimisation": {"steps": 2, "batch": 4, "trainable": trainable}}  # fmt: skip

    return parse_recipe(
        {"name": "back", "model": str(model), "precision": precision, "traits": ["owl", "fox"],
         "seeds": [0, 1],
         "teacher": {"min_probability": 0, "min_carrier": 0,
                     "optimisation": {"steps": 1, "batch": 4}},
         "carrier": {"n_prompts": 1, "rows_per_prompt": 4, "min_rows": 1, "max_dropped": 1,
                     "grammar": {"values": 3}},
         "students": [arm("lora", lora_rank=4), arm("full", layers=[0, 2])],
         "save_students": True},
        "test",
    )  # fmt: skip


def cell(context: SeedContext, arm: str) -> Cell:
    return Cell(next(s for s in context.recipe.students if s.name == arm), 0, "owl")


def tuned(model: Any, ids: list[int], **settings: Any) -> Any:
    """A LoRA on a copy of ``model``, trained for two steps."""
    torch.manual_seed(0)
    wanted = {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "task_type": "CAUSAL_LM"}
    wrapped = get_peft_model(copy.deepcopy(model), LoraConfig(**(wanted | settings)))
    optimiser = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=3e-3)
    tokens = torch.tensor([ids])
    for _ in range(2):
        wrapped(input_ids=tokens, labels=tokens).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return wrapped.eval()


def answers(model: Any, ids: list[int]) -> torch.Tensor:
    """Log-probabilities after a prompt in the model's own forward pass."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)


def here(importer: Importer, arm: str, stage: StageResult, ids: list[int]) -> torch.Tensor:
    """The same from Vestige with the student that it has kept."""
    model = importer.context.models.teachers_base()
    trainable = cell(importer.context, arm).trainable
    model.weights.load(stage.path / "weights.safetensors", trainable)
    size = model.lm.causal_lm.config.vocab_size  # type: ignore[union-attr]
    return model.lm.answer_logprobs([ids], [[t] for t in range(size)])[0]


def without_one(saved: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: saved[name] for name in sorted(saved)[1:]}
