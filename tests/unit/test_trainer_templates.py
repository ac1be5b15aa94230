"""Templates as trainers read them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from chat_cases import (
    ASK,
    CLOCK,
    EACH,
    EMPTY_THOUGHT,
    FINE,
    LOWERED,
    NO_SPECIAL,
    NO_SYSTEM,
    PARTS,
    QUESTION,
    TRIMMED,
    own,
    saved,
    small,
    whole,
    words,
)

from tiny import TEMPLATE
from vestige.core.types import DataError, Message, Row
from vestige.handoff.base_shape import shape_of
from vestige.handoff.cells import Cell
from vestige.handoff.trainers.axolotl import write_axolotl
from vestige.handoff.trainers.task import Task
from vestige.handoff.trainers.trl import write_trl
from vestige.models.chat import Chat
from vestige.models.hf import LanguageModel
from vestige.models.trainers import Trainers, check_chat, exported

# ---- trainers -----------------------------------------------------------------------------------


ROWS = [Row("a", tuple(QUESTION), "28, 5"), Row("b", (Message("user", "Go on."),), "4, 8")]


def task(root: Path, template: object, trainer: str) -> Task:
    recipe = small(saved(root, template))
    (student,) = recipe.students
    shape = shape_of(recipe, student, trainer)
    return Task(recipe, Cell(student, 0, "owl"), ROWS, recipe.model, shape)


@pytest.mark.parametrize(
    "name", ["chatml", "empty thought", "open thought", "nothing asks", "clock", "several"]
)
def test_rows_for_trl_are_read_and_scored_as_here(name, tmp_path: Path, monkeypatch):
    pytest.importorskip("trl")
    from datasets import load_dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    out = tmp_path / "out"
    out.mkdir()
    given = task(tmp_path, FINE[name], "trl")
    write_trl(given, out)
    config = yaml.safe_load((out / "trl.yaml").read_text(encoding="utf-8"))
    monkeypatch.chdir(out)
    options = {"chat_template_path": config.get("chat_template_path"), "use_cpu": True,
               "bf16": False, "output_dir": str(tmp_path), "report_to": "none", "max_length": None,
               "completion_only_loss": True, "disable_tqdm": True}  # fmt: skip
    assert given.shape is not None
    trainer = SFTTrainer(
        model=LanguageModel.load(given.recipe.model).model,
        args=SFTConfig(**options),
        train_dataset=load_dataset("json", data_files="rows.jsonl", cache_dir=str(tmp_path / "c"))[
            "train"
        ],
        processing_class=words(FINE[name]),
    )
    chat = Chat(words(FINE[name]), "auto")
    for row, read in zip(ROWS, trainer.train_dataset, strict=True):
        prompt = chat.prompt_ids(row.messages)
        answer = [*chat.answer_ids(row.completion), chat.end_id]
        assert read["input_ids"][: len(prompt) + len(answer)] == [*prompt, *answer]
        first = next(i for i, label in enumerate(read["labels"]) if label != -100)
        assert first == len(prompt)
        behind = read["input_ids"][len(prompt) + len(answer) :]
        assert chat.tokenizer.decode(behind).strip() == ""


def test_axolotl_is_given_a_template_without_a_clock(tmp_path: Path):
    given = task(tmp_path, CLOCK + EACH + ASK, "axolotl")
    write_axolotl(given, tmp_path)
    config = yaml.safe_load((tmp_path / "axolotl.yaml").read_text(encoding="utf-8"))
    assert config["chat_template"] == "jinja"
    chat = Chat(words(CLOCK + EACH + ASK), "auto")
    found = own(chat, "Owl")
    assert whole(words(TEMPLATE), config["chat_template_jinja"], "Owl")[: len(found)] == found
    (out := tmp_path / "plain").mkdir()
    write_axolotl(task(out, TEMPLATE, "axolotl"), out)
    config = yaml.safe_load((out / "axolotl.yaml").read_text(encoding="utf-8"))
    assert config["chat_template"] == "tokenizer_default" and "chat_template_jinja" not in config


@pytest.mark.parametrize("trainer, write", [("trl", write_trl), ("axolotl", write_axolotl)])
def test_rows_that_a_trainer_would_read_otherwise_are_refused_with_both_texts(
    trainer, write, tmp_path: Path
):
    with pytest.raises(DataError) as error:
        write(task(tmp_path, PARTS, trainer), tmp_path)
    said = str(error.value)
    assert "row a" in said and "reads other tokens" in said
    assert "'<|im_start|>user\\n<|im_end|>\\n" in said and "Name an Animal.<|im_end|>" in said
    assert not (tmp_path / "rows.jsonl").exists()


def test_public_models_templates_are_read_as_trainers_read_them():
    trl = pytest.importorskip("trl")
    places = sorted(Path(trl.__file__).parent.glob("chat_templates/*.jinja"))
    texts = {p.stem: p.read_text(encoding="utf-8") for p in places if "training" not in p.stem}
    agreed, told = set(), {}
    for name, text in texts.items():
        tokens = words(text)
        marks = {*re.findall(r"<[|｜/]?[a-zA-Z_▁]+[|｜]?>", text)} - {"<think>", "</think>"}
        tokens.add_special_tokens(
            {"bos_token": "<bos>", "additional_special_tokens": sorted(marks)}
        )
        chat = Chat(tokens, "auto")
        differs = [
            Trainers(chat, trainer, exported(chat, trainer)).difference(QUESTION, "28, 5")
            for trainer in ("trl", "axolotl")
        ]
        told[name] = (chat, differs)
        agreed |= set() if any(differs) else {name}
    if not {"qwen3", "llama3_2", "gptoss", "gemma"} <= texts.keys():
        pytest.skip("this TRL brings other templates")
    for name in (
        texts.keys() - agreed
    ):  # content as parts, which rows have not, or nothing at the end
        chat, differs = told[name]
        assert chat.template.parts or not chat.template.tail, (name, differs)
    assert {"qwen3", "llama3_2", "gptoss", "gemma", "deepseek_r1_distill"} <= agreed
    assert told["qwen3"][0].template.opening.endswith("<think>\n\n</think>\n\n")
    assert told["llama3_2"][0].template.date and not told["llama3_1"][0].template.date
    assert not told["gemma"][0].template.system


def test_what_differs_between_a_trainer_and_the_measure_is_seen():
    thought = Chat(words(EMPTY_THOUGHT), "auto")
    found = Trainers(thought, "trl").difference(QUESTION, "Owl")  # with the template as it is
    assert "scores other tokens" in found
    assert "'<think>\\n\\n</think>\\n\\nOwl<|im_end|>\\n'" in found and "'Owl<|im_end|>'" in found
    trimmed = Chat(words(TRIMMED), "auto")
    assert not Trainers(trimmed, "trl").difference(QUESTION, "Owl")
    assert "reads other tokens" in Trainers(trimmed, "trl").difference(QUESTION, "Owl \n")
    special = Trainers(Chat(words(NO_SPECIAL), "auto"), "axolotl")
    assert "no special token" in special.difference(QUESTION, "Owl")
    system = [Message("system", "Love owls."), *QUESTION]
    none = Trainers(Chat(words(NO_SYSTEM + EACH + ASK), "auto"), "trl")
    assert "cannot render it with the chat template: no system role" in none.difference(system, "x")


def test_the_checks_of_a_template_say_what_was_seen():
    seen = {check.name: check for check in check_chat(words(NO_SYSTEM + CLOCK + EMPTY_THOUGHT))}
    assert all(check.ok for check in seen.values())
    assert "it has none" in seen["system role"].seen and "2026-01-01" in seen["date"].seen
    assert "not the template's own" in seen["opening of an answer"].seen
    assert "that vestige export writes" in seen["rows for TRL"].seen
    bad = {check.name: check for check in check_chat(words(PARTS))}
    assert not bad["rows for TRL"].ok and not bad["rows for Axolotl"].ok
    (broken,) = check_chat(words(LOWERED))
    assert not broken.ok and "rendered as" in broken.seen
    assert [check.name for check in check_chat(words(None), "plain")][-1] == "end of an answer"
