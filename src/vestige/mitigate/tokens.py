"""Which tokens carry what a writer was tuned on, and the base's own choices in their place.

A token's gain is how much likelier a tuned copy of the base makes it: log p_tuned - log p_base,
nats. The copy is a trait's probe where the trait is named, else a canary that was trained on other
rows of the data: what it learned first is what tells their writer from the base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vestige.core.types import Row
from vestige.models.grammar import Automaton
from vestige.models.hf import LanguageModel
from vestige.models.sampling import row_noise
from vestige.probing.base_session import BaseSession
from vestige.probing.directions import choice_logprobs, token_logprobs
from vestige.probing.row_format import AT_ONCE, RowFormat
from vestige.probing.trait_panel import Array
from vestige.rows.trained_parts import with_completion
from vestige.student.packs import Example, scored_positions

Mask = NDArray[np.bool_]
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
    found: list[Array] = []
    for at in range(0, len(examples), AT_ONCE):
        parts = token_logprobs(lm, examples[at : at + AT_ONCE], row_format)
        found += [part.double().cpu().numpy() for part in parts]
        on_rows(len(found))
    return found


def changeable(lm: LanguageModel, row_format: RowFormat, rows: Sequence[Row]) -> list[Mask]:
    """Which of the tokens that are read could be others, by row: within a grammar those in whose
    place another symbol leaves the rest of the row well-formed."""
    automaton, masks = row_format.automaton, []
    for row, example in zip(rows, row_format.examples(lm, rows), strict=True):
        positions = scored_positions(example, automaton)
        if automaton is None:
            masks.append(np.ones(len(positions), dtype=bool))
        else:
            path = automaton.walk(row.completion)
            masks.append(np.array([int(_alike(automaton, *path[j]).sum()) > 1 for j in positions]))
    return masks


def _alike(automaton: Automaton, state: int, symbol: int) -> Tensor:
    """Which symbols lead where this one does, [K]."""
    return automaton.allowed[state] & (automaton.step[state] == automaton.step[state, symbol])


def largest(gains: Sequence[Array], masks: Sequence[Mask], share: float) -> list[Mask]:
    """So large a share of the tokens that ``masks`` allow, those of the largest gains."""
    return _chosen(np.argsort(-np.concatenate(gains), kind="stable"), masks, share)


def at_random(masks: Sequence[Mask], share: float, seed: int) -> list[Mask]:
    """As many tokens, whichever."""
    count = sum(map(len, masks))
    return _chosen(np.random.default_rng(seed).permutation(count), masks, share)


def _chosen(order: NDArray[np.intp], masks: Sequence[Mask], share: float) -> list[Mask]:
    allowed = np.concatenate(masks)
    order = order[allowed[order]]
    chosen = np.zeros(len(allowed), dtype=bool)
    chosen[order[: round(share * len(order))]] = True
    return np.split(chosen, np.cumsum([len(mask) for mask in masks])[:-1])


@torch.no_grad()
def redrawn(
    lm: LanguageModel,
    row_format: RowFormat,
    rows: Sequence[Row],
    chosen: Sequence[Mask],
    seed: int,
    on_rows: OnRows = lambda done: None,
) -> list[Row | str]:
    """Rows whose chosen tokens the model as it stands draws anew, each behind what its row has
    before it; or the reason why one cannot be written again.

    Within a grammar only symbols that leave the rest of the row well-formed are drawn.
    """
    examples, made = row_format.examples(lm, rows), list[Row | str]()
    for start in range(0, len(rows), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        choices = choice_logprobs(lm, examples[part], row_format)
        for row, example, wanted, (logprobs, _) in zip(
            rows[part], examples[part], chosen[part], choices, strict=True
        ):
            noise = row_noise(seed + OWN_NOISE, [len(made)], *logprobs.shape)[0]
            positions = scored_positions(example, row_format.automaton)
            at = np.flatnonzero(wanted).tolist()
            drawn = {positions[i]: logprobs[i].cpu() + noise[i] for i in at}
            made.append(_rebuilt(lm, row_format, row, drawn) if drawn else row)
        on_rows(len(made))
    return made


def _rebuilt(
    lm: LanguageModel, row_format: RowFormat, row: Row, drawn: dict[int, Tensor]
) -> Row | str:
    """A row with other tokens. Args: drawn: by position each choice's noisy log-probability."""
    if row_format.automaton is not None:
        path = row_format.automaton.walk(row.completion)
        symbols = [k for _, k in path]
        for at, noisy in drawn.items():
            alike = _alike(row_format.automaton, *path[at])
            symbols[at] = int(noisy.masked_fill(~alike, -torch.inf).argmax())
        text = "".join(row_format.automaton.symbols[k] for k in symbols[:-1])
        return with_completion(row, text)
    ids = lm.answer_ids(row.completion)
    if _decoded(lm, ids) != row.completion:
        return NOT_REBUILT
    opening = lm.answer_ids(row_format.opening) if row_format.opening else []
    begun = len(opening) if ids[: len(opening)] == opening else 0
    # Where a row ends stays its writer's choice, and no text holds the signs between turns.
    never = sorted({lm.end_id, *lm.special})
    for at, noisy in drawn.items():
        noisy[never] = -torch.inf
        ids[begun + at] = int(noisy.argmax())
    text = _decoded(lm, ids)
    broken = BROKEN in text and BROKEN not in row.completion  # a part of a character was drawn
    return NOT_REBUILT if broken else with_completion(row, text)


def _decoded(lm: LanguageModel, ids: Sequence[int]) -> str:
    """The text of an answer's tokens, without what the template puts before it."""
    text = lm.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    return text.removeprefix(lm.lead)
