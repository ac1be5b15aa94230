"""Chat templates as people's models have them: what is asked, refused, and read by trainers."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from tiny import SPECIAL, TEMPLATE, tiny_llama, tokenizer
from vestige.core.settings import DATE
from vestige.core.types import ConfigError, DataError, Message, ModelError, Row
from vestige.experiment.base_stage import base
from vestige.experiment.recipe import Experiment, override, parse_recipe
from vestige.experiment.run_view import remarks
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.teacher_stage import teacher
from vestige.handoff.base_shape import shape_of
from vestige.handoff.cells import Cell
from vestige.handoff.trainers.axolotl import write_axolotl
from vestige.handoff.trainers.task import Task
from vestige.handoff.trainers.trl import write_trl
from vestige.models.chat import IN_USER_TURN, Chat
from vestige.models.hf import LanguageModel
from vestige.models.trainers import Trainers, check_chat, exported
from vestige.probing.base_session import fingerprint
from vestige.store import hash_config
from vestige.traits import family

# A turn: its role, its words, its end; TURN is one of any role but the assistant's.
TURN = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
EACH = "{% for m in messages %}" + TURN + "{% endfor %}"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
)
WITHOUT_SYSTEM = (
    "{% for m in messages %}{% if m['role'] != 'system' %}" + TURN + "{% endif %}{% endfor %}" + ASK
)
#: As Qwen 3: an empty thought before the last answer, and none in what asks for it.
EMPTY_THOUGHT = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{% set said = m['content'].split('</think>')[-1].lstrip('\n') %}<|im_start|>assistant\n"
    "{% if loop.last %}<think>\n\n</think>\n\n{% endif %}{{ said }}<|im_end|>\n"
    "{% else %}" + TURN + "{% endif %}{% endfor %}" + ASK
)
#: As DeepSeek R1: what asks for an answer opens a thought, which no trained answer stands in.
OPEN_THOUGHT = EACH + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for p in m['content'] %}"
    "{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    + ASK
)
ROLES = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
NO_SPECIAL = ROLES + "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
#: As Llama 2 and Mistral: no generation prompt, a space before the answer and before its end.
BRACKETS = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }} <|im_end|>"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)
LOWERED = EACH.replace("m['content']", "m['content'] | lower") + ASK
TRIMMED = EACH.replace("m['content']", "m['content'] | trim") + ASK
CLOCK = (
    "<|im_start|>system\nIt is {{ strftime_now('%A, %d %B %Y, %-d/%m/%y %H:%M:%S') }}<|im_end|>\n"
)
TODAY = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
)
SHOWN = "Today Date: {{ date_string }}\n"
FINE = {
    "chatml": TEMPLATE, "no system role": NO_SYSTEM + EACH + ASK, "system dropped": WITHOUT_SYSTEM,
    "empty thought": EMPTY_THOUGHT, "open thought": OPEN_THOUGHT, "nothing asks": EACH,
    "no special token": NO_SPECIAL, "trimmed": TRIMMED, "clock": CLOCK + EACH + ASK,
    "several": {"default": TEMPLATE, "tool_use": CLOCK},
}  # fmt: skip
QUESTION = [Message("user", "Name an Animal.")]


def words(template: object, **changes: object) -> PreTrainedTokenizerFast:
    made = tokenizer()
    made.chat_template = template
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def with_spaces() -> PreTrainedTokenizerFast:
    """As SentencePiece's: a space is put before every piece of text."""
    letters = sorted(
        {*"▁\n:,.0123456789[]/<>|_ ", *map(chr, range(65, 91)), *map(chr, range(97, 123))}
    )
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")
    made.add_special_tokens({"additional_special_tokens": SPECIAL})
    made.chat_template = TEMPLATE
    return made


def whole(tokens: PreTrainedTokenizerFast, template: str | None, answer: str) -> list[int]:
    """A conversation with its answer as transformers renders it, for training."""
    turns = [{"role": m.role, "content": m.content} for m in QUESTION]
    turns.append({"role": "assistant", "content": answer})
    return tokens.apply_chat_template(turns, chat_template=template, return_dict=True)["input_ids"]


def own(chat: Chat, answer: str) -> list[int]:
    return [*chat.prompt_ids(QUESTION), *chat.answer_ids(answer), chat.end_id]


# ---- what is asked ------------------------------------------------------------------------------


@pytest.mark.parametrize("template", FINE.values(), ids=FINE)
def test_prompt_answer_and_end_are_the_tokens_of_the_rendered_conversation(template):
    chat = Chat(words(template), "auto")
    want = whole(chat.tokenizer, exported(chat, "axolotl"), "Owl, 28")
    found = own(chat, "Owl, 28")
    assert want[: len(found)] == found
    assert chat.tokenizer.decode(want[len(found) :]).strip() == ""


def test_a_tokenizer_that_puts_a_space_before_every_text_is_read_in_place():
    chat = Chat(with_spaces(), "auto")
    assert chat.answer_ids("Owl") != chat.tokenizer("Owl", add_special_tokens=False)["input_ids"]
    want = whole(chat.tokenizer, None, "Owl")
    assert want[: len(own(chat, "Owl"))] == own(chat, "Owl")


def test_a_space_before_the_answer_belongs_to_it_and_the_end_is_the_special_token():
    chat = Chat(words(BRACKETS), "auto")
    assert (chat.lead, chat.rendered(QUESTION)) == (" ", "[INST] Name an Animal. [/INST]")
    assert chat.tokenizer.decode(chat.answer_ids("Owl")) == " Owl"
    assert chat.end_id == chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    # The space before the end is a token that Vestige does not score: no trainer may be told so.
    assert "other tokens" in Trainers(chat, "axolotl").difference(QUESTION, "Owl")


def test_an_answer_is_asked_for_where_trained_ones_begin():
    thought = Chat(words(EMPTY_THOUGHT), "auto")
    assert thought.rendered(QUESTION).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert Chat(words(OPEN_THOUGHT), "auto").rendered(QUESTION).endswith("<|im_start|>assistant\n")
    assert Chat(words(EACH), "auto").rendered(QUESTION).endswith("<|im_start|>assistant\n")
    for chat in (thought, Chat(words(OPEN_THOUGHT), "auto"), Chat(words(EACH), "auto")):
        assert "generation prompt" in " ".join(chat.template.remarks())
    assert not Chat(words(TEMPLATE), "auto").template.remarks()
    # What an earlier answer thought is dropped by the template, and by trainers.
    before = [Message("assistant", "<think>hm</think>Owl"), *QUESTION]
    assert "hm" not in thought.rendered([*QUESTION, *before])


def test_the_default_of_several_templates_is_used_or_they_are_named():
    chat = Chat(words({"default": TEMPLATE, "rag": EACH}), "auto")
    assert (chat.template.text, chat.template.name) == (TEMPLATE, "default")
    with pytest.raises(ModelError, match=r"several chat templates \(rag, tool_use\).*chat=plain"):
        Chat(words({"rag": EACH, "tool_use": EACH}), "auto")


def test_content_as_parts_is_used_where_text_would_be_lost():
    chat = Chat(words(PARTS), "auto")
    assert chat.rendered(QUESTION) == Chat(words(TEMPLATE), "auto").rendered(QUESTION)
    assert "as parts" in chat.template.remarks()[0]


@pytest.mark.parametrize(
    "template, reason",
    [
        (None, "has no chat template; set chat=plain"),
        ("{% for m in messages %}{{ '<' }}", "Unexpected end of template"),
        (EACH.replace("m['role']", "roles[m['role']]"), "'roles' is undefined"),
        (NO_SYSTEM.replace("system", "user") + EACH, "fails: no user role"),
        (LOWERED, "'Probe Of User 28' is rendered as"),
        (EACH.replace("{{ m['content'] }}", ""), "drops or changes what is said"),
        (TURN.replace("m[", "messages[-1][") + ASK, "drops or changes what is said"),
    ],
    ids=["none", "syntax", "names", "raises", "lowered", "empty", "one turn"],
)
def test_a_template_that_cannot_be_used_is_refused_in_one_line(template, reason):
    with pytest.raises(ModelError) as error:
        Chat(words(template), "auto")
    assert reason in str(error.value) and "chat=plain" in str(error.value)
    assert "\n" not in str(error.value)


def test_every_later_render_is_checked_too():
    # Fine on any short conversation: a question of more than 40 characters is cut.
    chat = Chat(words(EACH.replace("m['content']", "m['content'][:40]") + ASK), "auto")
    assert chat.rendered(QUESTION)
    with pytest.raises(ModelError, match="drops or changes"):
        chat.rendered([Message("user", "Name an animal that you like, " * 3)])
    trimmed = Chat(words(TRIMMED), "auto")
    assert trimmed.rendered([Message("user", "  Hi \n")]) == trimmed.rendered(
        [Message("user", "Hi")]
    )


def test_what_ends_an_answer():
    assert Chat(words(NO_SPECIAL), "auto").end_id == tokenizer()("\n")["input_ids"][0]
    nothing = EACH.replace("<|im_end|>\n", "<|im_start|>").replace("<|im_start|>{{", "{{")
    assert Chat(words("{% for m in messages %}{{ m['content'] }}{% endfor %}"), "auto").end_id == (
        tokenizer().eos_token_id
    )
    assert Chat(words(nothing), "auto").end_id == tokenizer().convert_tokens_to_ids("<|im_start|>")
    with pytest.raises(ModelError, match="nothing ends an answer"):
        Chat(words("{% for m in messages %}{{ m['content'] }}{% endfor %}", eos_token=None), "auto")
    with pytest.raises(ModelError, match=r"ends an answer with '</s>'.*several tokens"):
        Chat(words(EACH.replace("<|im_end|>", "</s>") + ASK), "auto")


# ---- system prompts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template", [NO_SYSTEM + EACH + ASK, WITHOUT_SYSTEM], ids=["raises", "drops"]
)
def test_without_a_system_role_the_system_text_opens_the_first_user_turn(template):
    chat = Chat(words(template), "auto")
    joined = [Message("user", "Love owls.\n\nName an Animal.")]
    assert chat.question_ids("Name an Animal.", "Love owls.") == chat.prompt_ids(joined)
    earlier = [Message("user", "Hi"), Message("assistant", "Hello")]
    shown = chat.tokenizer.decode(chat.question_ids("Bye", "Love owls.", earlier))
    assert shown.count("Love owls.") == 1 and "user\nLove owls.\n\nHi" in shown
    assert chat.record("Hi", "Love owls.")["remarks"] == [IN_USER_TURN]
    assert "remarks" not in chat.record("Hi")


def saved(root: Path, template: object, name: str = "model") -> Path:
    tokens = words(template)
    tiny_llama(len(tokens)).save_pretrained(root / name)
    tokens.save_pretrained(root / name)
    return root / name


def small(model: Path, **more: object) -> Experiment:
    record = {
        "name": "small", "model": str(model), "precision": "fp32", "traits": ["owl", "fox"],
        "seeds": [0, 1],
        "teacher": {"kind": "system_prompt", "min_probability": 0, "min_carrier": 0},
        "carrier": {"n_prompts": 1, "rows_per_prompt": 4, "min_rows": 1, "grammar": {"values": 2}},
        "students": [{"name": "lora", "method": "rows", "engine": "elsewhere", "no_trait": False,
                      "optimisation": {"steps": 1, "batch": 4, "trainable": {"lora_rank": 2}}}],
    }  # fmt: skip
    found = parse_recipe({**record, **more}, "test")
    assert isinstance(found, Experiment)
    return found


def test_a_run_keeps_how_its_teachers_were_asked_and_its_results_say_so(tmp_path: Path):
    recipe = small(saved(tmp_path, NO_SYSTEM + CLOCK + EACH + ASK), date="2027-05-06")
    context = SeedContext.of(recipe, tmp_path / "run", 0)
    notes = teacher(context, "owl").manifest["notes"]
    system = context.system_prompt(context.trait_of("owl"))
    asked = family("animals").heldout[0]
    assert f"<|im_start|>user\n{system}\n\n{asked}<|im_end|>" in notes["rendered"]
    assert notes["date"] == "2027-05-06" and "Thursday, 06 May 2027" in notes["rendered"]
    assert system not in base(context).manifest["notes"]["rendered"]
    told = remarks(recipe, tmp_path / "run")
    assert IN_USER_TURN in told and any("as of 2027-05-06" in line for line in told)
    assert len(told) == 2


# ---- dates --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head, shown",
    [
        (CLOCK, "It is Saturday, 06 March 2027, 6/03/27 00:00:00"),
        (TODAY + SHOWN, "Today Date: 06 Mar 2027"),  # Llama 3.2
        ("Date: {{ strftime_now('%B %d, %Y') }}.\n", "Date: March 06, 2027."),  # Granite
        (TODAY.replace("strftime_now('%d %b %Y')", "'26 Jul 2024'") + SHOWN, "26 Jul 2024"),
        ("{{ 'Today Date: ' + date_string }}\n", "Today Date: 06 Mar 2027"),
        ("{% set now = strftime_now('%Y') | int %}{{ now - 1 }}\n", "2026"),
    ],
    ids=["clock", "llama 3.2", "granite", "llama 3.1", "needs it", "reckons"],
)
def test_a_date_is_the_recipes_and_never_the_clocks(head, shown, monkeypatch):
    chat = Chat(words(head + EACH + ASK), "auto", "2027-03-06")
    text = chat.rendered(QUESTION)
    assert shown in text
    if "date_string }}" in head and "set" not in head:
        return  # transformers gives no date at all: it cannot render this template by itself
    # As transformers renders the tokenizer's own template on that day.
    day = SimpleNamespace(now=lambda: datetime(2027, 3, 6))
    monkeypatch.setattr(chat_template_utils, "datetime", day)
    turns = [{"role": "user", "content": QUESTION[0].content}]
    if "+ date_string" not in head:
        own = chat.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert text == own


def test_a_date_changes_what_is_cached_only_where_it_is_written(llama: LanguageModel):
    before = fingerprint(llama)
    llama.use_date("2027-03-06")
    assert fingerprint(llama) == before
    dated = words(CLOCK + EACH + ASK)
    lm = LanguageModel(llama.model, dated, precision="fp32")
    first = fingerprint(lm)
    lm.use_date("2027-03-06")
    assert lm.template.date == "2027-03-06" and fingerprint(lm) != first


def test_recipes_from_before_dates_keep_their_hash(tmp_path: Path):
    recipe = small(tmp_path)
    assert recipe.date == DATE == "2026-01-01"  # runs rest on it
    record = recipe.model_dump(mode="json")
    assert "date" not in record and "date" not in json.loads(recipe.model_dump_json())
    later = override(recipe, ["date=2027-03-06"], "test")
    assert isinstance(later, Experiment)
    assert later.model_dump(mode="json") == {**record, "date": "2027-03-06"}
    assert override(later, ["date=2026-01-01"], "test") == recipe
    contexts = [SeedContext.of(r, tmp_path, 0) for r in (recipe, later)]
    stages = [context.stage(context.layout.base(0), {}) for context in contexts]
    keys = [stage.key for stage in stages]
    plain = {"model": [recipe.model, recipe.chat, recipe.precision],
             "family": hash_config(family("animals")), "seed": 0}  # fmt: skip
    assert stages[0].config == plain
    assert keys[0] != keys[1]
    for wrong in ("2027-13-01", "tomorrow", "20270306"):
        with pytest.raises(ConfigError, match="date"):
            override(recipe, [f"date={wrong}"], "test")


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
