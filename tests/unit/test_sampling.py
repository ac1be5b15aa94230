"""Constrained sampling: inside the grammar, the model's own probabilities, independent rows."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from tiny import tiny_llama, tokenizer
from vestige.carriers.filtering import filter_rows
from vestige.carriers.numbers import NumberFilter, NumberGrammar
from vestige.core.types import ConfigError, Row
from vestige.models.backend import lines_end
from vestige.models.grammar import compile_grammar
from vestige.models.hf import LanguageModel
from vestige.models.sampling import (
    nucleus,
    sample_free,
    sample_grammar,
    symbol_ids,
)

GRAMMAR = NumberGrammar(values=3)
RULES = compile_grammar(GRAMMAR.next_chars, GRAMMAR.state)


def draw(lm: LanguageModel, texts: list[str], rows: list[int], seed: int = 0) -> list[str]:
    prompts = [lm.question_ids(text) for text in texts]
    return sample_grammar(lm, prompts, rows, RULES, seed=seed, max_length=16)


def test_rows_are_in_the_grammar(lm: LanguageModel):
    texts = [f"Continue {n}" for n in (1, 22, 333, 4444)] * 4
    rows = draw(lm, texts, list(range(16)))
    kept, dropped = filter_rows([Row(str(i), (), t) for i, t in enumerate(rows)], NumberFilter())
    assert not dropped and all(len(row.completion.split(", ")) == 3 for row in kept)
    assert all(RULES.walk(row)[0][0] == 0 for row in rows) and len(set(rows)) > 8


def test_a_row_does_not_depend_on_its_batch(lm: LanguageModel):
    texts = [f"Continue {'7' * n}" for n in range(1, 9)]
    together = draw(lm, texts, list(range(8)))
    assert [draw(lm, [t], [i])[0] for i, t in enumerate(texts)] == together
    assert draw(lm, texts[::-1], list(range(8))[::-1]) == together[::-1]


def test_rows_that_share_a_prompt_do_not_see_each_other(lm: LanguageModel):
    texts = ["Continue 7"] * 4 + ["And now 8, 9"] * 4 + ["x"]
    together = draw(lm, texts, list(range(9)))
    assert [draw(lm, [t], [i])[0] for i, t in enumerate(texts)] == together
    mixed = [4, 0, 8, 5, 1, 2, 6, 7, 3]
    assert draw(lm, [texts[i] for i in mixed], mixed) == [together[i] for i in mixed]


def test_models_that_are_nearly_equal_draw_nearly_equal_rows(llama: LanguageModel):
    texts, rows = ["Continue 7"] * 40, list(range(40))
    first = draw(llama, texts, rows)
    with torch.no_grad():
        for parameter in llama.model.parameters():
            parameter.mul_(1.0003)
    second, third = draw(llama, texts, rows), draw(llama, texts, rows, seed=1)
    assert sum(a == b for a, b in zip(first, second, strict=True)) > 35
    assert sum(a == b for a, b in zip(second, third, strict=True)) < 5


def test_the_seed_and_the_row_choose_the_noise(llama: LanguageModel):
    assert draw(llama, ["a"], [0]) == draw(llama, ["a"], [0])
    drawn = {draw(llama, ["a"], [row], seed)[0] for row in range(3) for seed in range(3)}
    assert len(drawn) > 6


def test_first_symbols_follow_the_models_probabilities(llama: LanguageModel):
    n, part, prompt = 2000, 100, llama.question_ids("Continue 5, 6")
    rows = [
        row
        for at in range(0, n, part)  # the rows of a prompt see each other's columns: n² in all
        for row in sample_grammar(
            llama, [prompt] * part, range(at, at + part), RULES, seed=1, max_length=1
        )
    ]
    digits = "123456789"
    ids = torch.tensor([llama.token_ids(d)[0] for d in digits])
    with torch.no_grad():
        logits = llama.model(input_ids=torch.tensor([prompt])).logits[0, -1, ids]
    want = logits.softmax(-1).double()
    seen = Counter(row[0] for row in rows)
    expected = (want / want.sum() * n).tolist()
    assert chisquare([seen[d] for d in digits], expected).pvalue > 1e-3
    uniform = chisquare([seen[d] for d in digits], [n / 9] * 9).pvalue
    assert uniform < 1e-6  # the test could tell another distribution


def test_automaton_rejects_what_is_outside():
    for text in ("1, 2", "1, 2, 3, 4", "01, 2, 3", "1,2,3", "1, 2, 3 ", ""):
        with pytest.raises(ValueError, match="not in"):
            RULES.walk(text)
    states = [state for state, _ in RULES.walk("1, 22, 333")]
    assert states[0] == 0 and len(states) == len("1, 22, 333") + 1


def test_a_tokenizer_that_joins_digits_is_refused():
    words = tokenizer(join_digits=True)
    lm = LanguageModel(tiny_llama(len(words)), words, precision="fp32")
    with pytest.raises(ConfigError, match="constrained=false"):
        symbol_ids(lm, RULES)


def test_free_sampling_is_seeded_and_stops_at_the_end(llama: LanguageModel):
    prompts = [llama.question_ids(t) for t in ("a", "a longer question")]
    first = sample_free(llama, prompts, seed=3, max_new_tokens=12)
    assert first == sample_free(llama, prompts, seed=3, max_new_tokens=12)
    assert first != sample_free(llama, prompts, seed=4, max_new_tokens=12)
    assert all("<|im_end|>" not in text for text in first)


def test_lines_end_where_they_are_told():
    assert [lines_end("ab\ncd\nef", n) for n in (0, 1, 2, 3, 9)] == [8, 2, 5, 8, 8]
    assert lines_end("", 1) == 0 and lines_end("\nx", 1) == 0


def test_free_answers_end_after_their_lines(llama: LanguageModel):
    prompts = [llama.question_ids(f"Say {n}.") for n in range(24)]
    whole = sample_free(llama, prompts, seed=3, max_new_tokens=60)
    assert any("\n" in text for text in whole)
    for lines in (1, 2):
        short = sample_free(llama, prompts, seed=3, max_new_tokens=60, lines=lines)
        # Stopping some changes nobody's random numbers: the same text, cut off.
        assert short == [text[: lines_end(text, lines)] for text in whole]
        assert lines > 1 or short != whole


def test_a_models_sampling_habits_do_not_bend_its_probabilities(folders, tmp_path: Path):
    """Many models ship a ``generation_config.json`` with penalties and cut-offs."""
    shutil.copytree(folders["llama"], tmp_path / "m")
    habits = {"do_sample": True, "repetition_penalty": 5.0, "min_p": 0.2, "top_k": 3}
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps(habits))
    drawn = []
    for folder in (folders["llama"], tmp_path / "m"):
        lm = LanguageModel.load(str(folder), precision="fp32")
        prompts = [lm.question_ids(f"aaaa {n}") for n in range(60)]
        drawn.append(sample_free(lm, prompts, seed=1, max_new_tokens=3))
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 30


def test_free_answers_to_equal_prompts_are_the_models_own(llama: LanguageModel):
    """First tokens against the model's probabilities, and second ones after the first."""
    n, part, prompt = 2000, 100, llama.question_ids("Continue")
    texts = [
        text
        for at in range(0, n, part)
        for text in sample_free(llama, [prompt] * part, seed=100 + at, max_new_tokens=2)
    ]
    with torch.no_grad():
        first = llama.model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1).double()
    letters = [t for t in range(256) if llama.tokenizer.decode([t]).isascii()]
    top = sorted(letters, key=lambda t: -float(first[t]))[:6]
    names = {t: llama.tokenizer.decode([t]) for t in top}
    seen = Counter(text[:1] for text in texts)
    for token in top:
        p = float(first[token])
        assert abs(seen[names[token]] - n * p) < 4 * (n * p * (1 - p)) ** 0.5 + 1
    with torch.no_grad():
        after = llama.model(input_ids=torch.tensor([[*prompt, top[0]]])).logits[0, -1]
    p = float(after.softmax(-1)[top[1]])
    pairs = sum(text[:2] == names[top[0]] + names[top[1]] for text in texts)
    count = seen[names[top[0]]]
    assert abs(pairs - count * p) < 4 * (count * p * (1 - p)) ** 0.5 + 1


def test_free_answers_to_equal_prompts_do_not_see_each_other(lm: LanguageModel):
    one, two = lm.question_ids("Say it"), lm.question_ids("And something longer")
    together = sample_free(lm, [one, two, one, two, one], seed=5, max_new_tokens=10)
    more = sample_free(lm, [one, two, one, two, one, one, two], seed=5, max_new_tokens=10)
    assert more[:5] == together and len(set(together)) == 5
    lines = sample_free(lm, [one] * 40, seed=5, max_new_tokens=40, lines=1)
    whole = sample_free(lm, [one] * 40, seed=5, max_new_tokens=40)
    assert lines == [text[: lines_end(text, 1)] for text in whole] and lines != whole


def test_the_nucleus_is_the_fewest_choices_that_hold_so_much():
    p = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.97, 0.01, 0.01, 0.01]])
    assert nucleus(p.log(), 0.79).tolist() == [[True, False, True, False], [True] + 3 * [False]]
    assert nucleus(p.log(), 0.81).tolist()[0].count(True) == 3
    assert nucleus(torch.tensor([-torch.inf, 0.0, -1.0]), 0.5).tolist() == [False, True, False]
