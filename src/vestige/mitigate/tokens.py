"""Which tokens carry what a writer was tuned on, and the base's own choices in their place.

A token's gain is how much likelier a tuned copy of the base makes it: log p_tuned - log p_base,
nats. The copy is a trait's probe where the trait is named, else a canary that was trained on the
rows themselves: what it learned first is what tells their writer from the base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vestige.core.types import Row
from vestige.models.hf import LanguageModel
from vestige.models.sampling import row_noise
from vestige.probing.base_session import BaseSession
from vestige.probing.directions import choice_logprobs, token_logprobs
from vestige.probing.row_format import RowFormat
from vestige.probing.trait_panel import Array
from vestige.rows.trained_parts import with_completion
from vestige.student.packs import Example, scored_positions

Chosen = list[NDArray[np.bool_]]
OnRows = Callable[[int], object]
OWN_NOISE = 7_919_000  # added to the seed: the rows may have been drawn with the noise of seeds
BROKEN = "\ufffd"
NOT_REBUILT = "text_is_not_that_of_its_tokens"


def token_gains(
    session: BaseSession,
    row_format: RowFormat,
    rows: Sequence[Row],
    tune: Callable[[], None],
    on_rows: OnRows = lambda done: None,
) -> list[Array]:
    """How much likelier each token that is read becomes, nats, by row; the base is put back.

    Args:
        tune: turns the base into the copy.
    """
    examples = row_format.examples(session.lm, rows)
    session.weights.freeze()
    before = _read(session.lm, row_format, examples, on_rows)
    try:
        tune()
        after = _read(session.lm, row_format, examples, on_rows)
    finally:
        session.weights.freeze()
    return [b - a for a, b in zip(before, after, strict=True)]


@torch.no_grad()
def _read(
    lm: LanguageModel, row_format: RowFormat, examples: Sequence[Example], on_rows: OnRows
) -> list[Array]:
    found = []
    for done, example in enumerate(examples, 1):
        (logprobs,) = token_logprobs(lm, [example], row_format)
        found.append(logprobs.double().cpu().numpy())
        on_rows(done)
    return found


def token_counts(lm: LanguageModel, row_format: RowFormat, rows: Sequence[Row]) -> list[int]:
    """How many tokens of each row are read."""
    examples = row_format.examples(lm, rows)
    return [len(scored_positions(example, row_format.automaton)) for example in examples]


def largest(gains: Sequence[Array], share: float) -> Chosen:
    """The tokens of the largest gains, so large a share of all."""
    order = np.argsort(-np.concatenate(gains), kind="stable")
    return _split(order, [len(g) for g in gains], share)


def at_random(counts: Sequence[int], share: float, seed: int) -> Chosen:
    """As many tokens, whichever. Args: counts: of each row's tokens."""
    return _split(np.random.default_rng(seed).permutation(sum(counts)), counts, share)


def _split(order: NDArray[np.intp], counts: Sequence[int], share: float) -> Chosen:
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[: round(share * len(order))]] = True
    return np.split(chosen, np.cumsum(counts)[:-1])


@torch.no_grad()
def redrawn(
    lm: LanguageModel,
    row_format: RowFormat,
    rows: Sequence[Row],
    chosen: Chosen,
    seed: int,
    on_rows: OnRows = lambda done: None,
) -> list[Row | str]:
    """Rows whose chosen tokens the model as it stands draws anew, each behind what its row has
    before it; or the reason why one cannot be written again.

    Within a grammar only symbols that leave the rest of the row well-formed are drawn.
    """
    made: list[Row | str] = []
    for number, (row, example, wanted) in enumerate(
        zip(rows, row_format.examples(lm, rows), chosen, strict=True)
    ):
        made.append(_redrawn(lm, row_format, row, example, wanted, seed, number))
        on_rows(number + 1)
    return made


def _redrawn(
    lm: LanguageModel,
    row_format: RowFormat,
    row: Row,
    example: Example,
    wanted: NDArray[np.bool_],
    seed: int,
    number: int,
) -> Row | str:
    rebuild = _symbols if row_format.automaton else _text
    if not wanted.any():
        return row
    positions = scored_positions(example, row_format.automaton)
    logprobs = choice_logprobs(lm, [example], row_format)[0][0].cpu()
    noise = row_noise(seed + OWN_NOISE, [number], len(positions), logprobs.shape[1])[0]
    return rebuild(lm, row_format, row, example, positions, wanted, logprobs + noise)


def _symbols(
    lm: LanguageModel,
    row_format: RowFormat,
    row: Row,
    example: Example,
    positions: Sequence[int],
    wanted: NDArray[np.bool_],
    noisy: Tensor,
) -> Row | str:
    automaton = row_format.automaton
    assert automaton is not None and example.states is not None
    path = automaton.walk(row.completion)
    symbols = [k for _, k in path]
    for at in np.flatnonzero(wanted).tolist():
        state, own = path[positions[at]]
        after = automaton.step[state, own]
        alike = automaton.allowed[state] & (automaton.step[state] == after)
        symbols[positions[at]] = int(noisy[at].masked_fill(~alike, -torch.inf).argmax())
    return with_completion(row, "".join(automaton.symbols[k] for k in symbols[:-1]))


def _text(
    lm: LanguageModel,
    row_format: RowFormat,
    row: Row,
    example: Example,
    positions: Sequence[int],
    wanted: NDArray[np.bool_],
    noisy: Tensor,
) -> Row | str:
    ids = lm.answer_ids(row.completion)
    if _decoded(lm, ids) != row.completion:
        return NOT_REBUILT
    opening = lm.answer_ids(row_format.opening) if row_format.opening else []
    begun = len(opening) if ids[: len(opening)] == opening else 0
    # Where a row ends stays its writer's choice, and no text holds the signs between turns.
    noisy[:, sorted({lm.end_id, *lm.special})] = -torch.inf
    for at in np.flatnonzero(wanted).tolist():
        ids[begun + positions[at]] = int(noisy[at].argmax())
    text = _decoded(lm, ids)
    broken = BROKEN in text and BROKEN not in row.completion  # a part of a character was drawn
    return NOT_REBUILT if broken else with_completion(row, text)


def _decoded(lm: LanguageModel, ids: Sequence[int]) -> str:
    """The text of an answer's tokens, without what the template puts before it."""
    text = lm.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    return text.removeprefix(lm.lead)
