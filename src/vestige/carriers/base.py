"""What every carrier has: prompts, a filter, and perhaps a grammar and shuffles.

A new carrier is one module with a subclass of ``Carrier``, and its name in ``AnyCarrier``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, Protocol, Self

from pydantic import Field, model_validator

from vestige.carriers.filtering import Filter
from vestige.core.settings import Settings
from vestige.core.types import Prompt, Row
from vestige.rows.files import prompt_of

Shuffle = Callable[[Sequence[Row], int], list[Row]]


def answers_across(rows: Sequence[Row], seed: int) -> list[Row]:
    """Whole answers dealt out anew: each to a row of another prompt, where there is another.

    For carriers whose answers would be broken by any other shuffle.
    """
    sizes = Counter(map(prompt_of, rows))
    prompts = sorted(sizes)
    random.Random(f"across-{seed}").shuffle(prompts)
    order = {prompt: i for i, prompt in enumerate(prompts)}
    ranked = sorted(rows, key=lambda row: order[prompt_of(row)])
    # A step by the largest prompt's rows leaves no answer with its own prompt, unless one prompt
    # has more than half of all rows.
    step = max(sizes.values(), default=0)
    dealt = {row.id: ranked[(i + step) % len(ranked)].completion for i, row in enumerate(ranked)}
    return [replace(row, completion=dealt[row.id]) for row in rows]


class Grammar(Protocol):
    """Answers by their characters, for constrained sampling."""

    def next_chars(self, prefix: str) -> set[str]: ...

    def state(self, prefix: str) -> tuple[int, ...]: ...

    @property
    def longest(self) -> int: ...


class Carrier(Settings):
    """The data that teachers write; subclasses say which, by a ``kind`` of their own. A field
    called ``grammar`` is what ``method=distill`` scores within.

    Attributes:
        min_rows: fewer rows than this after filtering stop the run.
        max_rows: rows that students get at most, the first ones of those kept by every filter.
        opening: what every answer begins with, given to the teacher and part of its row; a small
            chat model hardly begins an answer in the asked form by itself. A prompt's own
            (``meta["opening"]``) takes its place. Free sampling only.
        lines: lines that a teacher may add to the opening; 0 leaves the end to it. Free sampling
            only.
        max_dropped: a filter that drops a larger share of a teacher's rows stops the run.
    """

    kind: str
    n_prompts: int = Field(default=32, ge=1)
    rows_per_prompt: int = Field(default=16, ge=1)
    max_new_tokens: int = Field(default=64, ge=8)
    min_rows: int = Field(default=16, ge=1)
    max_rows: int | None = Field(default=None, ge=1)
    opening: str = ""
    lines: int = Field(default=0, ge=0)
    max_dropped: float = Field(default=0.98, ge=0, le=1)

    #: What teachers write, and what the filter leaves of it, in words for a reader.
    writes: ClassVar[str] = "text"
    leaves: ClassVar[str] = "rows that pass its rules"
    #: Controls that keep a row's form and destroy its order: name -> (rows, seed) -> rows.
    shuffles: ClassVar[dict[str, Shuffle]] = {}

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.max_rows is not None and self.max_rows < self.min_rows:
            raise ValueError(f"max_rows={self.max_rows} is below min_rows={self.min_rows}")
        if (self.opening or self.lines) and self.sampling_grammar():
            raise ValueError("opening and lines go with free sampling: constrained=false")
        return self

    def make_prompts(self, seed: int) -> list[Prompt]:
        """``n_prompts`` prompts, the same for the same seed."""
        raise NotImplementedError

    def rules(self, words: Sequence[str] = ()) -> Filter:
        """The filter, given the words that the recipe's traits go by."""
        raise NotImplementedError

    def sampling_grammar(self) -> Grammar | None:
        """The grammar to sample and to score within; None samples freely."""
        return None

    @property
    def longest(self) -> int:
        """Tokens that an answer may take."""
        grammar = self.sampling_grammar()
        return grammar.longest if grammar else self.max_new_tokens
