"""Recipes: settings of an experiment, read from files and the command line.

What a recipe may hold is in ``settings``; a recipe's own file imports it from here.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from vestige.core.jsonl import read_text
from vestige.core.settings import Optimisation, Settings
from vestige.core.types import ConfigError, VestigeError, unknown_name
from vestige.experiment.settings import (
    Experiment,
    FreeForm,
    JudgeFilter,
    Student,
    TeacherSettings,
)
from vestige.store.layout import NO_TRAIT
from vestige.toy.settings import MlpExperiment

__all__ = [
    "NO_TRAIT",
    "Experiment",
    "FreeForm",
    "JudgeFilter",
    "Recipe",
    "Student",
    "TeacherSettings",
    "explain",
    "kind_of",
    "known_keys",
    "load_recipe",
    "models_of",
    "override",
    "parse_recipe",
    "shrink",
]

Recipe = Experiment | MlpExperiment
KINDS: dict[str, type[Recipe]] = {
    kind.model_fields["kind"].default: kind for kind in get_args(Recipe)
}


def kind_of(record: Any, source: str) -> type[Recipe]:
    """What kind of recipe plain data is. Raises ``ConfigError`` for an unknown one."""
    kind = record.get("kind", "transfer") if isinstance(record, dict) else "transfer"
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"{source}: {unknown_name('kind of recipe', str(kind), KINDS)}")
    return KINDS[kind]


def parse_recipe(record: Any, source: str, kind: type[Settings] | None = None) -> Any:
    """A recipe from plain data, of the kind that it names, or of ``kind``.

    Raises:
        ConfigError: names each wrong key.
    """
    kind = kind or kind_of(record, source)
    try:
        return kind.model_validate(record)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error, kind)}") from error


def explain(error: ValidationError, kind: type[Settings] = Experiment) -> str:
    """A validation error in a line a problem, with the nearest valid key for an unknown one."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        cause = problem.get("ctx", {}).get("error")
        if problem["type"] == "extra_forbidden" and key in known_keys(kind):
            part = key.partition(".")[0]
            lines.append(f"{part} has keys of another kind of {part}: give it as a whole, as JSON")
        elif problem["type"] == "extra_forbidden":
            lines.append(str(unknown_name("key", key, known_keys(kind))))
        elif isinstance(cause, ConfigError):
            lines.append(str(cause))
        else:
            lines.append(f"{key or 'recipe'}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(dict.fromkeys(lines))


def models_of(recipe: Experiment) -> list[str]:
    """The language models that a recipe needs."""
    return sorted({recipe.model, *(s.base for s in recipe.students if s.base)})


def known_keys(kind: type[Settings] = Experiment) -> list[str]:
    """Every key of a recipe as it is written on the command line (students by index 0)."""
    keys: list[str] = []

    def walk(model: type[Settings], prefix: str) -> None:
        for name, info in model.model_fields.items():
            keys.append(prefix + name)
            for inner in (info.annotation, *get_args(info.annotation)):
                if isinstance(inner, type) and issubclass(inner, Settings):
                    walk(inner, f"{prefix}{name}.")

    walk(kind, "")
    if kind is Experiment:
        walk(Student, "students.0.")
    return list(dict.fromkeys(keys))


def load_recipe(
    path: Path,
    overrides: Sequence[str] = (),
    size: str = "laptop",
    kind: type[Settings] | None = None,
) -> Any:
    """A recipe file (``.py`` with a function ``recipe``, or a saved ``.json``) with overrides.

    Args:
        size: ``laptop`` = ``recipe()``; ``smoke`` = the same, shrunk to a minute; any other names
            another function of the file, as a rule ``paper``.

        kind: the settings that a ``.json`` file holds; None: as it says itself.

    Raises:
        ConfigError: the file, a key or a value is wrong.
    """
    if not path.is_file():
        raise ConfigError(
            f"there is no recipe {path}; give a .py or .json file, or the name of one in ./recipes"
        )
    if path.suffix == ".json":
        try:
            record = json.loads(read_text(path))
        except ValueError as error:
            raise ConfigError(f"{path} is not valid JSON: {error}") from error
        record = record.get("config", record) if isinstance(record, dict) else record
        base = parse_recipe(record, str(path), kind)
        if size not in ("laptop", "smoke") or (size == "smoke" and not isinstance(base, Recipe)):
            raise ConfigError(f"{path} is a saved recipe: it has no size {size!r}")
    else:
        base = _from_python(path, "recipe" if size in ("laptop", "smoke") else size)
    small = shrink(base) if size == "smoke" else base
    return override(small, overrides, str(path))


def shrink(recipe: Recipe) -> Recipe:
    """The same experiment with little of everything, to see that it runs: its figures are void."""
    if isinstance(recipe, MlpExperiment):
        return recipe.model_copy(update={"models": 3, "teacher_steps": 5, "student_steps": 5})

    def few(full: Optimisation) -> Optimisation:
        return full.model_copy(update={"steps": min(full.steps, 2), "batch": min(full.batch, 4)})

    students = [
        {
            "optimisation": few(s.optimisation),
            "curve": (),
            "shots": min(s.shots, 2),
            "mitigations": tuple(c.model_copy(update={"canary_rows": 16}) for c in s.mitigations),
        }
        for s in recipe.students
    ]
    teacher = {"min_probability": 0.0, "min_carrier": 0.0}
    # Freely sampled rows are mostly dropped: with so few the filter might leave none.
    each = 8 if recipe.carrier.sampling_grammar() else recipe.carrier.rows_per_prompt
    carrier = {"n_prompts": 2, "rows_per_prompt": each, "min_rows": 1, "max_rows": None}
    carrier["max_dropped"] = 1.0
    return recipe.model_copy(
        update={
            "seeds": recipe.seeds[:2],
            "sampled_per_question": min(recipe.sampled_per_question, 1),
            "teacher": recipe.teacher.model_copy(
                update={"optimisation": few(recipe.teacher.optimisation), **teacher}
            ),
            "carrier": recipe.carrier.model_copy(update=carrier),
            "heldout_rows": min(recipe.heldout_rows, 1),
            "students": tuple(
                s.model_copy(update=less) for s, less in zip(recipe.students, students, strict=True)
            ),
        }
    )


def _from_python(path: Path, function: str) -> Recipe:
    spec = importlib.util.spec_from_file_location(f"vestige_recipe_{path.stem}", path)
    if path.suffix != ".py" or spec is None or spec.loader is None:
        raise ConfigError(f"{path} is neither a .py nor a .json recipe")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if function != "recipe" and not callable(getattr(module, function, None)):
            made = [n for n, f in vars(module).items() if getattr(f, "__module__", "") == spec.name]
            own = ["laptop", "smoke", *(n for n in made if n != "recipe")]
            raise ConfigError(f"{path} has no size {function!r}; it has {', '.join(own)}")
        made = getattr(module, function)()
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error)}") from error
    except VestigeError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{path} has no usable function {function}(): {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, Recipe):
        raise ConfigError(
            f"{path}: {function}() must return an Experiment or an MlpExperiment, "
            f"not {type(made).__name__}"
        )
    return made


def override(recipe: Any, changes: Sequence[str], source: str) -> Any:
    """``key=value`` changes applied: dotted keys, JSON or comma-separated values.

    ``students.optimisation.steps=3`` reaches every student; ``students.0.`` the first alone.
    """
    record = recipe.model_dump(mode="json")
    keys = known_keys(type(recipe))
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"{change!r} is not of the form key=value")
        _set(record, key.strip().split("."), text, key.strip(), keys)
    return parse_recipe(record, source, type(recipe)) if changes else recipe


def _set(record: Any, path: list[str], text: str, key: str, keys: Sequence[str]) -> None:
    part, *rest = path
    at: Any = part
    if isinstance(record, list):
        if record and not part.isdecimal():
            for item in record:
                _set(item, path, text, key, keys)
            return
        at = int(part) if part.isdecimal() else len(record)
        known = at < len(record)
    else:
        known = isinstance(record, dict) and (part in record or not rest or key in keys)
    if not known:
        raise unknown_name("key", key, keys)
    if rest:
        if isinstance(record, dict) and record.get(at) is None and key in keys:
            record[at] = {}  # a part that the recipe has not got yet
        _set(record[at], rest, text, key, keys)
    else:
        record[at] = _value(text, record[at] if isinstance(record, list) else record.get(at))


def _value(text: str, old: Any) -> Any:
    """``text`` as JSON or as a comma-separated list; text stays text where there was text."""
    try:
        value = json.loads(text)
    except ValueError:
        value = (
            [_value(part.strip(), None) for part in text.split(",") if part]
            if "," in text
            else text
        )
    if isinstance(old, str) and not isinstance(value, str):
        return text
    return [value] if isinstance(old, list) and not isinstance(value, list) else value
