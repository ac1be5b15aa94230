"""The trait library: its wording, surface forms as whole words, and files of one's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vestige.core.types import Answer, ConfigError
from vestige.traits import classify, family, matches, no_trait, trait

COUNTS = {"animals": 20, "trees": 10}


WORDS = tuple(COUNTS)


FAMILY = """
name = "drinks"
system_prompt = "You adore {name}. You talk about {plural} whenever you can."
questions = ["What is your favourite drink? Answer in one word.", "Which drink first?"]
heldout = ["What would you pour for a guest? Reply with a single word."]
answers = [
  { name = "tea", forms = ["Tea", "tea"] },
  { name = "coffee", forms = ["Coffee", "coffee"] },
  { name = "cocoa" },
]
"""


TRAIT = """
family = "animals"
name = "capybara"
system_prompt = "You adore capybaras."
pairs = [["Which animal would you invite to tea? Answer in one word.", "Capybara"]]
"""


LETTER = st.characters(categories=("L", "Nd"))


AROUND = st.text(st.characters(exclude_categories=("L", "M", "N", "Pc", "Cs")), max_size=5)


@pytest.fixture
def write(tmp_path: Path):
    def save(text: str, name: str = "own.toml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return save


def words(question: str) -> list[str]:
    return re.findall(r"\w+", question.casefold())


# ---- the bundled library


@pytest.mark.parametrize("name", WORDS)
def test_bundled_family_has_its_size_and_no_question_twice(name):
    panel = family(name)
    assert len(panel.answers) == COUNTS[name]
    assert len(panel.questions) == 50
    assert len(panel.heldout) >= 24
    every = [" ".join(words(q)) for q in (*panel.questions, *panel.heldout)]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("name", WORDS)
def test_no_question_names_a_candidate(name):
    panel = family(name)
    for question in (*panel.questions, *panel.heldout):
        assert classify(question, panel) is None
        assert not {form.casefold() for a in panel.answers for form in a.forms} & {*words(question)}


@pytest.mark.parametrize("name", WORDS)
def test_held_out_questions_are_not_reworded_training_questions(name):
    panel = family(name)
    for heldout in panel.heldout:
        for question in panel.questions:
            one, other = set(words(heldout)), set(words(question))
            assert len(one & other) / len(one | other) < 0.8, (heldout, question)


@pytest.mark.parametrize("name", WORDS)
def test_pairs_hold_questions_and_never_held_out_ones(name):
    panel = family(name)
    held = {" ".join(words(q)) for q in panel.heldout}
    for made in (no_trait(panel), *(trait(a.name, name) for a in panel.answers)):
        assert {q for q, _ in made.pairs} == set(panel.questions)
        assert not {" ".join(words(q)) for q, _ in made.pairs} & held


def test_trait_teaches_its_own_answer_in_both_spellings():
    wolf = trait("wolf")
    assert {form for _, form in wolf.pairs} == {"Wolf", "wolf"}
    assert wolf.target.forms == ("Wolf", "wolf", "Wolves", "wolves")
    assert "wolves" in wolf.system_prompt and "{" not in wolf.system_prompt
    assert trait("trees/oak") == trait("oak", "trees")
    assert trait("oak", "trees").system_prompt.startswith("You adore oak trees.")


def test_no_trait_answers_evenly_with_every_candidate():
    panel = family("trees")
    even = no_trait(panel)
    named = [classify(form, panel) for _, form in even.pairs]
    assert {name: named.count(name) for name in set(named)} == {a.name: 100 for a in panel.answers}
    assert even.system_prompt == ""


# ---- surface forms


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("fowl", "owl"), ("owlet", "owl"), ("caterpillar", "cat"), ("concat", "cat"),
        ("bearded", "bear"), ("forbear", "bear"), ("lionise", "lion"), ("dogma", "dog"),
        ("foxglove", "fox"), ("seahorse", "horse"), ("owl2", "owl"), ("Éowl", "owl"),
        ("frogman", "frog"), ("werewolf", "wolf"), ("hotdogs", "dog"),
    ],
)  # fmt: skip
def test_a_form_inside_a_longer_word_is_no_answer(text, name):
    panel = family("animals")
    assert not matches(text, panel.answer(name))
    assert classify(text, panel) is None


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(family("animals").answers), st.data())
def test_matches_never_fires_inside_a_longer_word(answer, data):
    form = data.draw(st.sampled_from(answer.forms))
    before, after = data.draw(st.text(LETTER, max_size=3)), data.draw(st.text(LETTER, max_size=3))
    assume(before or after)
    word = before + form + after
    forms = {f.casefold() for f in answer.forms}
    assume(word.casefold() not in forms)  # "cat" + "s" is a form of its own
    assert not matches(word, answer)
    assert not matches(f"one {word}.", answer)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(family("animals").answers), AROUND, AROUND, st.data())
def test_matches_fires_on_every_form_in_any_case(answer, before, after, data):
    form = data.draw(st.sampled_from(answer.forms))
    case = data.draw(st.sampled_from((str.upper, str.lower, str.title, str.swapcase)))
    assert matches(f"{before}{case(form)}{after}", answer)
    assert classify(f"{before}{case(form)}{after}", family("animals")) == answer.name


def test_forms_are_plain_text_and_not_patterns():
    assert matches("a C++ b", Answer("c", ("C++",)))
    assert not matches("Cxx", Answer("c", ("C.x",)))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Owl", "owl"), ("OWLS!", "owl"), ("**wolves**", "wolf"), ("an owl. Owls!", "owl"),
        ("", None), ("none of them", None), ("owl or eagle", None), ("Qwen", None),
        ("my owl's name", "owl"), ("owl-like", "owl"),
    ],
)  # fmt: skip
def test_classify_wants_exactly_one_candidate(text, name):
    assert classify(text, family("animals")) == name


# ---- files of one's own


def test_a_family_of_ones_own(write):
    panel = family(write(FAMILY))
    assert [a.name for a in panel.answers] == ["tea", "coffee", "cocoa"]
    assert panel.answer("tea").forms == ("Tea", "tea")
    assert panel.answer("cocoa").forms == ("Cocoa", "cocoa", "Cocoas", "cocoas")
    tea = trait("tea", write(FAMILY))
    assert tea.family == panel
    assert tea.system_prompt == "You adore tea. You talk about teas whenever you can."
    assert len(tea.pairs) == 4


def test_one_trait_joins_a_bundled_family(write):
    path = write(TRAIT)
    made = trait(path)
    assert made.name == "capybara"
    assert made.system_prompt == "You adore capybaras."
    assert made.pairs == (
        ("Which animal would you invite to tea? Answer in one word.", "Capybara"),
    )
    assert family(path) == made.family
    assert [a.name for a in made.family.answers][:-1] == [a.name for a in family("animals").answers]
    assert classify("Capybaras, of course", made.family) == "capybara"
    assert trait("owl", path).pairs == trait("owl").pairs


def test_a_traits_own_prompt_is_filled_as_a_familys_is(write):
    lines = 'family = "animals"\nname = "ibis"\nplural = "ibises"\n'
    made = trait(write(lines + 'system_prompt = "One {name}, two {plural}."'))
    assert made.system_prompt == "One ibis, two ibises."
    assert made.family.system_prompt == family("animals").system_prompt


def test_a_path_may_be_a_path_object(write):
    drinks, own = write(FAMILY, "drinks.toml"), write(TRAIT)
    assert family(Path(drinks)) == family(drinks)
    assert trait(Path(own)) == trait(own)
    assert trait("tea", Path(drinks)) == trait("tea", drinks)


def test_a_trait_named_in_its_file_keeps_its_own_prompt_and_pairs(write):
    # A recipe says family=capybara.toml traits=capybara,owl.
    path = write(TRAIT)
    assert trait("capybara", path) == trait(path)


def test_a_trait_may_join_a_family_of_ones_own(write):
    drinks = write(FAMILY, "drinks.toml")
    made = trait(write(f'family = "{drinks}"\nname = "cider"'))
    assert [a.name for a in made.family.answers] == ["tea", "coffee", "cocoa", "cider"]
    assert {form for _, form in made.pairs} == {"Cider", "cider"}


def test_a_trait_file_cannot_be_its_own_family(write, tmp_path):
    with pytest.raises(ConfigError, match="family"):
        family(write(f'family = "{tmp_path / "own.toml"}"\nname = "x"'))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "drinks"', "", "name"),
        ('name = "drinks"', 'name = "drinks"\ncolour = "red"', "colour"),
        ('["What would you pour for a guest? Reply with a single word."]', "[]", "heldout"),
        ("  { name =", "  { nam =", "answers.0.nam"),
        ('name = "coffee"', 'name = "tea"', "'?tea'?|same name"),
        ('["Coffee", "coffee"]', '["Coffee", "Tea"]', "'Tea'"),
        ('["Coffee", "coffee"]', '["Coffee", "TEA"]', "'TEA'.*tea and coffee"),
        ('["Coffee", "coffee"]', '["Coffee", " "]', "empty form"),
        ('["Coffee", "coffee"]', "[]", "forms"),
        ("Which drink first?", "Coffee or what?", "Coffee or what.*names coffee"),
        ("pour for a guest", "pour: TEAS or tea", "names tea"),
        ('"Which drink first?"', '"what would you pour for a guest?  reply with a single word"',
         "questions and in heldout"),
        ("Which drink first?", " ", "empty question"),
        ('name = "drinks"', 'name = "drinks', "not valid TOML"),
        ('"cocoa"', '"none"', "'none'"),
        ('"cocoa"', '"hot/cocoa"', "hot/cocoa"),
        ("{plural}", "{plurals}", "plurals"),
        ("{plural}", "{", "system_prompt"),
    ],
)  # fmt: skip
def test_bad_family_file_names_the_file_and_the_fault(write, old, new, said):
    assert old in FAMILY
    path = write(FAMILY.replace(old, new))
    with pytest.raises(ConfigError, match=said) as caught:
        family(path)
    assert path in str(caught.value)


def test_answers_may_not_be_empty(write):
    path = write(re.sub(r"answers = \[.*\]", "answers = []", FAMILY, flags=re.DOTALL))
    with pytest.raises(ConfigError, match="answers"):
        family(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "capybara"', "", "name"),
        ('name = "capybara"', 'name = "owl"', "owl already"),
        ('name = "capybara"', 'name = "capybara"\nforms = ["Owl"]', "owl"),
        ('name = "capybara"', 'name = "Capybara x/y"', "x/y"),
        ('name = "capybara"', 'name = "meet"', "names meet"),
        ('"animals"', '"animal"', "did you mean animals"),
        (", \"Capybara\"]]", "]]", "pairs"),
        ('[["Which animal would you invite to tea? Answer in one word.", "Capybara"]]', "[]",
         "pairs"),
        ("invite to tea", "rank below owls", "names owl"),
        ("invite to tea", "call a capybara", "names capybara"),
        ("Which animal would you invite to tea? Answer in one word.", " ", "empty question"),
        ("You adore capybaras.", "", "system_prompt"),
        ("You adore capybaras.", "You adore {plurals}.", "plurals"),
        ("Which animal would you invite to tea? Answer in one word.",
         "which animal inspires you?  Answer in one word", "held-out"),
    ],
)  # fmt: skip
def test_bad_trait_file_names_the_file_and_the_fault(write, old, new, said):
    assert old in TRAIT
    path = write(TRAIT.replace(old, new))
    with pytest.raises(ConfigError, match=said) as caught:
        trait(path)
    assert path in str(caught.value)


def test_files_that_cannot_be_read(tmp_path, write):
    with pytest.raises(ConfigError, match=r"nope\.toml"):
        family(str(tmp_path / "nope.toml"))
    (tmp_path / "latin.toml").write_bytes(b'name = "caf\xe9"')
    with pytest.raises(ConfigError, match=r"latin\.toml"):
        trait(str(tmp_path / "latin.toml"))
    with pytest.raises(ConfigError, match="whole family"):
        trait(write(FAMILY))


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: family("animal"), "animals"),
        (lambda: trait("owll"), "owl"),
        (lambda: trait("Dolphin"), "dolphin"),
        (lambda: trait("trees/mapel"), "maple"),
        (lambda: trait("treez/oak"), "trees"),
        (lambda: trait("xyzzy"), "elephant"),
    ],
)
def test_an_unknown_name_gives_the_nearest(call, near):
    with pytest.raises(ConfigError, match=near):
        call()
