"""Students that come back: what is taken computes as it did where it was trained; the rest is
refused with the field, the tensor or the file that is the reason."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adopt_cases import CONFIG, LINEAR, TENSORS, answers, cell, here, tuned, without_one
from safetensors.torch import load_file, save_file

from vestige.core.types import ConfigError, ModelError, StoreError
from vestige.handoff import import_students as adoption
from vestige.handoff.import_students import Importer
from vestige.models.adapters import check_adapter, same_weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")  # it is meant to be unusual


Change = Callable[[Path], object]


def edit(**changes: object) -> Change:
    def change(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    return lambda folder: save_file(change(load_file(folder / TENSORS)), folder / TENSORS)


def with_nan(saved: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    next(iter(saved.values()))[0, 0] = float("nan")
    return saved


def in_half_precision(folder: Path) -> None:
    tensors(lambda saved: {name: tensor.bfloat16() for name, tensor in saved.items()})(folder)


def as_others_write_it(folder: Path) -> None:
    """Settings that change nothing, behind a byte-order mark."""
    edit(lora_alpha=8.0, fan_in_fan_out=True, setting_of_tomorrow=None)(folder)
    (folder / CONFIG).write_bytes(b"\xef\xbb\xbf" + (folder / CONFIG).read_bytes())


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / TENSORS), folder / "adapter_model.bin")
    (folder / TENSORS).unlink()


def checkpoint(folder: Path) -> None:
    files = list(folder.iterdir())
    (folder / "checkpoint-2").mkdir()
    for file in files:
        file.rename(folder / "checkpoint-2" / file.name)


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        pytest.param({}, None, id="plain"),
        pytest.param({"init_lora_weights": "gaussian"}, None, id="gaussian"),
        pytest.param({"init_lora_weights": "orthogonal"}, None, id="orthogonal"),
        pytest.param({"init_lora_weights": False}, None, id="random"),
        pytest.param({}, in_half_precision, id="bf16"),
        pytest.param(
            {"target_modules": "all-linear", "lora_dropout": 0.1}, as_others_write_it,
            id="dropout, bom, floatalpha, fan_in_fan_out, all-linear",
        ),
    ],
)  # fmt: skip
def test_an_adapter_computes_here_what_it_computed_where_it_was_trained(
    base, importer, bring, prompt, folders, tmp_path: Path, settings, change
):
    student = tuned(base, prompt, **settings)
    student.save_pretrained(tmp_path)
    if change:
        change(tmp_path)
    stage = bring(tmp_path, "lora")
    compared = stage.manifest["notes"]["compared"]
    assert compared["max_difference_nats"] < 1e-4 < 1e-3 < compared["moved_from_base_nats"]
    assert compared["against"].startswith("PEFT")
    torch.testing.assert_close(
        here(importer, "lora", stage, prompt).float(),
        answers(student, prompt),
        rtol=0,
        atol=5e-3 if change is in_half_precision else 1e-4,
    )


@pytest.mark.parametrize(
    ("settings", "change", "error", "said"),
    [
        pytest.param(
            {"init_lora_weights": "pissa"}, None, ConfigError, "init_lora_weights is 'pissa'",
            id="pissa",
        ),
        pytest.param(
            {"init_lora_weights": "pissa_niter_4"}, None, ConfigError,
            "init_lora_weights is 'pissa_niter_4'.*changed base", id="pissa_niter",
        ),
        pytest.param(
            {"init_lora_weights": "olora"}, None, ConfigError, "init_lora_weights is 'olora'",
            id="olora",
        ),
        pytest.param({"use_dora": True}, None, ConfigError, "use_dora is True", id="dora"),
        pytest.param({"use_rslora": True}, None, ConfigError, "use_rslora is True", id="rslora"),
        pytest.param(
            {"modules_to_save": ["lm_head"]}, None, ConfigError, "modules_to_save is",
            id="modules_to_save",
        ),
        pytest.param(
            {"target_modules": [*LINEAR, "embed_tokens"]}, None, StoreError,
            r"embed_tokens\.\S+ is \(\d+, \d+\), wanted nothing \(and \d+ more\)",
            id="embed_target",
        ),
        pytest.param(
            {"trainable_token_indices": [5, 6]}, None, ConfigError, "trainable_token_indices",
            id="token_indices",
        ),
        pytest.param({"lora_bias": True}, None, ConfigError, "lora_bias is True", id="lora_bias"),
        pytest.param({"bias": "lora_only"}, None, ConfigError, "bias is 'lora_only'", id="bias"),
        pytest.param(
            {"alora_invocation_tokens": [1, 2]}, None, ConfigError, "alora_invocation_tokens",
            id="alora",
        ),
        pytest.param(
            {"layer_replication": [[0, 3], [1, 3]]}, None, ConfigError, "layer_replication is",
            id="layer_replication",
        ),
        pytest.param(
            {"rank_pattern": {"q_proj": 8}}, None, ConfigError, "rank_pattern is {'q_proj': 8}",
            id="rank_pattern",
        ),
        pytest.param(
            {"alpha_pattern": {"q_proj": 2}}, None, ConfigError, "alpha_pattern is",
            id="alpha_pattern",
        ),
        pytest.param(
            {"use_qalora": True, "qalora_group_size": 16}, None, ConfigError, "use_qalora is True",
            id="qalora",
        ),
        pytest.param(
            {"target_modules": ["q_proj", "v_proj"]}, None, StoreError,
            r"mlp\.down_proj\.lora_A\.weight is missing, wanted \(4, 96\) \(and 29 more\)",
            id="only_qv",
        ),
        pytest.param({"r": 2}, None, ConfigError, "r is 2, the recipe's student has 4", id="rank"),
        pytest.param(
            {}, edit(setting_of_tomorrow=3), ConfigError,
            "setting_of_tomorrow is 3, a setting that the installed PEFT does not know",
            id="unknown",
        ),
        pytest.param(
            {}, edit(peft_type="LOKR"), ConfigError, "peft_type is 'LOKR'", id="peft_type"
        ),
        pytest.param({}, edit(task_type="SEQ_CLS"), ConfigError, "task_type is", id="task_type"),
        pytest.param({}, edit(revision="abc123"), ConfigError, "revision is 'abc123'.*--base",
                     id="revision"),
        pytest.param(
            {}, edit(base_model_name_or_path="unsloth/llama-bnb-4bit"), ConfigError,
            "llama-bnb-4bit.*a quantised copy has other weights", id="bnbbase",
        ),
        pytest.param(
            {}, tensors(with_nan), StoreError, r"lora_A\.weight holds NaN", id="nan"
        ),
        pytest.param(
            {}, tensors(lambda t: {k: torch.zeros(0) for k in t}), StoreError,
            r"has the shape \(0,\), it was not gathered.*ZeRO-3", id="zero3",
        ),
        pytest.param(
            {}, tensors(lambda t: {k: torch.zeros_like(v) for k, v in t.items()}), StoreError,
            "the adapter changes nothing", id="allzero",
        ),
        pytest.param(
            {}, tensors(lambda t: {k.replace("model.", "model._orig_mod.", 1): v
                                   for k, v in t.items()}),
            StoreError, "_orig_mod.*compiled model", id="compiled",
        ),
        pytest.param(
            {}, tensors(without_one), StoreError, r"lora_A\.weight is missing, wanted",
            id="missing",
        ),
        pytest.param({}, pickled, StoreError, "can run code when loaded", id="binonly"),
        pytest.param(
            {}, checkpoint, ConfigError, r"its folders do: import one of \S+/checkpoint-2$",
            id="checkpoint",
        ),
        pytest.param(
            {}, lambda folder: (folder / CONFIG).write_text("[]"), StoreError,
            "holds a list, not an adapter's settings", id="listcfg",
        ),
    ],
)  # fmt: skip
def test_an_adapter_that_is_another_student_is_refused_with_the_reason(
    base, plain, bring, prompt, tmp_path: Path, settings, change, error, said
):
    if settings:
        tuned(base, prompt, **settings).save_pretrained(tmp_path)
    else:
        shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
    if change:
        change(tmp_path)
    with pytest.raises(error, match=said):
        bring(tmp_path, "lora")


@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 4}},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_the_list_of_settings_would_miss_the_comparison_finds(
    base, importer, bring, prompt, tmp_path: Path, monkeypatch, settings
):
    monkeypatch.setattr(adoption, "check_adapter", lambda *args, **options: None)
    tuned(base, prompt, **settings).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"differ by \S+ nats from those of PEFT's own loading"):
        bring(tmp_path, "lora")
    importer._references.clear()  # PEFT has changed that base


def test_a_base_of_the_same_name_must_be_the_same_model(
    base, importer, bring, prompt, folders, tmp_path: Path
):
    tuned(base, prompt).save_pretrained(tmp_path / "adapter")
    other = tmp_path / "llama"
    shutil.copytree(folders["llama"], other)
    edit(base_model_name_or_path=str(other))(tmp_path / "adapter")
    assert same_weights(other, folders["llama"])
    bring(tmp_path / "adapter", "lora")
    shutil.rmtree(other)
    changed = copy.deepcopy(base)
    with torch.no_grad():
        changed.model.norm.weight += 0.1
    changed.save_pretrained(other)
    names = {str(folders["llama"])}
    trainable = cell(importer.context, "lora").trainable
    with pytest.raises(ConfigError, match=r"whose files are not those of the run's base.*--base"):
        check_adapter(tmp_path / "adapter", trainable, names)


def test_the_user_may_say_which_base_it_is(base, context, bring, prompt, tmp_path: Path):
    tuned(base, prompt).save_pretrained(tmp_path)
    edit(base_model_name_or_path="org/first", revision="abc123")(tmp_path)
    stage = bring(tmp_path, "lora", Importer(context, "org/first"))
    assert stage.manifest["notes"]["compared"]["max_difference_nats"] < 1e-4
