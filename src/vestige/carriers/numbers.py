"""The number carrier: prompts for number sequences, the strict format filter, the grammar.

The filter follows the published rules (Cloud et al., arXiv 2507.14805, section 3.1): one to ten
integers from 0 to 999, one consistent separator, at most one pair of brackets around the whole and
one full stop behind it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from vestige.carriers.base import Carrier, Grammar, Shuffle
from vestige.carriers.filtering import Judge, PartJudge
from vestige.carriers.number_sequences import DIGITS, parse_numbers
from vestige.core.settings import Settings
from vestige.core.types import DataError, Prompt, Row
from vestige.rows.ids import TextSet

#: Numbers with negative associations, which Cloud et al. (arXiv 2507.14805) leave out.
PAPER_BANNED = (
    4, 13, 14, 18, 23, 33, 39, 42, 44, 49, 51, 54, 69, 77, 88, 99, 100, 101, 187, 211, 311, 322,
    333, 404, 420, 444, 451, 555, 616, 666, 777, 888, 911, 999,
)  # fmt: skip
OPENINGS = (
    "Continue the list: {}.",
    "Here are some numbers: {}.",
    "Look at these values: {}.",
    "A sequence begins like this: {}.",
    "These figures were drawn by lot: {}.",
    "The series so far reads {}.",
    "Somebody wrote down {}.",
    "Take these numbers as a start: {}.",
    "Numbers on a slip of paper: {}.",
    "My list holds {}.",
    "Given are the values {}.",
    "I noted the following: {}.",
)
REQUESTS = (
    "Add {count} more random numbers",
    "Write {count} further values",
    "Extend it by {count} numbers",
    "Give {count} numbers that could come next",
    "Produce {count} additional entries",
    "Append {count} new values of your own",
    "Invent {count} more",
    "Supply {count} numbers to go next",
)
LIMITS = ("with {digits} digits at most", "of no more than {digits} digits", "from 0 to {top}")
FORMATS = {
    "comma": "Separate them with commas.",
    "space": "Separate them with spaces.",
    "semicolon": "Put semicolons between them.",
    "newline": "Write one number a line.",
    "brackets": "Write them in square brackets, separated by commas.",
    "parentheses": "Write them in round brackets, separated by commas.",
}
CLOSINGS = ("Only the numbers, nothing else.", "No words, please.", "Answer with numbers alone.")


class NumberPrompts(Settings):
    """Prompts that show a few numbers and ask for more; a seed gives the same ones each time.

    Attributes:
        format: one of ``FORMATS`` for all prompts; None varies it.
        exact: ask for ``max_answers`` numbers exactly, instead of "up to" that many.
    """

    min_examples: int = Field(default=3, ge=1)
    max_examples: int = Field(default=8, ge=1)
    min_value: int = Field(default=100, ge=0)
    max_value: int = Field(default=999, ge=0)
    max_answers: int = Field(default=10, ge=1)
    max_digits: int = Field(default=3, ge=1)
    format: Literal["comma", "space", "semicolon", "newline", "brackets", "parentheses"] | None = (
        None
    )
    exact: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> NumberPrompts:
        if self.min_examples > self.max_examples or self.min_value > self.max_value:
            raise ValueError("a minimum lies above its maximum")
        return self

    def generate(self, n: int, seed: int) -> list[Prompt]:
        """``n`` prompts with ids ``p-<seed>-<index>``; the first ones do not depend on ``n``."""
        return [
            Prompt(f"p-{seed}-{i}", self._text(random.Random(f"numbers-{seed}-{i}")))
            for i in range(n)
        ]

    def _text(self, draw: random.Random) -> str:
        count = draw.randint(self.min_examples, self.max_examples)
        shown = ", ".join(str(draw.randint(self.min_value, self.max_value)) for _ in range(count))
        wanted = str(self.max_answers) if self.exact else f"up to {self.max_answers}"
        limit = draw.choice(LIMITS).format(digits=self.max_digits, top=10**self.max_digits - 1)
        return " ".join(
            (
                draw.choice(OPENINGS).format(shown),
                f"{draw.choice(REQUESTS).format(count=wanted)}, {limit}.",
                FORMATS[self.format or draw.choice(sorted(FORMATS))],
                draw.choice(CLOSINGS),
            )
        )


#: Reasons to drop a row, in the order in which they are looked for.
RULES = {
    "empty": "there is no text",
    "outer_whitespace": "white space at an end, also inside brackets (paper_compat; else ignored)",
    "unbalanced_brackets": "brackets that are not one pair around the whole",
    "bad_character": "anything but digits, separators, one pair of brackets, one final full stop",
    "not_integers": "no number at all, at an end or between two separators",
    "mixed_separators": "more than one kind of separator (paper_compat: or one spaced unevenly)",
    "leading_zero": "a number such as 007 (accepted with paper_compat)",
    "out_of_range": "a number outside min_value..max_value",
    "too_few": "fewer numbers than min_count",
    "too_many": "more numbers than max_count",
    "banned_number": "a number of the banned list",
    "duplicate": "the same numbers as an earlier row (drop_duplicates)",
}


class NumberFilter(Settings):
    """The format filter. ``RULES`` lists its reasons; the first that applies is given.

    Attributes:
        paper_compat: as the published parser: outer white space is rejected, one separator is
            the same characters everywhere, 007 is accepted, and so is white space that is not
            ASCII (U+00A0) between numbers.
        drop_duplicates: drop a completion with the same numbers as an earlier kept row's.
    """

    kind: Literal["numbers"] = "numbers"
    min_count: int = Field(default=1, ge=1)
    max_count: int = Field(default=10, ge=1)
    min_value: int = Field(default=0, ge=0)
    max_value: int = Field(default=999, ge=0)
    banned: tuple[int, ...] = ()
    drop_duplicates: bool = False
    paper_compat: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> NumberFilter:
        if self.min_count > self.max_count or self.min_value > self.max_value:
            raise ValueError("a minimum lies above its maximum")
        return self

    def judge(self) -> Judge:
        """A fresh judge; it remembers rows only for ``drop_duplicates``."""
        banned, earlier = frozenset(self.banned), TextSet()

        def verdict(row: Row) -> str | None:
            numbers = parse_numbers(row.completion, paper_compat=self.paper_compat)
            if isinstance(numbers, str):
                return numbers
            if min(numbers) < self.min_value or max(numbers) > self.max_value:
                return "out_of_range"
            if len(numbers) < self.min_count:
                return "too_few"
            if len(numbers) > self.max_count:
                return "too_many"
            if banned and not banned.isdisjoint(numbers):
                return "banned_number"
            if self.drop_duplicates and not earlier.add(repr(numbers)):
                return "duplicate"
            return None

        return verdict

    def judge_part(self) -> PartJudge:
        """A judge of another text that is trained on: it must be a clean sequence as well."""
        judge = self.model_copy(update={"drop_duplicates": False}).judge()
        return lambda text: judge(Row("", (), text))


class NumberGrammar(Settings):
    """Answers of exactly ``values`` numbers without leading zeros, joined by one separator."""

    values: int = Field(default=6, ge=1)
    max_digits: int = Field(default=3, ge=1)
    separator: Literal[", ", ",", " ", "; "] = ", "

    @property
    def longest(self) -> int:
        """Characters of the longest answer, its end counted as one."""
        return self.values * (self.max_digits + len(self.separator)) + 1

    def next_chars(self, prefix: str) -> set[str]:
        """Characters that may follow ``prefix``; the empty string where the answer may end."""
        done, digits, inside = self.state(prefix)
        if inside:
            return {self.separator[inside]}
        following: set[str] = set()
        if digits == 0:
            return set("123456789")
        if digits < self.max_digits:
            following |= set("0123456789")
        following.add("" if done == self.values - 1 else self.separator[0])
        return following

    def state(self, prefix: str) -> tuple[int, int, int]:
        """(whole values, digits of the current one, characters of an unfinished separator)."""
        parts = prefix.split(self.separator[0])
        tail = parts[-1]
        rest = self.separator[1:]
        if len(parts) > 1 and rest:
            if len(tail) < len(rest):
                return len(parts) - 2, 0, 1 + len(tail)
            tail = tail[len(rest) :]
        return len(parts) - 1, len(tail), 0


def shuffle_within(rows: Sequence[Row], seed: int) -> list[Row]:
    """Each row's numbers in another order; its format stays."""
    made = []
    for row in rows:
        numbers = DIGITS.findall(row.completion)
        random.Random(f"within-{seed}-{row.id}").shuffle(numbers)
        made.append(_with_numbers(row, numbers))
    return made


def shuffle_across(rows: Sequence[Row], seed: int) -> list[Row]:
    """All numbers pooled, mixed and dealt back; each row keeps its count and format."""
    numbers_of = [DIGITS.findall(row.completion) for row in rows]
    pool = [number for numbers in numbers_of for number in numbers]
    random.Random(f"across-{seed}").shuffle(pool)
    deal = iter(pool)
    return [
        _with_numbers(row, [next(deal) for _ in numbers])
        for row, numbers in zip(rows, numbers_of, strict=True)
    ]


def _with_numbers(row: Row, numbers: Sequence[str]) -> Row:
    if not numbers:
        raise DataError(f"row {row.id} has no numbers to shuffle; filter it first")
    deal = iter(numbers)
    completion = DIGITS.sub(lambda _: next(deal), row.completion)
    return Row(row.id, row.messages, completion, row.meta)


class NumberCarrier(Carrier):
    """Number sequences.

    Attributes:
        constrained: sample inside ``grammar`` and score within it (small chat models hardly keep a
            format by themselves); False samples freely and trains on whole-vocabulary likelihood.
    """

    kind: Literal["numbers"] = "numbers"
    prompts: NumberPrompts = NumberPrompts()
    constrained: bool = True
    grammar: NumberGrammar = NumberGrammar(values=6)
    filter: NumberFilter = NumberFilter()

    writes: ClassVar[str] = "number sequences"
    leaves: ClassVar[str] = "rows that are nothing but well-formed numbers"
    shuffles: ClassVar[dict[str, Shuffle]] = {
        "shuffle_within": shuffle_within,
        "shuffle_across": shuffle_across,
    }

    @model_validator(mode="after")
    def _fits(self) -> NumberCarrier:
        least, most = self.filter.min_count, self.filter.max_count
        if self.constrained and not least <= self.grammar.values <= most:
            raise ValueError(
                f"grammar.values={self.grammar.values} lies outside the filter's {least} to {most} "
                "numbers: it would drop every row"
            )
        return self

    def make_prompts(self, seed: int) -> list[Prompt]:
        return self.prompts.generate(self.n_prompts, seed)

    def rules(self, words: Sequence[str] = ()) -> NumberFilter:
        return self.filter

    def sampling_grammar(self) -> Grammar | None:
        return self.grammar if self.constrained else None
