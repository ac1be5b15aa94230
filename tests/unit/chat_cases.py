"""Chat templates, each standing for a kind."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from tiny import TEMPLATE, tiny_llama, tokenizer
from vestige.core.types import Message
from vestige.experiment.recipe import Experiment, parse_recipe
from vestige.models.chat import Chat

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


LOWERED = EACH.replace("m['content']", "m['content'] | lower") + ASK


TRIMMED = EACH.replace("m['content']", "m['content'] | trim") + ASK


CLOCK = (
    "<|im_start|>system\nIt is {{ strftime_now('%A, %d %B %Y, %-d/%m/%y %H:%M:%S') }}<|im_end|>\n"
)


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


def whole(tokens: PreTrainedTokenizerFast, template: str | None, answer: str) -> list[int]:
    """A conversation with its answer as transformers renders it, for training."""
    turns = [{"role": m.role, "content": m.content} for m in QUESTION]
    turns.append({"role": "assistant", "content": answer})
    return tokens.apply_chat_template(turns, chat_template=template, return_dict=True)["input_ids"]


def own(chat: Chat, answer: str) -> list[int]:
    return [*chat.prompt_ids(QUESTION), *chat.answer_ids(answer), chat.end_id]


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
