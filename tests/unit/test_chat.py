"""Chat templates as people's models have them: what is asked, refused, and read by trainers."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from chat_cases import (
    ASK,
    CLOCK,
    EACH,
    EMPTY_THOUGHT,
    FINE,
    LOWERED,
    NO_SPECIAL,
    NO_SYSTEM,
    OPEN_THOUGHT,
    PARTS,
    QUESTION,
    TRIMMED,
    TURN,
    WITHOUT_SYSTEM,
    own,
    saved,
    small,
    whole,
    words,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from tiny import SPECIAL, TEMPLATE, tokenizer
from vestige.core.settings import DATE
from vestige.core.types import ConfigError, Message, ModelError
from vestige.experiment.base_stage import base
from vestige.experiment.recipe import Experiment, override
from vestige.experiment.run_view import remarks
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.teacher_stage import teacher
from vestige.models.chat import IN_USER_TURN, Chat
from vestige.models.hf import LanguageModel
from vestige.models.trainers import Trainers, exported
from vestige.probing.base_session import fingerprint
from vestige.store import hash_config
from vestige.traits import family

#: As Llama 2 and Mistral: no generation prompt, a space before the answer and before its end.
BRACKETS = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }} <|im_end|>"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)


TODAY = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
)


SHOWN = "Today Date: {{ date_string }}\n"


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
