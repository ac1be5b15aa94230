"""Students trained elsewhere: out through every exporter, trained for real, and back."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from test_resume import PETS

from command import here as vestige
from tiny import tokenizer
from vestige.core.settings import Job
from vestige.core.types import ConfigError, ModelError, StoreError, VestigeError
from vestige.evaluate.scores import Panel
from vestige.experiment.recipe import parse_recipe
from vestige.experiment.run import run
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.seed_jobs import make_seed
from vestige.models.adapters import same_model
from vestige.models.hf import LanguageModel
from vestige.store import Run, load_run
from vestige.student.accelerate_job import train_job

SOURCE = str(Path(__file__).resolve().parents[2] / "src")
ENV = os.environ | {"PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
BIN, LATE = Path(sys.executable).parent, {"layers": [1, 3]}
LORA = {"steps": 3, "batch": 8, "rate": 1e-3, "warmup": 0, "trainable": {"lora_rank": 2} | LATE}
FULL = {"steps": 2, "batch": 8, "rate": 1e-3, "trainable": {"layers": [0, 2]}}


def recipe(model: Path):
    return {
        "name": "elsewhere",
        "model": str(model),
        "precision": "fp32",
        "family": PETS,
        "traits": ["owl", "fox"],
        "seeds": [0, 1],
        "teacher": {"min_probability": 0, "min_carrier": 0,
                    "optimisation": {"steps": 3, "batch": 4, "rate": 1e-3, "trainable": LATE}},
        "carrier": {"n_prompts": 2, "rows_per_prompt": 8, "min_rows": 8, "grammar": {"values": 3}},
        "students": [
            {"name": "here", "method": "rows", "engine": "trl", "no_trait": False,
             "optimisation": LORA},
            {"name": "lora", "method": "rows", "engine": "elsewhere", "no_trait": False,
             "optimisation": LORA},
            {"name": "full", "method": "rows", "engine": "elsewhere", "no_trait": False,
             "optimisation": FULL},
        ],
        "save_students": True,
    }  # fmt: skip


@pytest.fixture(scope="module")
def waiting(folders, tmp_path_factory) -> Path:
    """A run whose students of two arms are to be trained elsewhere."""
    root, made = tmp_path_factory.mktemp("waiting"), parse_recipe(recipe(folders["llama"]), "test")
    with Run.open(root, made.name, made.model_dump(mode="json")) as opened:
        for seed in made.seeds:
            make_seed(SeedContext.of(made, opened.folder, seed))
    with pytest.raises(VestigeError, match=r"8 students are to be trained elsewhere .*vestige exp"):
        run(made, root, workers=1)
    torch.set_num_threads(1)
    (folder,) = root.iterdir()
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- out ----------------------------------------------------------------------------------------


def test_axolotl_gets_the_rows_and_every_hyper_parameter(waiting: Path, folders, tmp_path: Path):
    vestige("export", waiting, "--for", "axolotl", "--out", tmp_path / "out")
    own = lines(waiting / "seed-0/rows/owl/rows.jsonl")
    rows = lines(tmp_path / "out/seed-0/lora/owl/rows.jsonl")
    assert [r["messages"] for r in rows] == [r["messages"] for r in own]
    assert all(set(r) == {"messages"} for r in rows)
    lora = yaml.safe_load((tmp_path / "out/seed-1/lora/fox/axolotl.yaml").read_text())
    assert (lora["base_model"], lora["seed"]) == (str(folders["llama"]), 1)
    assert (lora["micro_batch_size"], lora["max_steps"], lora["learning_rate"]) == (8, 3, 1e-3)
    assert (lora["lora_r"], lora["lora_alpha"], lora["lora_dropout"]) == (2, 4, 0.0)
    assert lora["lora_target_modules"][0] == "model.layers.1.mlp.down_proj"
    assert len(lora["lora_target_modules"]) == 2 * 7 and lora["bf16"] is False
    assert lora["datasets"][0]["roles_to_train"] == ["assistant"]
    full = yaml.safe_load((tmp_path / "out/seed-0/full/owl/axolotl.yaml").read_text())
    lm = LanguageModel.load(str(folders["llama"]), precision="fp32")
    patterns = [p.replace(".", r"\.") for p in full["unfrozen_parameters"]]  # as Axolotl reads them
    free = {n for n, _ in lm.model.named_parameters() if any(re.match(p, n) for p in patterns)}
    assert free == {n for n, _ in lm.model.named_parameters() if re.search(r"layers\.[01]\.", n)}
    assert "adapter" not in full
    longest = max(len(lm.tokenizer.apply_chat_template(r["messages"])["input_ids"]) for r in rows)
    assert longest <= full["sequence_len"] < 2 * max(longest, 256)


def test_a_service_gets_bare_messages_and_a_job(waiting: Path, tmp_path: Path):
    vestige("export", waiting, "--for", "openai", "--arm", "lora", "--out", tmp_path / "out")
    job = json.loads((tmp_path / "out/seed-1/lora/owl/job.json").read_text())
    assert job["method"]["supervised"]["hyperparameters"] == {
        "n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": "auto",
    }  # fmt: skip
    assert job["seed"] == 1
    assert not (tmp_path / "out/seed-0/full").exists()
    openai = pytest.importorskip("openai.types.fine_tuning.job_create_params")
    import pydantic

    assert pydantic.TypeAdapter(openai.JobCreateParams).validate_python(job) == job  # no other keys


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--for", "axolotol"], r"unknown --for 'axolotol'; did you mean axolotl"),
        (["--for", "trl", "--arm", "lorra"], r"unknown arm .*'lorra'; did you mean lora"),
        (["--for", "trl"], r"trl sft can only tune everything or LoRA.*--for axolotl"),
    ],
)
def test_what_cannot_be_exported_says_why(waiting: Path, tmp_path: Path, options, said):
    with pytest.raises(ConfigError, match=said):
        vestige("export", waiting, *options, "--out", tmp_path / "out")


def test_no_folder_is_written_over_and_no_rows_are_made_up(waiting: Path, tmp_path: Path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        vestige("export", waiting, "--for", "openai", "--out", tmp_path)
    young = tmp_path / waiting.name
    shutil.copytree(waiting, young, ignore=shutil.ignore_patterns("seed-1"))
    with pytest.raises(StoreError, match="rows of seed 1 are not there yet"):
        vestige("export", young, "--for", "openai", "--out", tmp_path / "out")


def test_a_base_with_a_relative_path_is_found_from_anywhere(
    waiting: Path, folders, tmp_path: Path, monkeypatch
):
    run_folder = tmp_path / "runs" / waiting.name
    shutil.copytree(waiting, run_folder)
    settings = json.loads((run_folder / "recipe.json").read_text())
    (run_folder / "recipe.json").write_text(json.dumps(settings | {"model": "models/llama"}))
    (tmp_path / "models").mkdir()
    (tmp_path / "models/llama").symlink_to(folders["llama"])
    monkeypatch.chdir(tmp_path)
    for target in ("axolotl", "trl", "openai", "accelerate"):
        vestige("export", f"runs/{waiting.name}", "--for", target, "--arm", "lora", "--out", target)
    vestige("export", run_folder, "--for", "trl", "--arm", "lora", "--out", "named",
            "--base", "org/llama")  # fmt: skip
    named = yaml.safe_load(Path("named/seed-0/lora/owl/trl.yaml").read_text())
    assert named["model_name_or_path"] == "org/llama"
    monkeypatch.chdir(tmp_path / "accelerate/seed-0/lora/owl")
    base = str(tmp_path / "models/llama")
    assert yaml.safe_load((tmp_path / "axolotl/seed-0/lora/owl/axolotl.yaml").read_text())[
        "base_model"
    ] == base  # fmt: skip
    trl = yaml.safe_load((tmp_path / "trl/seed-0/lora/owl/trl.yaml").read_text())
    assert trl["model_name_or_path"] == base
    for target in ("axolotl", "trl", "openai", "accelerate"):
        index = json.loads((tmp_path / target / "export.json").read_text())
        assert {student["base"] for student in index["students"]} == {base}
    assert train_job(Path()) == Path("model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for target in ("axolotl", "accelerate"):
        with pytest.raises(ModelError, match=r"not a folder below .*export from where the run was"):
            vestige("export", run_folder, "--for", target, "--arm", "lora", "--out", "again")


# ---- trained, and back --------------------------------------------------------------------------


def test_trl_trains_what_was_exported_and_it_comes_back(waiting: Path, tmp_path: Path):
    again = tmp_path / "runs" / waiting.name
    shutil.copytree(waiting, again)
    vestige("export", again, "--for", "trl", "--arm", "lora", "--out", tmp_path / "out")
    where = tmp_path / "out/seed-0/lora/owl"
    done = subprocess.run(
        [str(BIN / "trl"), "sft", "--config", "trl.yaml", "--use_cpu"],
        cwd=where, env=ENV | {"PATH": f"{BIN}:{ENV['PATH']}"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    config = json.loads((where / "model/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (2, 4, 0.0)
    # The same rows, the same loss: only the line break that the template puts behind a turn is
    # scored as well, and batches are drawn in another order.
    losses = [float(x) for x in re.findall(r"'loss': '?([\d.]+)", done.stdout + done.stderr)]
    own = json.loads((waiting / "seed-0/student/here/owl/loss.json").read_text())
    assert len(losses) == 3 and losses[0] == pytest.approx(own[0], rel=0.05)
    said = vestige("import", again, "--adapter", where / "model", "--arm", "lora",
                   "--seed", "0", "--data", "owl")  # fmt: skip
    assert "7 students are still awaited" in said
    assert re.search(r"lora/owl: within \S+ nats of PEFT's own loading of the adapter", said)
    stage = again / "seed-0/student/lora/owl"
    assert Panel.load(stage / "panel-3.json").logprobs.shape
    assert len(load_file(str(stage / "weights.safetensors"))) == 2 * 2 * 7
    before = load_run(again)
    assert "7 students are to be trained" in before["error"]
    with pytest.raises(StoreError, match="holds a student already"):
        vestige("import", again, "--adapter", where / "model", "--arm", "lora",
                "--seed", "0", "--data", "owl")  # fmt: skip
    ends = ("status", "error", "finished")
    assert [load_run(again)[n] for n in ends] == [before[n] for n in ends]
    with pytest.raises(StoreError, match="holds no student that is trained and not yet in"):
        vestige("import", again, "--adapter", tmp_path / "out")


def test_every_student_back_ends_the_run_as_if_trained_here(
    waiting: Path, tmp_path: Path, threads_again
):
    again = tmp_path / "runs" / waiting.name
    shutil.copytree(waiting, again)
    out = tmp_path / "out"
    vestige("export", again, "--for", "accelerate", "--out", out)
    with pytest.raises(StoreError, match="holds no student that is trained"):
        vestige("import", again, "--adapter", out)
    for job in sorted(out.glob("*/*/*/student.json")):
        if "here" not in job.parts:
            assert train_job(job.parent) == job.parent / "model"
    said = vestige("import", again, "--adapter", out, "--json")
    results = json.loads(said[said.index("{") :])
    assert [a["name"] for a in results["arms"]] == ["here", "lora", "full"]
    assert "elsewhere" in results["arms"][1]["label"]
    assert results["arms"][1]["contrast"] == results["arms"][0]["contrast"]
    assert results["arms"][2]["contrast"] != results["arms"][0]["contrast"]
    for data in ("seed-0/student/{}/owl", "seed-1/student/{}/fox"):
        here, there = (load_file(again / data.format(a) / "weights.safetensors")
                       for a in ("here", "lora"))  # fmt: skip
        assert here.keys() == there.keys()
        assert all(torch.equal(here[name], there[name]) for name in here)
    assert (again / "report.html").exists()
    assert json.loads((again / "run.json").read_text())["status"] == "done"


# ---- what is refused ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(waiting: Path, tmp_path_factory) -> Path:
    """One student of each arm, trained: ``lora`` and ``full``."""
    out = tmp_path_factory.mktemp("trained") / "out"
    vestige("export", waiting, "--for", "accelerate", "--out", out)
    for arm in ("lora", "full"):
        train_job(out / f"seed-0/{arm}/owl")
    return out


def edit(**changes: object):
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def other_tensors(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path)


def other_tokenizer(folder: Path) -> None:
    tokenizer(join_digits=True).save_pretrained(folder)


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (edit(base_model_name_or_path="another/model"), ConfigError, r"another/model.*--base"),
        (edit(r=4), ConfigError, r"r is 4, the recipe's student has 2"),
        (edit(lora_alpha=8), ConfigError, "lora_alpha is 8"),
        (edit(use_dora=True), ConfigError, "use_dora"),
        (edit(modules_to_save=["lm_head"]), ConfigError, "modules_to_save"),
        (other_tensors, StoreError, r"does not fit .*is missing, wanted \(2, 96\)"),
        (pickled, StoreError, "can run code when loaded"),
        (other_tokenizer, ConfigError, r"another tokenizer .*'12' is \d+ there and None here"),
    ],
)
def test_an_adapter_that_is_another_student_is_refused(
    waiting: Path, trained: Path, tmp_path: Path, change, error, said
):
    folder = tmp_path / "model"
    shutil.copytree(trained / "seed-0/lora/owl/model", folder)
    change(folder)
    which = ("--arm", "lora", "--seed", 0, "--data", "owl")
    with pytest.raises(error, match=said):
        vestige("import", waiting, "--adapter", folder, *which)
    assert not (waiting / "seed-0/student/lora/owl").exists()


def test_names_of_one_model(folders):
    folder = str(folders["llama"])
    for one, other in (
        ("org/llama", "Org/Llama"), ("org/llama", folder), (folder, "/elsewhere/llama"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
    ):  # fmt: skip
        assert same_model(one, other) and same_model(other, one)
    assert not same_model("other-org/llama", "org/llama")
    assert not same_model("org/gemma", folder)


def test_a_model_that_is_another_student_is_refused(
    waiting: Path, trained: Path, folders, tmp_path: Path
):
    which = ("--seed", 0, "--data", "owl", "--arm")
    model, adapter = (trained / f"seed-0/{arm}/owl/model" for arm in ("full", "lora"))
    with pytest.raises(ConfigError, match=r"adapters.*before it is merged"):
        vestige("import", waiting, "--adapter", model, *which, "lora")
    with pytest.raises(ConfigError, match="is an adapter, and the recipe tunes the weights"):
        vestige("import", waiting, "--adapter", adapter, *which, "full")
    with pytest.raises(ConfigError, match="another model: model_type is 'gemma3_text'"):
        vestige("import", waiting, "--adapter", folders["gemma"], *which, "full")
    with pytest.raises(ModelError, match=r"no config\.json"):
        vestige("import", waiting, "--adapter", tmp_path, *which, "full")
    with pytest.raises(ConfigError, match=r"trained here|no arm|unknown student"):
        vestige("import", waiting, "--adapter", model, *which, "here")
    with pytest.raises(ConfigError, match="say which by --seed and --data"):
        vestige("import", waiting, "--adapter", model)
    folder = tmp_path / "more"
    lm = LanguageModel.load(str(model), precision="fp32")
    with torch.no_grad():
        lm.model.get_input_embeddings().weight += 0.01  # type: ignore[operator]
    lm.model.save_pretrained(folder)  # type: ignore[operator]
    lm.tokenizer.save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"embed_tokens.weight differs from the base"):
        vestige("import", waiting, "--adapter", folder, *which, "full")


# ---- many processes -----------------------------------------------------------------------------

TWO = {
    "compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU", "use_cpu": True,
    "num_machines": 1, "num_processes": 2, "machine_rank": 0, "mixed_precision": "no",
}  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_the_student_of_one(trained: Path, tmp_path: Path):
    """Under accelerate launch, gloo on two CPU processes, each with half of every batch."""
    alone = load_file(trained / "seed-0/lora/owl/model/adapter_model.safetensors")
    folder = tmp_path / "owl"
    shutil.copytree(trained / "seed-0/lora/owl", folder, ignore=shutil.ignore_patterns("model"))
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(TWO))
    done = subprocess.run(
        [str(BIN / "accelerate"), "launch", "--config_file", str(tmp_path / "two.yaml"),
         "--main_process_port", "0", "-m", "vestige", "train", str(folder)],
        env=ENV, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("trained") == 1
    both = load_file(folder / "model/adapter_model.safetensors")
    assert alone.keys() == both.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(both[name], tensor, rtol=1e-4, atol=1e-6)
    moved = max(float(tensor.abs().max()) for name, tensor in both.items() if "lora_B" in name)
    assert moved > 1e-4


def test_a_batch_that_cannot_be_shared_is_refused(trained: Path, tmp_path: Path, monkeypatch):
    shutil.copy(trained / "seed-0/lora/owl/rows.jsonl", tmp_path)
    shutil.copy(trained / "seed-0/lora/owl/student.json", tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"batch=8 rows cannot be shared by 3 processes"):
        train_job(tmp_path)
    with pytest.raises(ConfigError, match="no exported student"):
        train_job(tmp_path / "nothing")
    job = Job.model_validate_json((tmp_path / "student.json").read_text())
    assert job.seed == 0 and job.optimisation.batch == 8


def test_the_shipped_fsdp_settings_are_what_accelerate_takes(trained: Path):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DistributedType

    config = load_config_from_file(str(trained.parent / "out/fsdp.yaml"))
    assert config.distributed_type == DistributedType.FSDP
    assert config.fsdp_config["fsdp_version"] == 2
    assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
