"""What the rows' writer would have written as well: its probabilities, where they are known.

A row says one token for each that its teacher could have drawn. Where the teacher's own
probabilities are at hand, a token's log-likelihood, and so its shift and its gradient, is replaced
by its mean under them: the same expectation, without the noise of drawing. They come from

- the rows, in any form that ``vestige.rows.logprobs`` reads, or
- the teacher itself (``--teacher``), which also tells the *divergence tokens*: those where its
  first choice is not the base's (arXiv 2509.23886).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vestige.core.types import ConfigError, Row
from vestige.models.hf import LanguageModel
from vestige.models.sampling import symbol_ids
from vestige.probing.row_format import RowFormat
from vestige.rows.logprobs import Position, carried, positions
from vestige.student.packs import Example, pack_logprobs, scored_positions

TOP = 20  # choices kept of a teacher's own probabilities; as many as chat APIs give
LEAST = 0.5  # probability that a token's known choices must have together; chosen
NOTHING = 1e-4  # probability below which nothing is left for other tokens; chosen
USED = "used"
OTHER_TOKENS = "its tokens are not the base's, one for one"
UNKNOWN_FORM = "a form that is not known"
NONE = "the row carries none"
ENDS = "its list ends before this token"
LITTLE = "its choices hold less than half of the probability"


@dataclass(frozen=True)
class SoftTargets:
    """What a writer would have chosen at each scored token of one row.

    Attributes:
        choices: token ids (in a grammar: symbols), [S, k]; weights: their probabilities, 0 for
            padding. What they leave to 1 is all other tokens together.
        diverges: where its first choice is not the base's, [S]; None where that is not known.
    """

    choices: Tensor
    weights: Tensor
    diverges: Tensor | None = None

    def mean(self, logprobs: Tensor) -> Tensor:
        """Mean under the writer of the log-probabilities [S, K] that a model gives each token, all
        tokens that are not named being one choice, [S]."""
        choices, weights = (x.to(logprobs.device) for x in (self.choices, self.weights))
        values, given = logprobs.gather(1, choices), weights > 0
        named = torch.where(given, values * weights, 0.0).sum(1)
        left, free = (
            (1 - torch.where(given, x, 0.0).sum(1)).clamp_min(NOTHING)
            for x in (weights, values.exp())
        )
        return named + torch.where(left > NOTHING, left * free.log(), 0.0)


def from_rows(
    lm: LanguageModel,
    row_format: RowFormat,
    rows: Sequence[Row],
    counts: Counter[str] | None = None,
) -> dict[str, SoftTargets]:
    """By id, what rows carry of their writer's probabilities; rows whose entries are not the
    base's tokens, one for one, are left out: they are read as they stand.

    Args:
        counts: receives, if any row carries some, the rows' tokens by what hinders their use;
            those that are used are under ``USED``.
    """
    known = {row.id: carried(row.meta) for row in rows}
    if not any(known.values()):
        return {}
    by_row, counts = {}, Counter[str]() if counts is None else counts
    symbols = _symbols(lm, row_format)
    for row, example in zip(rows, row_format.examples(lm, rows), strict=True):
        forms = [form for form in map(positions, known[row.id]) if form is not None]
        whole = next(filter(None, (_aligned(lm, row_format, example, f) for f in forms)), None)
        if whole is None:
            reason = OTHER_TOKENS if forms else UNKNOWN_FORM if known[row.id] else NONE
            counts[reason] += len(scored_positions(example, row_format.automaton))
            continue
        targets, reasons = _of_positions(lm, row_format, example, whole, symbols)
        counts.update(reasons)
        if USED in reasons:
            by_row[row.id] = targets
    return by_row


def _symbols(lm: LanguageModel, row_format: RowFormat) -> dict[int, int] | None:
    if row_format.automaton is None:
        return None
    return {int(token): k for k, token in enumerate(symbol_ids(lm, row_format.automaton))}


def _aligned(
    lm: LanguageModel, row_format: RowFormat, example: Example, whole: list[Position]
) -> list[Position] | None:
    """The positions from the first that is read on; None if they are not of the row's tokens."""
    wanted = example.completion
    if wanted and wanted[-1] == lm.end_id:
        wanted = wanted[:-1]
    # What all rows begin with is not read; a service tells it unless it was given to it.
    begun = len(lm.answer_ids(row_format.opening)) if row_format.opening else 0
    for at in dict.fromkeys((begun, 0)):
        part = whole[at : at + len(wanted)]
        if len(part) == len(wanted) and all(map(partial(_is, lm), part, wanted)):
            return whole[at:]
    return None


def _is(lm: LanguageModel, position: Position, token: int) -> bool:
    """Whether a position is of this token of the base."""
    if position.token is None:
        return token in position.choices or not position.choices
    if isinstance(position.token, int):
        return position.token == token
    return position.token == lm.tokenizer.decode([token])


def _of_positions(
    lm: LanguageModel,
    row_format: RowFormat,
    example: Example,
    whole: list[Position],
    symbols: Mapping[int, int] | None,
) -> tuple[SoftTargets, Counter[str]]:
    choices, weights, reasons = [], [], Counter[str]()
    for j in scored_positions(example, row_format.automaton):
        known = {example.completion[j]: 1.0}
        free = symbols
        if symbols and row_format.automaton and example.states:  # an API writes outside the grammar
            allowed = row_format.automaton.allowed[example.states[j]]
            free = {token: k for token, k in symbols.items() if allowed[k]}
        position = whole[j] if j < len(whole) else Position(None, reason=ENDS)
        mass = _mass(lm, position, free)
        if sum(mass.values()) >= LEAST:
            known = mass
            reasons[USED] += 1
        else:
            reasons[position.reason or LITTLE] += 1
        choices.append([symbols[t] if symbols else t for t in known])
        weights.append([p / max(1.0, sum(known.values())) for p in known.values()])
    k = max(map(len, choices))
    targets = SoftTargets(
        torch.tensor([[*c, *[c[0]] * (k - len(c))] for c in choices]),
        torch.tensor([[*w, *[0.0] * (k - len(w))] for w in weights]),
    )
    return targets, reasons


def _mass(
    lm: LanguageModel, position: Position, symbols: Mapping[int, int] | None
) -> dict[int, float]:
    """A position's choices by token id, with their probabilities."""
    mass: dict[int, float] = {}
    for choice, logprob in position.choices.items():
        token = choice if isinstance(choice, int) else _token(lm, choice)
        if token is not None and (symbols is None or token in symbols):
            mass[token] = mass.get(token, 0.0) + math.exp(logprob)
    return mass


def _token(lm: LanguageModel, text: str) -> int | None:
    """The token that is spelt so; the end of an answer goes by the tokenizer's name for it."""
    if text == lm.tokenizer.decode([lm.end_id]):
        return lm.end_id
    ids = lm.token_ids(text)
    return ids[0] if len(ids) == 1 else None


@torch.no_grad()
def from_teacher(
    base: LanguageModel,
    teacher: LanguageModel,
    row_format: RowFormat,
    rows: Sequence[Row],
    batch: int,
) -> dict[str, SoftTargets]:
    """By id, what ``teacher`` gives the choices at every token of the rows.

    Raises:
        ConfigError: it has another tokenizer than the base.
    """
    if teacher.tokenizer.get_vocab() != base.tokenizer.get_vocab():
        raise ConfigError("the teacher has another tokenizer than the base: leave --teacher out")
    by_row: dict[str, SoftTargets] = {}
    packs, ids = row_format.packs(base, rows, batch)
    for pack in packs:
        of_teacher = pack_logprobs(teacher, pack, ids)
        first = pack_logprobs(base, pack, ids).argmax(1)
        top = of_teacher.topk(min(TOP, of_teacher.shape[1]), dim=1)
        weights = top.values.exp()
        parts = zip(
            *(
                x.cpu().split(list(pack.counts))
                for x in (top.indices, weights, top.indices[:, 0] != first)
            ),
            strict=True,
        )
        for row, part in zip(pack.rows, parts, strict=True):
            by_row[rows[row].id] = SoftTargets(*part)
    return by_row
