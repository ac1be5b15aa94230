"""Whole models that were trained elsewhere: taken in, or refused with the reason."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adopt_cases import CONFIG, answers, cell, here, recipe, tuned, without_one
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer

from vestige.core.types import ConfigError, DataError, ModelError
from vestige.experiment.seed_context import SeedContext
from vestige.handoff.import_students import Importer, compare, put_in_place
from vestige.models.adapters import adapter_tensors

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")  # it is meant to be unusual


# ---- whole models -------------------------------------------------------------------------------


def trained_whole(base: Any) -> Any:
    """The base with the weights of its first two layers moved."""
    model = copy.deepcopy(base)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layers.0." in name or "layers.1." in name:
                parameter += 0.01 * torch.randn_like(parameter)
    return model


def resized(model: Any) -> None:
    model.resize_token_embeddings(model.config.vocab_size + 64)


def untied(model: Any) -> None:
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())


def moved(path: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        with torch.no_grad():
            model.get_parameter(path).add_(0.05)

    return change


def nudged(model: Any) -> None:
    with torch.no_grad():
        model.model.norm.weight[0] *= 1.001  # less than bf16 can tell


def setting(**values: object) -> Callable[[Any], None]:
    return lambda model: model.config.update(values)


def lost_shard(folder: Path) -> None:
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def lost_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file(without_one(load_file(path)), path, metadata={"format": "pt"})


def merged_and_adapter(folder: Path) -> None:
    (folder / CONFIG).write_text("{}")


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def pad_token_and_notes(folder: Path) -> None:
    """What trainers leave in a folder, and what changes nothing."""
    words = AutoTokenizer.from_pretrained(folder)
    words.add_special_tokens({"pad_token": "<|pad|>"})
    words.save_pretrained(folder)
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    core.enable_truncation(8)
    core.enable_padding(length=8)
    core.save(str(folder / "tokenizer.json"))
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"unsloth_version": "1", "x": {}}))


def lower_case(folder: Path) -> None:
    words = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words.normalizer = normalizers.Lowercase()
    words.save(str(folder / "tokenizer.json"))


def save(model: Any, folder: Path, words: Path, **options: Any) -> None:
    model.save_pretrained(folder, **options)
    AutoTokenizer.from_pretrained(words).save_pretrained(folder)


@pytest.mark.parametrize(
    ("dtype", "options", "change"),
    [
        pytest.param(torch.float32, {}, without_tokenizer, id="plain"),
        pytest.param(torch.bfloat16, {"max_shard_size": "100KB"}, None, id="bf16, sharded"),
        pytest.param(torch.float32, {}, pad_token_and_notes, id="padtok"),
    ],
)
def test_a_whole_model_computes_here_what_it_computed_where_it_was_trained(
    base, importer, bring, prompt, folders, tmp_path: Path, dtype, options, change
):
    student = trained_whole(base).to(dtype)
    save(student, tmp_path, folders["llama"], **options)
    if change:
        change(tmp_path)
    stage = bring(tmp_path, "full")
    compared = stage.manifest["notes"]["compared"]
    assert compared["max_difference_nats"] < 1e-4 < compared["moved_from_base_nats"]
    assert compared["against"].startswith("transformers")
    torch.testing.assert_close(
        here(importer, "full", stage, prompt).float(),
        answers(student.float(), prompt),
        rtol=0,
        atol=1e-4 if dtype is torch.float32 else 0.1,  # what it keeps is rounded in its folder
    )


@pytest.mark.parametrize(
    ("before", "options", "after", "error", "said"),
    [
        pytest.param(resized, {}, None, ConfigError, "vocab_size is .*resized", id="resized"),
        pytest.param(untied, {}, None, ConfigError, "tie_word_embeddings is False", id="untied"),
        pytest.param(
            moved("model.norm.weight"), {}, None, ConfigError, r"norm\.weight differs", id="norm"
        ),
        pytest.param(nudged, {}, None, ConfigError, r"norm\.weight differs", id="norm, a little"),
        pytest.param(
            moved("model.embed_tokens.weight"), {}, None, ConfigError,
            r"embed_tokens\.weight differs", id="embed",
        ),
        pytest.param(
            moved("model.layers.2.mlp.up_proj.weight"), {}, None, ConfigError,
            r"layers\.2\.mlp\.up_proj\.weight differs", id="another layer",
        ),
        pytest.param(
            setting(rope_parameters={"rope_type": "default", "rope_theta": 500000.0}), {}, None,
            ConfigError, r"rope_parameters\.rope_theta is 500000.0, the base has 10000.0",
            id="rope",
        ),
        pytest.param(
            setting(rms_norm_eps=0.01), {}, None, ConfigError, "rms_norm_eps is 0.01", id="eps"
        ),
        pytest.param(
            moved("model.layers.0.mlp.up_proj.weight"), {}, lambda f: (f / "config.json").unlink(),
            ModelError, r"no config\.json", id="no config",
        ),
        pytest.param(
            None, {"max_shard_size": "100KB"}, lost_shard, ModelError,
            r"model-00002-of-\d+\.safetensors", id="lost_shard",
        ),
        pytest.param(
            None, {}, lost_tensor, ModelError, r"missing \(.*model\.embed_tokens", id="lost tensor"
        ),
        pytest.param(
            moved("model.layers.1.mlp.up_proj.weight"), {}, merged_and_adapter, ConfigError,
            "a whole model and an adapter", id="merged, with its adapter",
        ),
        pytest.param(
            None, {}, lower_case, ConfigError, "encodes text in another way", id="tokenizer"
        ),
    ],
)  # fmt: skip
def test_a_whole_model_that_is_another_student_is_refused_with_the_reason(
    base, bring, folders, tmp_path: Path, before, options, after, error, said
):
    student = trained_whole(base)
    if before:
        before(student)
    save(student, tmp_path, folders["llama"], **options)
    if after:
        after(tmp_path)
    with pytest.raises(error, match=said):
        bring(tmp_path, "full")


def test_the_base_itself_and_a_diverged_model_are_no_students(base, bring, folders, tmp_path: Path):
    save(copy.deepcopy(base).bfloat16(), tmp_path / "base", folders["llama"])
    with pytest.raises(DataError, match="is the base itself"):
        bring(tmp_path / "base", "full")
    student = trained_whole(base)
    with torch.no_grad():
        student.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    save(student, tmp_path / "nan", folders["llama"])
    with pytest.raises(ModelError, match=r"up_proj\.weight holds? NaN"):
        bring(tmp_path / "nan", "full")


def test_a_student_that_is_measured_in_bf16_is_compared_in_fp32(
    base, context, prompt, folders, tmp_path: Path
):
    made = recipe(folders["llama"], "bf16")
    coarse = Importer(SeedContext.of(made, context.layout.folder, 0), "")
    model, asked = coarse.context.models.teachers_base(), cell(coarse.context, "lora")
    weights = tmp_path / "weights"
    assert model.lm.precision == "bf16"
    tuned(base, prompt).save_pretrained(tmp_path)
    given, name = adapter_tensors(tmp_path), str(folders["llama"])
    save_file(given, weights)
    put_in_place(tmp_path, given, weights, model, asked, name)
    reference = coarse.reference(name, model, coarse.texts(asked))
    compared = compare(reference, tmp_path, None, weights, asked.trainable)
    assert compared.difference < 1e-4 < 1e-3 < compared.moved


def test_peft_reads_back_what_it_saved(base, prompt, tmp_path: Path):
    """The comparison rests on it."""
    student = tuned(base, prompt)
    student.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path)).eval()
    assert torch.equal(answers(again, prompt), answers(student, prompt))
