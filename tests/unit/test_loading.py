"""A model loads as it was saved, or is refused with what is wrong; nothing of its folder is run."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vestige
from tiny import tiny_llama, tokenizer
from vestige.core.types import ModelError
from vestige.models import loading
from vestige.models.hf import LanguageModel

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def folder(folders, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["llama"], tmp_path / "model"))


def tensors(folder: Path, change) -> None:
    found = load_file(folder / "model.safetensors")
    save_file(change(found), folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder: Path, **settings) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        LanguageModel.load(str(folder), precision="fp32")
    text = str(caught.value)
    assert "\n" not in text and str(folder) in text
    return text


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model."])
def test_names_of_a_wrapper_are_named(folder, prefix):
    tensors(folder, lambda found: {prefix + name: part for name, part in found.items()})
    text = refusal(folder)
    assert repr(prefix) in text and f"{prefix}model.embed_tokens.weight" in text
    assert "drawn at random" in text


def test_a_tensor_that_was_left_out(folder):
    tensors(folder, lambda found: {n: p for n, p in found.items() if n != UP})
    text = refusal(folder)
    assert f"1 tensor is missing ({UP})" in text and "shard" in text


def test_a_tensor_too_many_and_one_of_another_shape(folder):
    tensors(folder, lambda found: found | {"model.layers.0.adapter.weight": torch.ones(2)})
    assert "1 tensor is of no use in it (model.layers.0.adapter.weight)" in refusal(folder)
    tensors(folder, lambda found: {
        n: torch.ones(5, 5) if n == UP else p for n, p in found.items() if "adapter" not in n
    })  # fmt: skip
    assert UP in refusal(folder)


@pytest.mark.parametrize(("layers", "said"), [(4, "4 layers and the file 3"), (2, "of no use")])
def test_more_or_fewer_layers_than_were_saved(folder, layers, said):
    configure(folder, num_hidden_layers=layers)
    assert said in refusal(folder)


def test_tied_weights_are_not_missing(folder):
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert LanguageModel.load(str(folder), precision="fp32").notes == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number(folder, value):
    def broken(found):
        found[UP][0, 0] = value
        return found

    tensors(folder, broken)
    assert f"{UP} holds NaN or infinity" in refusal(folder)


def test_quantised_tensors_without_their_scales(folder):
    tensors(folder, lambda found: {n: p.to(torch.int8) if n == UP else p for n, p in found.items()})
    assert f"{UP} is quantised" in refusal(folder)


def test_half_precision_is_read_as_it_is(folder):
    whole = dict(loading.load_weights(str(folder))[0].named_parameters())
    tensors(folder, lambda found: {n: p.half() for n, p in found.items()})
    for name, part in loading.load_weights(str(folder))[0].named_parameters():
        assert part.dtype == torch.float32
        torch.testing.assert_close(part, whole[name].half().float(), rtol=0, atol=0)


def test_infinities_of_both_signs_do_not_cancel():
    assert not loading._finite(torch.tensor([torch.inf, -torch.inf, 1.0]))


def test_finite_numbers_with_an_infinite_sum_are_finite():
    assert loading._finite(torch.full((4,), 3e38))


def test_code_of_the_folder_is_never_run(folder, monkeypatch):
    ran = folder / "ran"
    code = f"open({str(ran)!r}, 'w').close()\n"
    (folder / "modeling_my.py").write_text(code)
    (folder / "configuration_my.py").write_text(code)
    configure(
        folder, model_type="mymodel", auto_map={
            "AutoConfig": "configuration_my.MyConfig", "AutoModelForCausalLM": "modeling_my.My",
        },
    )  # fmt: skip
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    assert "code of models is never run" in refusal(folder)
    assert not ran.exists()
    # A known architecture needs none of it, and is loaded without.
    configure(folder, model_type="llama")
    LanguageModel.load(str(folder), precision="fp32")
    assert not ran.exists()


def test_every_loading_says_that_no_code_is_run():
    """Of transformers' loaders, given away or called, each says so in its call."""
    loaders = {"AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"}
    found = 0
    for path in Path(vestige.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            if any(_loader(part) in loaders for part in (call.func, *call.args)):
                said = {k.arg: k.value for k in call.keywords}.get("trust_remote_code")
                assert isinstance(said, ast.Constant) and said.value is False, (path, call.lineno)
                found += 1
    assert found >= 5


def _loader(part: ast.expr) -> str | None:
    if isinstance(part, ast.Attribute) and part.attr in ("from_pretrained", "from_config"):
        return part.value.id if isinstance(part.value, ast.Name) else None
    return None


def test_an_adapter_in_a_models_folder_is_named_and_not_added(folder, caplog):
    from peft import LoraConfig, get_peft_model

    before = LanguageModel.load(str(folder), precision="fp32")
    want = before.answer_logprobs([[70, 71]], [[72, 73]])
    model = tiny_llama(len(tokenizer()))
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    with torch.no_grad():
        for name, part in wrapped.named_parameters():
            if "lora_B" in name:
                part.fill_(0.5)
    wrapped.save_pretrained(folder)
    lm = LanguageModel.load(str(folder), precision="fp32")
    assert torch.equal(lm.answer_logprobs([[70, 71]], [[72, 73]]), want)
    assert "the adapter is not added" in lm.notes[0] and lm.notes[0] in caplog.text


def test_tokens_that_the_model_has_not_are_refused_where_they_are_used(folder):
    words = tokenizer()
    words.add_tokens([" owl"])
    words.save_pretrained(folder)
    lm = LanguageModel.load(str(folder), precision="fp32")
    lm.answer_logprobs([lm.question_ids("Which?")], [lm.answer_ids("fox")])
    with pytest.raises(ModelError, match=r"' owl'.*added to the tokenizer and not to the model"):
        lm.answer_logprobs([lm.question_ids("An owl?")], [lm.answer_ids("fox")])
