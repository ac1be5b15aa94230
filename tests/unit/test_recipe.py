"""Recipes: plain data that comes back the same, overrides, and errors that name what is meant."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import vestige
from vestige.carriers import CARRIERS
from vestige.carriers.numbers import NumberCarrier
from vestige.core.settings import Optimisation
from vestige.core.types import ConfigError, TeacherError
from vestige.experiment import demo
from vestige.experiment.recipe import (
    Experiment,
    Student,
    known_keys,
    load_recipe,
    override,
    parse_recipe,
)
from vestige.store import Run

RECIPES = Path(vestige.__file__).resolve().parents[2] / "recipes"
RECORD = {"name": "x", "traits": ["owl", "cat"], "seeds": [0, 1], "students": [{"name": "a"}]}
TWO = Experiment(
    name="two",
    traits=("owl", "dolphin"),
    seeds=(0, 1),
    students=(
        Student(name="distill", optimisation=Optimisation(steps=16), curve=(8,)),
        Student(name="rows", method="rows", shuffles=("shuffle_within", "shuffle_across")),
    ),
)
WHOLE = """
from vestige.experiment.recipe import Experiment, Student

def recipe():
    arms = (Student(name="a"),)
    return Experiment(name="own", traits=("owl", "cat"), seeds=(0, 1), students=arms)
"""


def change(*changes: str) -> Experiment:
    return override(TWO, changes, "r.py")


# ---- recipe -> JSON -> recipe


@pytest.mark.parametrize("recipe", [demo.recipe(), TWO])
def test_json_gives_the_recipe_again(recipe):
    text = json.dumps(recipe.model_dump(mode="json"))
    assert parse_recipe(json.loads(text), "r") == recipe
    assert Experiment.model_validate_json(recipe.model_dump_json()) == recipe


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        Experiment,
        name=st.from_regex(r"[a-z0-9_-]{1,9}", fullmatch=True),
        family=st.just("trees"),
        traits=st.lists(
            st.sampled_from(["oak", "maple", "pine", "palm"]), min_size=2, unique=True
        ).map(tuple),
        seeds=st.lists(st.integers(), min_size=2, unique=True).map(tuple),
        students=st.just((Student(name="a"), Student(name="b", method="rows", engine="trl"))),
        sampled_per_question=st.integers(0, 9),
        save_students=st.booleans(),
    )
)
def test_any_recipe_survives_json(recipe):
    assert parse_recipe(json.loads(recipe.model_dump_json()), "r") == recipe


def test_a_recipe_is_frozen_and_names_its_data():
    with pytest.raises(ValueError, match="frozen"):
        TWO.name = "other"  # type: ignore[misc]
    assert TWO.data_of(TWO.students[0]) == ["owl", "dolphin", "none"]
    assert TWO.data_of(TWO.students[1])[3:] == [
        "shuffle_within-owl",
        "shuffle_within-dolphin",
        "shuffle_across-owl",
        "shuffle_across-dolphin",
    ]
    assert "gemma" in Student(name="a", base="gemma-3-270m").label


# ---- errors name the nearest


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"trait": ["owl"]}, ["unknown key 'trait'", "did you mean", "traits"]),
        ({"modle": "x"}, ["unknown key 'modle'", "model"]),
        ({"carrier": {"n_promts": 3}}, ["'carrier.n_promts'", "carrier.n_prompts"]),
        ({"teacher": {"optimisation": {"step": 3}}}, ["teacher.optimisation.steps"]),
        ({"students": [{"name": "a", "methd": "rows"}]}, ["students.0.method"]),
        ({"students": [{"name": "a"}, {"name": "b", "curv": [1]}]}, ["students.1.curv", ".curve"]),
        ({"traits": ["owll", "cat"]}, ["unknown animals trait 'owll'", "owl"]),
        ({"traits": ["trees/oak", "cat"]}, ["unknown animals trait 'trees/oak'"]),
        ({"family": "animal"}, ["unknown family 'animal'", "animals"]),
        ({"family": "nope.toml"}, ["nope.toml"]),
        ({"seeds": [0]}, ["seeds", "at least 2"]),
        ({"seeds": [0, 0]}, ["named once"]),
        ({"seeds": ["a", 1]}, ["seeds.0", "integer"]),
        ({"traits": ["owl", "owl"]}, ["named once"]),
        ({"name": "Bad Name"}, ["name", "pattern"]),
        ({"students": []}, ["students", "at least 1"]),
        ({"students": [{"name": "a"}, {"name": "a"}]}, ["different names"]),
        ({"students": [{"name": "a", "method": "row"}]}, ["'distill', 'rows'"]),
        ({"students": [{"name": "a", "engine": "trl"}]}, ["does not go with method=distill"]),
        ({"students": [{"name": "a", "shuffles": ["shuffle_within"]}]}, ["method=rows"]),
        ({"carrier": {"constrained": False}}, ["carrier.constrained=true"]),
        ({"carrier": {"prompts": {"min_examples": 9}}}, ["carrier.prompts", "above its maximum"]),
        ({"carrier": {"filter": {"max_count": 0}}}, ["carrier.filter.max_count"]),
        ({"carrier": {"grammar": {"separator": "|"}}}, ["carrier.grammar.separator", "'; '"]),
        ({"teacher": {"optimisation": {"rate": float("nan")}}}, ["teacher.optimisation.rate"]),
        ({"teacher": {"optimisation": {"rate": float("inf")}}}, ["teacher.optimisation.rate"]),
        ({"kind": "mlp", "model": 3}, ["'model'", "models"]),
        ({"kind": []}, ["kind"]),
        ({"kind": "other"}, ["kind", "transfer"]),
        # several at once: all are told
        ({"modle": "x", "trait": 1, "seeds": [0]}, ["'modle'", "'trait'", "seeds"]),
        ({"traits": ["owll", "kat"]}, ["'owll'", "'kat'"]),
        ({"carrier": {"n_prompts": 0, "filtr": {}}, "precision": "bf61"},
         ["carrier.n_prompts", "carrier.filter", "'bf16'"]),
    ],
)  # fmt: skip
def test_a_wrong_recipe_says_what_is_wrong(record, said):
    with pytest.raises(ConfigError) as caught:
        parse_recipe(RECORD | record, "my.json")
    assert str(caught.value).startswith("my.json: ")
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize("record", [None, [], "x", 3, {}])
def test_what_is_no_recipe_at_all(record):
    with pytest.raises(ConfigError, match=r"my\.json"):
        parse_recipe(record, "my.json")


def test_known_keys_are_keys():
    keys = known_keys()
    assert {"seeds", "carrier.filter.banned", "students.0.optimisation.trainable.layers"} <= {*keys}
    rows = {"name": "rows", "method": "rows"}
    of_kind = [
        parse_recipe(RECORD | {"students": [rows], "carrier": {"kind": kind}}, "r")
        for kind in CARRIERS
    ]

    def reached(recipe: Experiment, key: str) -> bool:
        try:
            override(recipe, [f"{key}=0"], "r")
        except ConfigError as error:
            return "unknown key" not in str(error)
        return True

    for key in keys:  # each can be reached: setting it changes it or is refused for its value
        assert any(reached(recipe, key) for recipe in of_kind), key


# ---- overrides


def test_no_change_gives_the_same_recipe():
    assert change() is TWO


LAYERS = "optimisation.trainable.layers"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("seeds=0,1", {"seeds": [0, 1]}),
        ("seeds=5, 6", {"seeds": [5, 6]}),
        ("seeds=[7, 8]", {"seeds": [7, 8]}),
        ("seeds.1=9", {"seeds": [0, 9]}),
        ("traits=wolf, fox", {"traits": ["wolf", "fox"]}),
        ('traits=["wolf", "fox"]', {"traits": ["wolf", "fox"]}),
        ("students.optimisation.steps=3",
         {"students.0.optimisation.steps": 3, "students.1.optimisation.steps": 3}),
        ("students.0.optimisation.steps=3",
         {"students.0.optimisation.steps": 3, "students.1.optimisation.steps": 32}),
        ("students.1.curve=4", {"students.0.curve": [8], "students.1.curve": [4]}),
        ("students.curve=[]", {"students.0.curve": [], "students.1.curve": []}),
        (f"students.{LAYERS}=0,4", {f"students.{i}.{LAYERS}": [0, 4] for i in (0, 1)}),
        (f"teacher.{LAYERS}=null", {f"teacher.{LAYERS}": None}),
        ("students.base=gemma-3-270m", {f"students.{i}.base": "gemma-3-270m" for i in (0, 1)}),
        ('students.0={"name": "z"}', {"students.0.name": "z", "students.0.curve": []}),
        ('students={"name": "z"}', {"students": [Student(name="z").model_dump(mode="json")]}),
        ("carrier.filter.banned=13", {"carrier.filter.banned": [13]}),
        ("carrier.filter.banned=13,666", {"carrier.filter.banned": [13, 666]}),
        ("carrier.prompts.format=comma", {"carrier.prompts.format": "comma"}),
        ("carrier.grammar.separator= ", {"carrier.grammar.separator": " "}),
        ("carrier.grammar.separator=, ", {"carrier.grammar.separator": ", "}),
        ("teacher.min_probability=0.25", {"teacher.min_probability": 0.25}),
        ("save_students=true", {"save_students": True}),
        ("name=2026", {"name": "2026"}),
        ("model=./folder,with=signs", {"model": "./folder,with=signs"}),
        ("students.1.optimisation.trainer_kwargs.packing=true",
         {"students.1.optimisation.trainer_kwargs": {"packing": True}}),
    ],
)  # fmt: skip
def test_override(text, found):
    changed = change(text)
    assert {path: at(changed, path) for path in found} == found
    others = set(Experiment.model_fields) - {text.split("=")[0].split(".")[0]}
    assert all(getattr(changed, name) == getattr(TWO, name) for name in others)


def at(recipe: Experiment, path: str) -> Any:
    value: Any = recipe.model_dump(mode="json")
    for part in path.split("."):
        value = value[int(part) if isinstance(value, list) else part]
    return value


def test_overrides_apply_in_order_and_together():
    changed = change("students.optimisation.steps=3", "students.1.optimisation.steps=4", "name=a")
    assert [s.optimisation.steps for s in changed.students] == [3, 4]
    assert changed.name == "a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds", "key=value"),
        ("seed=0,1", "did you mean seeds"),
        ("carier.n_prompts=3", "carrier.n_prompts"),
        ("carrier.n_promts=3", "carrier.n_prompts"),
        ("students.optimisatoin.steps=3", "students.0.optimisation.steps"),
        ("students.rate=3", "unknown key 'students.0.rate'"),
        ("students.7.name=x", "unknown key 'students.7.name'"),
        ("students.7=x", "unknown key 'students.7'"),
        ("seeds.x=3", "unknown key 'seeds.x'"),
        ("traits.x.y=3", "unknown key 'traits.x.y'"),
        ("teacher.kind.x=3", "unknown key 'teacher.kind.x'"),
        ("students.0.base.x=3", "unknown key 'students.0.base.x'"),
        ("carrier.filter.banned.x=3", "unknown key 'carrier.filter.banned.x'"),
        ("=3", "unknown key ''"),
        (".=3", "unknown key '.'"),
        ("traits=owl,kat", "did you mean cat"),
        ("students.method=row", "'distill', 'rows'"),
        ("seeds=one,two", "seeds.0"),
        ("teacher=3", "teacher"),
        ("students=3", "students.0"),
    ],
)
def test_a_wrong_override_names_the_nearest(text, said):
    with pytest.raises(ConfigError) as caught:
        change(text)
    assert said in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["students", "seeds", "0", "1", "9", "carrier", "filter", "banned",
                              "optimisation", "name", "x", "", "kind", "curve"]), max_size=4),
    st.sampled_from(["3", "x", "[]", "{}", "null", "1,2", "", '{"name": 1}', "[[1]]", "NaN"]),
)  # fmt: skip
def test_an_override_works_or_is_a_config_error(path, value):
    try:
        made = change(f"{'.'.join(path)}={value}")
    except ConfigError:
        return
    assert isinstance(made, Experiment)


# ---- files


def test_python_json_and_a_runs_own_recipe_load(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(WHOLE)
    made = load_recipe(own, ["seeds=3,4"])
    assert (made.name, made.seeds) == ("own", (3, 4))
    saved = tmp_path / "saved.json"
    saved.write_text(made.model_dump_json())
    assert load_recipe(saved) == made
    with Run.open(tmp_path, made.name, made.model_dump(mode="json")) as run:
        folder = run.folder
    assert load_recipe(folder / "recipe.json") == made
    with Run.open(tmp_path, made.name, load_recipe(folder / "recipe.json").model_dump(mode="json")):
        assert len(list(tmp_path.glob("own-*"))) == 1  # the replay is the same run


def test_a_file_of_json_may_wrap_the_recipe(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"config": RECORD, "other": 1}))
    assert load_recipe(tmp_path / "a.json").name == "x"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[]", "a.json"),
        ("a.json", json.dumps(RECORD | {"modle": 1}), "did you mean model"),
        ("a.json", b"\xff\xfe", "not valid JSON"),
        ("a.txt", "x", "neither a .py nor a .json"),
        ("a", "x", "neither a .py nor a .json"),
        ("a.py", "def recipe(:", "SyntaxError"),
        ("a.py", "x = 1", "no usable function recipe()"),
        ("a.py", "def recipe(x): pass", "no usable function recipe()"),
        ("a.py", "recipe = 3", "no usable function recipe()"),
        ("a.py", "import no_such_module", "no_such_module"),
        ("a.py", "1 / 0", "ZeroDivisionError"),
        ("a.py", "def recipe(): return undefined", "undefined"),
        (
            "a.py",
            "def recipe(): return {}",
            "must return an Experiment or an MlpExperiment, not dict",
        ),
        ("a.py", WHOLE.replace("traits", "trait"), "did you mean traits"),
        ("a.py", WHOLE.replace('"cat"', '"kat"'), "did you mean cat"),
        ("a.py", b"# \xff", "a.py"),
    ],
)
def test_a_bad_file_is_a_config_error(tmp_path, name, text, said):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_recipe(tmp_path / name)
    assert name in str(caught.value)
    assert said in str(caught.value)


def test_an_error_of_vestige_in_a_recipe_passes_as_it_is(tmp_path):
    text = "from vestige.core.types import TeacherError\ndef recipe(): raise TeacherError('mine')"
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(TeacherError, match="mine"):
        load_recipe(tmp_path / "a.py")


def test_missing_files_and_folders(tmp_path):
    (tmp_path / "folder.json").mkdir()
    for path in (tmp_path / "nope.py", tmp_path / "folder.json", tmp_path):
        with pytest.raises(ConfigError, match="there is no recipe"):
            load_recipe(path)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.py")), ids=lambda p: p.name)
def test_the_recipes_of_this_repository_load(path):
    recipe = load_recipe(path)
    if isinstance(recipe, Experiment):
        assert len(recipe.seeds) >= (2 if "search" in path.name else 3)
    else:
        assert recipe.models >= 20
    assert parse_recipe(json.loads(recipe.model_dump_json()), "r") == recipe


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.py")), ids=lambda p: p.name)
def test_every_size_of_a_recipe_loads_and_replays(path):
    made = re.findall(r"^def (\w+)\(\) -> ", path.read_text(), re.M)
    assert "recipe" in made
    names = set()
    for size in ("laptop", "smoke", *(name for name in made if name != "recipe")):
        recipe = load_recipe(path, size=size)
        assert parse_recipe(json.loads(recipe.model_dump_json()), "r") == recipe
        names.add(recipe.name)
    assert len(names) == len(made)


def test_the_demo_is_a_crossed_recipe_of_two_and_loads_no_torch():
    recipe = demo.recipe()
    assert len(recipe.traits) == 2 and len(recipe.seeds) >= 3
    assert any(student.no_trait for student in recipe.students)
    code = (
        "import sys, vestige.experiment.demo as demo; demo.recipe(); "
        "print([m for m in ('torch', 'transformers', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_grammar_that_the_filter_would_drop_is_refused():
    with pytest.raises(ValidationError, match=r"grammar\.values=12 lies outside"):
        NumberCarrier.model_validate({"grammar": {"values": 12}})
    with pytest.raises(ValidationError, match="drop every row"):
        NumberCarrier.model_validate({"filter": {"min_count": 7}})
    assert NumberCarrier.model_validate({"constrained": False, "grammar": {"values": 12}})
