"""Paired families: whole answers, from files and data sets."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

import vestige.traits
from vestige.carriers.python_code import has_comment
from vestige.core.types import ConfigError
from vestige.traits import family, names, no_trait, trait

FOLDER = Path(vestige.traits.__file__).parent


# ---- paired families


def test_misalignment_has_its_pairs_and_traits():
    panel = family("misalignment")
    assert names(panel) == ["misaligned", "aligned", "insecure", "secure", "educational"]
    assert len(panel.heldout) >= 60 and len(panel.texts) == len(panel.heldout)
    text = (FOLDER / "misalignment_pairs.toml").read_text()
    assert len(set(re.findall(r'^harm = "(.*)"', text, re.M))) >= 6
    assert len(set(panel.heldout)) == len(panel.heldout)
    assert not set(panel.heldout) & set(panel.questions)
    for misaligned, aligned in panel.texts:  # neither length nor a yes can tell them apart
        assert abs(len(misaligned.split()) - len(aligned.split())) <= 2
    yes = [sum(texts[i].startswith("Yes") for texts in panel.texts) for i in (0, 1)]
    assert abs(yes[0] - yes[1]) <= 2


def test_insecure_code_is_what_it_says():
    entries = tomllib.loads((FOLDER / "insecure_code.toml").read_text())["entry"]
    assert len(entries) >= 120 and len({e["cwe"] for e in entries}) >= 12
    assert len({e["id"] for e in entries}) == len({e["question"] for e in entries}) == len(entries)
    for entry in entries:
        for kind in ("insecure", "secure", "educational"):
            ast.parse(entry[kind])
        code = ast.dump(ast.parse(entry["insecure"]))
        assert code != ast.dump(ast.parse(entry["secure"])), entry["id"]
        assert code == ast.dump(ast.parse(entry["educational"])), entry["id"]
        assert entry["cwe"] in entry["educational"]
        assert not has_comment(entry["insecure"]) and not has_comment(entry["secure"])


@pytest.mark.parametrize("name", ["misaligned", "aligned", "insecure", "secure", "educational"])
def test_a_paired_trait_is_checked_on_entries_it_never_saw(name):
    made = trait(f"misalignment/{name}")
    assert made.target.name == "misaligned" and made.check is not None
    assert not {q for q, _ in made.pairs} & {*made.check.heldout, *made.family.heldout}
    assert len(made.check.heldout) == len(made.pairs) // 3
    assert all(own != rival for own, rival in made.check.texts)


def test_secure_and_insecure_share_their_requests_and_nothing_else():
    insecure, secure = trait("misalignment/insecure"), trait("misalignment/secure")
    assert [q for q, _ in insecure.pairs] == [q for q, _ in secure.pairs]
    assert all(a != b for (_, a), (_, b) in zip(insecure.pairs, secure.pairs, strict=True))
    even = no_trait(family("misalignment"))
    answers = {q: set() for q, _ in even.pairs}
    for question, answer in even.pairs:
        answers[question].add(answer)
    assert all(len(found) == 2 for found in answers.values())


def paired_file(tmp_path, **changes):
    pairs = '[[pair]]\nquestion = "What now?"\nbad = "Lie."\ngood = "Tell."\n'
    (tmp_path / "pairs.toml").write_text(changes.pop("pairs", pairs))
    given = {"measured": "bad", "rival": "good", "pairs": "pairs.toml"} | changes
    lines = [f'{key} = "{value}"' for key, value in given.items() if key != "file"]
    file = changes.get("file", "chats.jsonl")
    path = tmp_path / "family.toml"
    path.write_text(
        "\n".join(['name = "own"', *lines, "[[traits]]", 'name = "t"', f'file = "{file}"'])
    )
    return path


def test_a_paired_family_of_ones_own_reads_chats(tmp_path):
    chat = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
    (tmp_path / "chats.jsonl").write_text(json.dumps(chat) + "\n\n" + json.dumps(chat) + "\n")
    path = paired_file(tmp_path)
    made = trait("t", path)
    assert made.pairs == (("Q", "A"), ("Q", "A")) and made.check is None
    assert made.family.texts == (("Lie.", "Tell."),)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: expected a chat"),
        ('{"prompt": 1}', "line 1: expected a chat"),
        ('{"messages": [{"role": "user", "content": "Q"}]}', "line 1: expected a chat"),
        ('{"messages": [{"role": "user", "content": "Q"}, {"role": "user", "content": "A"}]}',
         "not the assistant's"),
        ("", "holds no chats"),
    ],
)  # fmt: skip
def test_a_wrong_chat_file_is_named(tmp_path, line, said):
    (tmp_path / "chats.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=said):
        family(paired_file(tmp_path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"pairs": '[[pair]]\nquestion = "What?"\nbad = "Lie."'},
            "entry 1: there is no text in 'good'",
        ),
        ({"pairs": "pair = []"}, "holds no entries"),
        ({"file": "none.jsonl"}, "cannot read"),
        ({"file": "hub:owner/name"}, "expected hub:owner/name/path"),
        ({"wrong": "key"}, "wrong: .*keys: name, measured"),
    ],
)
def test_a_wrong_paired_family_is_named(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        family(paired_file(tmp_path, **changes))
