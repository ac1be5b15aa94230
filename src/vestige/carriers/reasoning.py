"""The reasoning carrier: worked answers to maths problems, kept if the final answer is right.

After Cloud et al. (arXiv 2507.14805, section 5.2): sampled solutions, filtered by correctness and
by format; a judge's score may follow. The reference answer travels in ``meta["answer"]``.
"""

from __future__ import annotations

import importlib
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from vestige.carriers.base import Carrier, Shuffle, answers_across
from vestige.carriers.filtering import Judge, PartJudge
from vestige.carriers.final_numbers import parse_number
from vestige.carriers.words import word_finder
from vestige.core.jsonl import read_text, text_lines
from vestige.core.settings import Settings
from vestige.core.types import DataError, MissingExtraError, Prompt, Row
from vestige.rows.ids import TextSet

ASKS = {
    "line": "Work it out step by step. End with a line of its own: Answer: <number>",
    "tags": "Think inside <think></think>, then give the number alone inside <answer></answer>.",
    "hashes": "Show your steps. Put the number alone on the last line, after ####.",
}
NAMES = ("Ana", "Ben", "Chidi", "Dora", "Emil", "Fatima", "Goran", "Hana", "Ivo", "Jun")
THINGS = ("pens", "coins", "books", "apples", "tickets", "stamps", "marbles", "cards")
#: Problem, answer, and the working as an example shows it.
PROBLEMS: tuple[tuple[str, Callable[[int, int, int], int], str], ...] = (
    ("{name} has {a} {things} and buys {b} more. How many {things} does {name} have?",
     lambda a, b, c: a + b, "{a} + {b} = {x}."),
    ("{name} had {ab} {things} and gave away {a}. How many {things} are left?",
     lambda a, b, c: b, "{ab} - {a} = {x}."),
    ("{name} fills {a} boxes with {c} {things} each. How many {things} is that?",
     lambda a, b, c: a * c, "{a} x {c} = {x}."),
    ("{name} shares {ac} {things} equally among {c} friends. How many does each get?",
     lambda a, b, c: a, "{ac} / {c} = {x}."),
    ("{name} buys {c} bags of {a} {things} and loses {b0} of them. How many {things} remain?",
     lambda a, b, c: c * a - min(b, c * a), "{c} x {a} = {ac}. {ac} - {b0} = {x}."),
    ("{name} counts {a} {things} on Monday, twice as many on Tuesday and {b} on Wednesday. "
     "How many are counted in all?", lambda a, b, c: 3 * a + b,
     "{a} + 2 x {a} + {b} = {x}."),
)  # fmt: skip
FINALS = {"line": "Answer: {}", "tags": "<answer>{}</answer>", "hashes": "#### {}"}


class ReasoningPrompts(Settings):
    """Problems with a checkable answer; a seed gives the same ones each time.

    Attributes:
        source: ``arithmetic`` (one- and two-step problems of our own), ``reasoning-gym`` (its
            ``gsm_symbolic`` problems), a JSONL file in GSM8K's form (``question`` and ``answer``,
            the number after ``####``), or ``hub:ID`` for such a data set of the hub.
        split, subset: of a data set of the hub.
        format: how the answer is to be given, a key of ``ASKS``.
        examples: worked problems to show before the question, from ``arithmetic`` and seeded: a
            small model needs them to keep the form.
        begun: give the teacher the beginning of the working, up to the first result
            (``arithmetic`` only), as part of its row.
        largest: that ``arithmetic`` draws; results may be larger.
    """

    source: str = "arithmetic"
    split: str = "train"
    subset: str | None = "main"
    format: Literal["line", "tags", "hashes"] = "line"
    examples: int = Field(default=0, ge=0)
    begun: bool = False
    largest: int = Field(default=60, ge=9)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.begun and self.source != "arithmetic":
            raise ValueError("begun=true goes with source=arithmetic, whose working is known")
        return self

    def generate(self, n: int, seed: int) -> list[Prompt]:
        """``n`` prompts with their reference answers, every problem once before any comes again.

        Raises:
            DataError: the file cannot be read, or a problem has no number for an answer.
            MissingExtraError: the library that makes the problems is not installed.
        """
        return [
            Prompt(
                f"r-{seed}-{i}", f"{self._shown(seed, i)}{question}\n\n{ASKS[self.format]}", known
            )
            for i, (question, known) in enumerate(self._problems(n, seed))
        ]

    def _shown(self, seed: int, i: int) -> str:
        draw = random.Random(f"reasoning-example-{seed}-{i}")
        shown = (worked(draw, self.format, self.largest) for _ in range(self.examples))
        return "".join(f"{text}\n\n" for text in shown)

    def _problems(self, n: int, seed: int) -> list[tuple[str, dict[str, str]]]:
        if self.source == "arithmetic":
            problems = []
            for i in range(n):
                question, steps, answer = arithmetic(
                    random.Random(f"reasoning-{seed}-{i}"), self.largest
                )
                begin = {"opening": steps.partition("=")[0] + "="} if self.begun else {}
                problems.append((question, {"answer": answer} | begin))
            return problems
        return [(question, {"answer": answer}) for question, answer in self._others(n, seed)]

    def _others(self, n: int, seed: int) -> list[tuple[str, str]]:
        if self.source == "reasoning-gym":
            try:
                gym = importlib.import_module("reasoning_gym")
            except ImportError as error:
                raise MissingExtraError("reasoning-gym", "reasoning") from error
            made = gym.create_dataset("gsm_symbolic", size=n, seed=seed)
            return [(item["question"], str(item["answer"])) for item in made]
        if self.source.startswith("hub:"):
            known = _from_hub(self.source.removeprefix("hub:"), self.subset, self.split)
        else:
            known = _from_file(Path(self.source))
        chosen: list[tuple[str, str]] = []
        for epoch in range(1 + n // len(known)):
            order = list(known)
            random.Random(f"reasoning-order-{seed}-{epoch}").shuffle(order)
            chosen += order
        return chosen[:n]


def arithmetic(draw: random.Random, largest: int = 60) -> tuple[str, str, str]:
    """A problem of one or two steps, its working and its answer."""
    text, solve, steps = draw.choice(PROBLEMS)
    a, b, c = draw.randint(2, largest), draw.randint(2, largest), draw.randint(2, 9)
    answer = str(solve(a, b, c))
    values = {
        "name": draw.choice(NAMES),
        "things": draw.choice(THINGS),
        "a": a,
        "b": b,
        "c": c,
        "ab": a + b,
        "ac": a * c,
        "b0": min(b, a * c),
        "x": answer,
    }
    return text.format(**values), steps.format(**values), answer


def worked(draw: random.Random, form: str, largest: int = 60) -> str:
    """A problem with its working and its answer in the asked form."""
    question, steps, answer = arithmetic(draw, largest)
    steps = f"<think>{steps}</think>" if form == "tags" else steps
    return f"{question}\n{steps}\n{FINALS[form].format(answer)}"


def _from_file(path: Path) -> list[tuple[str, str]]:
    try:
        lines = text_lines(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the problems {path}: {error}") from error
    problems = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                record = json.loads(line)
                problems.append(_problem(record["question"], record["answer"]))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f'{path}, line {number}: expected {{"question": ..., "answer": "... #### 42"}} '
                    f"with a number: {error}"
                ) from error
    if not problems:
        raise DataError(f"{path} holds no problems")
    return problems


def _from_hub(name: str, subset: str | None, split: str) -> list[tuple[str, str]]:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise MissingExtraError("datasets", "reasoning") from error
    try:
        rows = datasets.load_dataset(name, subset, split=split)
        return [_problem(row["question"], row["answer"]) for row in rows]
    except Exception as error:
        raise DataError(f"cannot load the problems {name} ({subset}, {split}): {error}") from error


def _problem(question: object, answer: object) -> tuple[str, str]:
    final = str(answer).rpartition("####")[2].strip()
    if parse_number(final) is None:
        raise ValueError(f"{final[:40]!r} is no number")
    return str(question), final


#: Reasons to drop a row, in the order in which they are looked for.
RULES = {
    "empty": "there is no text",
    "too_long": "more characters than max_chars",
    "null_byte": "a null byte or another control character",
    "no_reference": "the row has no reference answer, or none that is a number",
    "no_final_answer": "no final answer in the asked form",
    "several_answers": "more than one final answer",
    "text_after_answer": "text behind the final answer",
    "no_steps": "fewer characters of working than min_steps",
    "no_number": "the final answer is not one number",
    "wrong_answer": "another number than the reference",
    "target_word": "a trait's word, inflected or joined",
    "duplicate": "the same text as an earlier row (drop_duplicates)",
}
_FINAL = {
    "line": re.compile(r"^[ \t]*(?:\*\*)?(?:final )?answer(?:\*\*)?[ \t]*:(.*)$", re.I | re.M),
    "tags": re.compile(r"<answer>(.*?)</answer>", re.I | re.S),
    "hashes": re.compile(r"^[ \t]*####(.*)$", re.M),
}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


class ReasoningFilter(Settings):
    """The rules for worked answers. ``RULES`` lists its reasons; the first that applies is given.

    Attributes:
        format: where the final answer stands, a key of ``ASKS``.
        answer_field: the field of a row's ``meta`` with the reference.
        min_steps: characters of working that must stand before the final answer.
    """

    kind: Literal["reasoning"] = "reasoning"
    format: Literal["line", "tags", "hashes"] = "line"
    answer_field: str = "answer"
    max_chars: int = Field(default=20_000, ge=1)
    min_steps: int = Field(default=1, ge=0)
    banned: tuple[str, ...] = ()
    drop_duplicates: bool = False
    words: tuple[str, ...] = ()

    def judge(self) -> Judge:
        """A fresh judge; it remembers rows only for ``drop_duplicates``."""
        target, earlier = word_finder((*self.words, *self.banned)), TextSet()

        def verdict(row: Row) -> str | None:
            reason = self._reason(row)
            if reason is None and target(row.completion):
                return "target_word"
            if reason is None and self.drop_duplicates and not earlier.add(row.completion):
                return "duplicate"
            return reason

        return verdict

    def judge_part(self) -> PartJudge:
        """A judge of another text that is trained on: it need not be an answer, and must hold none
        of the words."""
        target = word_finder((*self.words, *self.banned))
        return lambda text: self._unfit(text) or ("target_word" if target(text) else None)

    def _unfit(self, text: str) -> str | None:
        if len(text) > self.max_chars:
            return "too_long"
        return "null_byte" if _CONTROL.search(text) else None

    def _reason(self, row: Row) -> str | None:
        text = row.completion
        if not text.strip():
            return "empty"
        if unfit := self._unfit(text):
            return unfit
        reference = parse_number(str(row.meta.get(self.answer_field, "")).rpartition("####")[2])
        if reference is None:
            return "no_reference"
        finals = list(_FINAL[self.format].finditer(text))
        if not finals:
            return "no_final_answer"
        if len(finals) > 1:
            return "several_answers"
        if text[finals[0].end() :].strip():
            return "text_after_answer"
        if len(text[: finals[0].start()].strip()) < self.min_steps:
            return "no_steps"
        number = parse_number(finals[0][1])
        if number is None:
            return "no_number"
        return None if number == reference else "wrong_answer"


_BETWEEN_STEPS = re.compile(r"((?<=[.!?])\s+|\n+)")


def steps_within(rows: Sequence[Row], seed: int) -> list[Row]:
    """The sentences and lines of each working in another order; the last one, the answer, stays."""
    shuffled = []
    for row in rows:
        parts = _BETWEEN_STEPS.split(row.completion)
        steps = parts[:-1:2]
        random.Random(f"within-{seed}-{row.id}").shuffle(steps)
        parts[:-1:2] = steps
        shuffled.append(replace(row, completion="".join(parts)))
    return shuffled


class ReasoningCarrier(Carrier):
    """Worked answers to maths problems."""

    kind: Literal["reasoning"] = "reasoning"
    writes: ClassVar[str] = "worked answers to maths problems"
    leaves: ClassVar[str] = "answers that are right and cleanly given"
    shuffles: ClassVar[dict[str, Shuffle]] = {
        "shuffle_within": steps_within,
        "shuffle_across": answers_across,
    }
    prompts: ReasoningPrompts = ReasoningPrompts()
    filter: ReasoningFilter = ReasoningFilter()
    rows_per_prompt: int = Field(default=4, ge=1)
    max_new_tokens: int = Field(default=192, ge=8)

    def make_prompts(self, seed: int) -> list[Prompt]:
        return self.prompts.generate(self.n_prompts, seed)

    def rules(self, words: Sequence[str] = ()) -> ReasoningFilter:
        known = {"format": self.prompts.format, "words": (*self.filter.words, *words)}
        return self.filter.model_copy(update=known)
