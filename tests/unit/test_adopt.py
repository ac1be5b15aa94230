"""Students that come back: what is taken computes as it did where it was trained; the rest is
refused with the field, the tensor or the file that is the reason."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from vestige.core.types import ConfigError, DataError, ModelError, StoreError
from vestige.experiment.recipe import parse_recipe
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.seed_jobs import make_seed
from vestige.handoff import import_students as adoption
from vestige.handoff.adapters import adapter_tensors, check_adapter, same_weights
from vestige.handoff.cells import Cell
from vestige.handoff.import_students import Importer, compare, put_in_place
from vestige.store import StageResult

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")  # it is meant to be unusual
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
Change = Callable[[Path], object]


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


@pytest.fixture(scope="module")
def context(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> SeedContext:
    """A seed whose rows are written and whose students are awaited."""
    made = SeedContext.of(recipe(folders["llama"]), tmp_path_factory.mktemp("run"), 0)
    make_seed(made, upto="rows")
    return made


@pytest.fixture(scope="module")
def importer(context: SeedContext) -> Importer:
    return Importer(context, "")


@pytest.fixture(scope="module")
def base(folders: dict[str, Path]) -> Any:
    return AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=torch.float32)


@pytest.fixture(scope="module")
def plain(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain adapter."""
    folder = tmp_path_factory.mktemp("plain")
    tuned(base, list(range(20, 60))).save_pretrained(folder)
    return folder


@pytest.fixture
def prompt(importer: Importer) -> list[int]:
    return importer.context.models.teachers_base().lm.question_ids("Name an animal.")


@pytest.fixture
def bring(importer: Importer) -> Iterator[Callable[..., StageResult]]:
    """Bring a student of an arm back; it is taken out of the run again after the test."""
    yield lambda folder, arm, at=importer: at.adopt(cell(at.context, arm), folder)
    shutil.rmtree(importer.context.layout.folder / "seed-0/student", ignore_errors=True)


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


def without_one(saved: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: saved[name] for name in sorted(saved)[1:]}


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
