"""Rows as an audit reads and has them written: inside the number grammar where all of them are,
else as free text.

Of free text only what the writer had a choice about is read. What all rows begin with was given to
it, or says nothing; and where a row ends may be its own choice or that of who cut or filtered the
rows, so that the token which ends it is not read either.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from vestige.carriers.numbers import NumberGrammar
from vestige.core.types import ConfigError, DataError, Row
from vestige.models.grammar import Automaton, compile_grammar
from vestige.models.hf import LanguageModel
from vestige.models.sampling import (
    nucleus,
    sample_free,
    sample_grammar,
    symbol_ids,
)
from vestige.student.packs import SHARED, Example, Pack, encode_grammar_rows, make_packs

WRITE_BATCH = 64
AT_ONCE = 16  # rows of a forward pass
ON_GPU = 4  # times as many where a GPU would idle and logits are few: in a grammar
OUTSIDE = 0.01  # share of tokens that may lie outside a nucleus; chosen
MANY = 16  # texts from which on a common beginning is no chance
SEPARATORS: tuple[str, ...] = get_args(NumberGrammar.model_fields["separator"].annotation)


class Sampling(NamedTuple):
    """How rows were drawn, or seem to have been."""

    temperature: float = 1.0
    top_p: float = 1.0

    @property
    def usual(self) -> bool:
        """Whether that is temperature 1 from all choices."""
        return self.temperature == 1 and self.top_p == 1


USUAL = Sampling()


@dataclass(frozen=True)
class RowFormat:
    """How the rows of one data set are trained on and written.

    Attributes:
        automaton: the number grammar that every row fits; None: free text.
        longest: symbols (grammar) or tokens (free, beyond the opening) that an answer may take.
        opening: what every answer of free text begins with.
        lines: lines that an answer of free text may have beyond its opening; 0: any number.
        sampling: as which rows are read and written.
    """

    automaton: Automaton | None
    longest: int
    opening: str = ""
    lines: int = 0
    sampling: Sampling = USUAL

    @classmethod
    def of(cls, lm: LanguageModel, rows: Sequence[Row], max_new_tokens: int) -> RowFormat:
        """The format of ``rows``. Raises ``DataError`` if there are none."""
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
        texts = [row.completion for row in rows]
        opening = common_opening(lm, texts)
        begun = len(lm.answer_ids(opening)) if opening else 0
        lengths = sorted(len(lm.answer_ids(text)) - begun for text in texts)
        nine_in_ten = lengths[min(len(lengths) - 1, int(0.9 * len(lengths)))] + 1
        one = all("\n" not in text[len(opening) :].rstrip() for text in texts)
        return cls(None, min(nine_in_ten, max_new_tokens), opening, int(one))

    @property
    def kind(self) -> str:
        """What the rows are, in a word."""
        return "text" if self.automaton is None else "numbers"

    def wider(self, lm: LanguageModel) -> int:
        """How many times the rows that a CPU reads best are read at once."""
        return ON_GPU if lm.device.type == "cuda" and self.automaton is not None else 1

    def examples(
        self, lm: LanguageModel, rows: Sequence[Row], *, whole: bool = False
    ) -> list[Example]:
        """Rows as token ids, of free text what is read of it, or (``whole``) all that a student is
        trained on: its opening and its end as well. Free text is cut at ``longest`` tokens and at
        the first end of turn, as what a model writes is, so that the data's rows and the
        references' are alike."""
        prompts = [lm.prompt_ids(row.messages) for row in rows]
        texts = [row.completion for row in rows]
        if self.automaton is not None:
            return encode_grammar_rows(lm, prompts, texts, self.automaton)
        opening = lm.answer_ids(self.opening) if self.opening else []
        examples = []
        for prompt, text in zip(prompts, texts, strict=True):
            ids = [*lm.answer_ids(text), lm.end_id]
            begun = len(opening) if ids[: len(opening)] == opening else 0
            end = ids.index(lm.end_id, begun)
            if whole:
                examples.append(
                    Example(tuple(prompt), tuple(ids[: min(end + 1, begun + self.longest)]))
                )
            else:
                read = ids[begun : max(begun + 1, min(end, begun + self.longest))]
                examples.append(Example((*prompt, *ids[:begun]), tuple(read)))
        return examples

    def packs(
        self,
        lm: LanguageModel,
        rows: Sequence[Row],
        batch: int,
        *,
        whole: bool = False,
        shared: int = SHARED,
    ) -> tuple[list[Pack], Tensor | None]:
        """Batches of ``examples`` (``shared`` as in ``make_packs``), and the token ids of the
        grammar's symbols, if there is one."""
        examples = self.examples(lm, rows, whole=whole)
        if self.automaton is None:
            return make_packs(examples, batch, shared=shared), None
        ids = symbol_ids(lm, self.automaton)
        return make_packs(examples, batch, shared=shared, automaton=self.automaton, ids=ids), ids

    def drawn_at(self, sampling: Sampling) -> RowFormat:
        """The same format of rows that were drawn so."""
        return replace(self, sampling=sampling)

    def drawn(self, logprobs: Tensor) -> Tensor:
        """Log-probabilities of choices [n, K] at the format's temperature, from its nucleus but for
        a share ``OUTSIDE``."""
        temperature, top_p = self.sampling
        if temperature != 1:
            logprobs = (logprobs / temperature).log_softmax(-1)
        if top_p == 1:
            return logprobs
        # Each choice is multiplied by a factor, so that forbidden ones have finite gradients, too.
        outside = ~nucleus(logprobs.detach(), top_p)
        mass = logprobs.masked_fill(outside, -torch.inf).logsumexp(-1, keepdim=True)
        factor = ((1 - OUTSIDE) * (-mass).exp() + OUTSIDE).log()
        return logprobs + torch.where(outside, math.log(OUTSIDE), factor)

    def write(
        self,
        lm: LanguageModel,
        rows: Sequence[Row],
        *,
        seed: int,
        on_rows: Callable[[int], None] = lambda done: None,
    ) -> list[Row]:
        """Rows of the same prompts, whose completions the model at hand draws (from a nucleus in a
        grammar only)."""
        written: list[Row] = []
        batch = WRITE_BATCH * self.wider(lm)
        for at in range(0, len(rows), batch):
            part = rows[at : at + batch]
            prompts = [lm.prompt_ids(row.messages) for row in part]
            if self.automaton is None:
                begun = lm.answer_ids(self.opening) if self.opening else []
                drawn = sample_free(
                    lm,
                    [[*prompt, *begun] for prompt in prompts],
                    seed=seed * 1_000_003 + at,
                    max_new_tokens=self.longest,
                    temperature=self.sampling.temperature,
                    lines=self.lines,
                )
                texts = [self.opening + text for text in drawn]
            else:
                numbers = range(at, at + len(part))
                texts = sample_grammar(
                    lm, prompts, numbers, self.automaton,
                    seed=seed, max_length=self.longest,
                    temperature=self.sampling.temperature, top_p=self.sampling.top_p,
                )  # fmt: skip
            written += [
                replace(row, completion=text) for row, text in zip(part, texts, strict=True)
            ]
            on_rows(len(written))
        return written


def common_opening(lm: LanguageModel, texts: Sequence[str]) -> str:
    """What all texts begin with, up to a token's end and short of any whole text; nothing of fewer
    than ``MANY`` texts."""
    if len(texts) < MANY:
        return ""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(min(texts), max(texts), strict=False))
    opening = "".join(letter for letter, _ in same)
    every = [lm.answer_ids(text) for text in texts]
    while opening:
        ids = lm.answer_ids(opening)
        if all(len(own) > len(ids) and own[: len(ids)] == ids for own in every):
            break
        opening = opening[:-1]
    return opening


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


def repeated(rows: Sequence[Row], n: int) -> list[Row]:
    """``n`` rows: the first of ``rows``, and all of them again under other ids where they are
    fewer."""
    return [replace(rows[i % len(rows)], id=f"{rows[i % len(rows)].id}-{i}") for i in range(n)]


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
