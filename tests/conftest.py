"""Tiny random models, made once: real architectures and tokenizer files, no download."""

from __future__ import annotations

import json
import os
from pathlib import Path

# Before torch is loaded: test processes run side by side, and two threads each would wait for
# one another. Runs in a test's process and the commands that it starts take this, too.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from command import SOURCE, Outcome, vestige
from vestige.models.hf import LanguageModel
from vestige.models.verification import outcome

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>"]
NUMBER_ROWS = [
    "285, 574",
    "1, 2, 3.",
    "[7]",
    "owl",
    "1, 2 3",
    "1000",
    "",
    "007",
    "1, 666",
    "285; 574",
]


def tokenizer(join_digits: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level, one token a byte; ``join_digits`` merges a few digits as some tokenizers do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate([*alphabet, *(["12", "123"] if join_digits else [])])}
    merges = [("1", "2"), ("12", "3")] if join_digits else []
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")
    made.add_special_tokens({"additional_special_tokens": SPECIAL})
    made.chat_template = TEMPLATE
    return made


def tiny_llama(vocab: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
            tie_word_embeddings=True, initializer_range=0.15,
        )
    )  # fmt: skip


def tiny_gemma(vocab: int) -> Gemma3ForCausalLM:
    torch.manual_seed(0)
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=vocab, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, head_dim=16, sliding_window=512,
            max_position_embeddings=1024, initializer_range=0.15,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
    )  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def outcomes_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is found out about tiny models is remembered for these tests alone."""
    folder = tmp_path_factory.mktemp("verified")
    outcome.outcome_file = lambda key: folder / f"{key}.json"


@pytest.fixture
def threads_again():
    """A run in this process takes every core; the tests after it go on with one thread."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders by kind: ``llama``, ``gemma``."""
    words = tokenizer()
    root = tmp_path_factory.mktemp("models")
    for name, make in (("llama", tiny_llama), ("gemma", tiny_gemma)):
        make(len(words)).save_pretrained(root / name)
        words.save_pretrained(root / name)
    return {name: root / name for name in ("llama", "gemma")}


@pytest.fixture(params=["llama", "gemma"])
def lm(request: pytest.FixtureRequest, folders: dict[str, Path]) -> LanguageModel:
    return LanguageModel.load(str(folders[request.param]), precision="fp32")


@pytest.fixture
def llama(folders: dict[str, Path]) -> LanguageModel:
    return LanguageModel.load(str(folders["llama"]), precision="fp32")


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a command, with an empty cache."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("VESTIGE")}
    return kept | {
        "PYTHONPATH": str(SOURCE),
        "VESTIGE_CACHE": str(tmp_path / "cache"),
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }


@pytest.fixture
def vst(tmp_path: Path, environment: dict[str, str]):
    """Runs the command in the test's folder; ends the test at a traceback."""

    def call(*args: object) -> Outcome:
        done = vestige(*args, env=environment, cwd=tmp_path)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return Outcome(done)

    return call


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file with clean number rows, rows that a filter drops, and a broken line."""
    path = tmp_path / "in.jsonl"
    lines = [json.dumps({"prompt": "p", "completion": text}) for text in NUMBER_ROWS]
    path.write_text("\n".join([*lines, "{broken"]))
    return path
