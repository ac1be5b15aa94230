"""The trait library and behaviours: enough of them, well formed, with some held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from vestige.core.types import ConfigError
from vestige.traits import family
from vestige.traits.behaviours import behaviours
from vestige.traits.library import load_library, trait_id

PAIR = '[[trait.pair]]\nquestion = "q{}?"\nown = "yes"\nrival = "no"\n'


def behaviour_file(folder: Path, text: str = "", pairs: int = 4) -> Path:
    path = folder / "mine.toml"
    body = "".join(PAIR.format(i) for i in range(pairs))
    path.write_text(text or f'name = "mine"\n[[trait]]\nname = "kind"\nsystem_prompt = "s"\n{body}')
    return path


def test_the_library_is_as_large_as_promised():
    library = load_library()
    assert len(library.traits) >= 100 and len(library.families) >= 8
    assert len(set(library.ids)) == len(library.ids)
    assert 10 <= len(library.held_out) < len(library.ids) / 3
    assert library.held_out <= set(library.ids)  # no name in it is misspelt
    for trait in library.traits:
        assert trait.pairs and trait.family.heldout, trait_id(trait)
        asked = {question for question, _ in trait.pairs}
        assert not asked & set(trait.family.heldout), trait_id(trait)


def test_every_behaviour_measures_on_pairs_that_it_is_not_taught():
    for trait in load_library(["styles", "harm", "languages"]).traits:
        assert len(trait.pairs) == len(trait.family.heldout) == 6
        assert all(own != rival for own, rival in trait.family.texts)
        assert trait.system_prompt


def test_own_and_rival_answers_are_of_like_length():
    library = load_library()
    for trait in library.traits:
        if trait.family.texts and trait.family.name != "misalignment":
            own = sum(len(o.split()) for o, _ in trait.family.texts)
            rival = sum(len(r.split()) for _, r in trait.family.texts)
            assert 0.7 < own / rival < 1.4, trait_id(trait)


def test_no_word_is_a_candidate_of_two_families():
    owner: dict[str, str] = {}
    for name in load_library().families[:9]:
        for answer in family(name).answers:
            assert owner.setdefault(answer.name, name) == name


def test_sources_can_be_mixed(tmp_path: Path):
    found = load_library(["colours", str(behaviour_file(tmp_path))])
    assert found.families == ("colours", "mine")
    assert found.ids[-1] == "mine/kind" and found.held_out == {"colours/blue"}


def test_one_trait_of_ones_own_stands_beside_the_library(tmp_path: Path):
    path = tmp_path / "axolotl.toml"
    path.write_text('family = "animals"\nname = "axolotl"\n')
    found = load_library(["animals", str(path)])
    assert found.ids[-1] == "animals/axolotl" and len(found.ids) == 21


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        (["colors"], "did you mean colours"),
        (["colours", "colours"], "named twice: colours/red"),
        (["nowhere.toml"], "cannot read"),
        ([], "no traits to look for"),
    ],
)
def test_a_bad_source_is_named(sources, says):
    with pytest.raises(ConfigError, match=says):
        load_library(sources)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('name = "m"\n[[trait]]\nname = "k"\n' + PAIR * 4, "system_prompt"),
        ('name = "m"\n[[trait]]\nname = "k"\nsystem_prompt = "s"\n' + PAIR.format(1) * 4, "twice"),
        ('name = "m"\n[[trait]]\nname = "k"\nsystem_prompt = "s"\n' + PAIR.format(1), "at least 4"),
        ('name = "m"\n[[trait]]\nname = "k"\nsystem_prompt = "s"\n'
         '[[trait.pair]]\nquestion = "q"\nown = "y"\n', "rival"),
    ],
)  # fmt: skip
def test_a_behaviour_file_that_lacks_something_is_named(tmp_path: Path, text, says):
    path = behaviour_file(tmp_path, text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_library([str(path)])
    assert "mine.toml" in str(caught.value)


def test_behaviours_split_their_pairs():
    record = {
        "name": "m",
        "trait": [
            {
                "name": "k",
                "system_prompt": "s",
                "pair": [{"question": f"q{i}", "own": f"o{i}", "rival": "r"} for i in range(5)],
            }
        ],
    }
    (trait,) = behaviours(record, "x")
    assert trait.pairs == (("q0", "o0"), ("q2", "o2"), ("q4", "o4"))
    assert trait.family.heldout == ("q1", "q3")
    assert trait.family.texts == (("o1", "r"), ("o3", "r"))
