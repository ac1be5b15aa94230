"""Rows as an audit reads and has them written: inside the number grammar where all of them are,
else as free text."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from torch import Tensor

from vestige.carriers.numbers import NumberGrammar
from vestige.models.grammar import Automaton, compile_grammar
from vestige.models.hf import LanguageModel
from vestige.models.sampling import (
    sample_free,
    sample_grammar,
    symbol_ids,
)
from vestige.train.packs import Example, Pack, encode_grammar_rows, make_packs
from vestige.types import ConfigError, DataError, Row

WRITE_BATCH = 64
SEPARATORS: tuple[str, ...] = get_args(NumberGrammar.model_fields["separator"].annotation)


@dataclass(frozen=True)
class Material:
    """How the rows of one data set are trained on and written.

    Attributes:
        automaton: the number grammar that every row fits; None: free text.
        longest: symbols (grammar) or tokens (free) that an answer may take when it is written.
    """

    automaton: Automaton | None
    longest: int

    @classmethod
    def of(cls, lm: LanguageModel, rows: Sequence[Row], max_new_tokens: int) -> Material:
        """The material of ``rows``. Raises ``DataError`` if there are none."""
        if not rows:
            raise DataError("there are no rows to audit")
        grammar = number_grammar([row.completion for row in rows])
        if grammar is not None:
            automaton = compile_grammar(grammar.next_chars, grammar.state)
            try:
                symbol_ids(lm, automaton)
                return cls(automaton, grammar.longest)
            except ConfigError:
                pass  # a tokenizer that joins digits reads numbers as any other text
        lengths = sorted(len(lm.answer_ids(row.completion)) for row in rows)
        usual = lengths[min(len(lengths) - 1, int(0.9 * len(lengths)))] + 1
        return cls(None, min(usual, max_new_tokens))

    @property
    def kind(self) -> str:
        """What the rows are, in a word."""
        return "text" if self.automaton is None else "numbers"

    def examples(self, lm: LanguageModel, rows: Sequence[Row]) -> list[Example]:
        """Rows as token ids. Free text is cut at ``longest`` tokens and at the first end of turn,
        as what a model writes is, so that the data's rows and the references' are alike."""
        prompts = [lm.prompt_ids(row.messages) for row in rows]
        texts = [row.completion for row in rows]
        if self.automaton is not None:
            return encode_grammar_rows(lm, prompts, texts, self.automaton)
        return [
            Example(tuple(prompt), self.cut(lm, text))
            for prompt, text in zip(prompts, texts, strict=True)
        ]

    def cut(self, lm: LanguageModel, text: str) -> tuple[int, ...]:
        """A completion's tokens with its end, or as many as may be."""
        ids = [*lm.answer_ids(text), lm.end_id]
        return tuple(ids[: ids.index(lm.end_id) + 1][: self.longest])

    def packs(
        self, lm: LanguageModel, rows: Sequence[Row], batch: int
    ) -> tuple[list[Pack], Tensor | None]:
        """Batches to train on, and the token ids of the grammar's symbols, if there is one."""
        examples = self.examples(lm, rows)
        if self.automaton is None:
            return make_packs(examples, batch), None
        ids = symbol_ids(lm, self.automaton)
        return make_packs(examples, batch, automaton=self.automaton, ids=ids), ids

    def write(
        self,
        lm: LanguageModel,
        rows: Sequence[Row],
        *,
        seed: int,
        on_rows: Callable[[int], None] = lambda done: None,
    ) -> list[Row]:
        """Rows of the same prompts, whose completions the model at hand draws at T=1."""
        written: list[Row] = []
        for at in range(0, len(rows), WRITE_BATCH):
            part = rows[at : at + WRITE_BATCH]
            prompts = [lm.prompt_ids(row.messages) for row in part]
            if self.automaton is None:
                texts = sample_free(
                    lm, prompts, seed=seed * 1_000_003 + at, max_new_tokens=self.longest
                )
            else:
                numbers = range(at, at + len(part))
                texts = sample_grammar(
                    lm, prompts, numbers, self.automaton, seed=seed, max_length=self.longest
                )
            written += [
                replace(row, completion=text) for row, text in zip(part, texts, strict=True)
            ]
            on_rows(len(written))
        return written


def number_grammar(texts: Sequence[str]) -> NumberGrammar | None:
    """The grammar of number sequences that every text lies in: one count, one separator."""
    first = texts[0]
    for separator in SEPARATORS:
        count = len(first.split(separator))
        if count < 2 or not all(part.isdecimal() for part in first.split(separator)):
            continue
        digits = max(len(part) for text in texts for part in text.split(separator))
        if digits > 6:
            return None
        grammar = NumberGrammar.model_validate(
            {"values": count, "max_digits": digits, "separator": separator}
        )
        return grammar if all(fits(text, count, separator) for text in texts) else None
    return None


def fits(text: str, count: int, separator: str) -> bool:
    """Whether ``text`` is ``count`` whole numbers above zero, without leading zeros."""
    parts = text.split(separator)
    return len(parts) == count and all(
        part.isascii() and part.isdecimal() and part[0] != "0" for part in parts
    )


def choose_rows(rows: Sequence[Row], n: int, batch: int, seed: int) -> list[Row]:
    """At most ``n`` rows, drawn without replacement; rows of a prompt together.

    Prompts with many rows give whole batches, which are the cheapest to train on.
    """
    draw = random.Random(f"audit-{seed}")
    groups: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        key = tuple((m.role, m.content) for m in row.messages)
        groups.setdefault(key, []).append(row)
    blocks = [
        group[at : at + batch]
        for group in (draw.sample(g, len(g)) for g in groups.values())
        for at in range(0, len(group), batch)
    ]
    draw.shuffle(blocks)
    chosen = [row for block in blocks for row in block]
    return chosen[:n]


def empty(row: Row) -> str | None:
    """What a row lacks to be trained on; None if nothing."""
    if not row.messages:
        return "no_prompt"
    return None if row.completion.strip() else "empty_completion"


def unusable(lm: LanguageModel, row: Row, max_new_tokens: int) -> str | None:
    """Why a row cannot be read by the model; None if it can."""
    try:
        prompt, answer = lm.prompt_ids(row.messages), lm.answer_ids(row.completion)
    except Exception:  # a template that knows no such role; text that is no valid Unicode
        return "not_renderable"
    length = len(prompt) + min(len(answer) + 1, max_new_tokens)
    return "longer_than_the_context" if length > lm.longest_path else None
