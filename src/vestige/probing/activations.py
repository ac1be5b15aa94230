"""Activation projection: how far rows' hidden states point along a trait's direction.

A trait's direction is the mean state of its answers' tokens minus that of all traits' answers,
where the tuned layers end; a row's score is the projection of its answer's mean state on it, in
units of the hidden state (steering vectors: arXiv 2606.00995 relates them to transfer).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vestige.core.types import Row, Trait
from vestige.models.frozen import entering
from vestige.models.tree import build_tree
from vestige.probing.base_session import BaseSession
from vestige.probing.row_format import RowFormat
from vestige.probing.trait_panel import Array, spread
from vestige.student.packs import Example, encode_rows

ROWS_AT_ONCE = 16  # of a forward pass; fits into memory, no effect on results
PAIRS = 12  # of a trait's questions and answers that its direction is read from; chosen


def activations(
    session: BaseSession,
    row_format: RowFormat,
    rows: Sequence[Row],
    on_rows: Callable[[int], None] = lambda done: None,
) -> Array:
    """The projection of every row on every trait's direction, [N, T]."""
    session.weights.freeze()
    answers = torch.stack([answer_state(session, trait) for trait in session.library.traits])
    directions = torch.nn.functional.normalize(answers - answers.mean(0), dim=1)
    states = mean_states(session, row_format.examples(session.lm, rows), on_rows)
    return (states @ directions.T).numpy().astype(np.float64)


def answer_state(session: BaseSession, trait: Trait) -> Tensor:
    """The mean state of a trait's own answers to its questions, [D]."""
    pairs = [trait.pairs[i] for i in spread(range(len(trait.pairs)), PAIRS)]
    prompts = [session.lm.question_ids(question) for question, _ in pairs]
    examples = encode_rows(session.lm, prompts, [answer for _, answer in pairs])
    return mean_states(session, examples).mean(0)


@torch.no_grad()
def mean_states(
    session: BaseSession,
    examples: Sequence[Example],
    on_rows: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Each completion's mean hidden state after the last tuned layer, fp32, [N, D]."""
    stop = session.trainable.layer_range(len(session.lm.layers)).stop
    after = session.lm.layers[stop] if stop < len(session.lm.layers) else None
    means = []
    for at in range(0, len(examples), ROWS_AT_ONCE):
        part = examples[at : at + ROWS_AT_ONCE]
        trees = [build_tree([[*e.prompt, *e.completion]]) for e in part]
        if after is None:
            states_of = session.lm.hidden_states([], trees).states
        else:
            with entering(after) as passes:
                session.lm.hidden_states([], trees)
            states_of = passes[-1]
        for states, e in zip(states_of.float().cpu(), part, strict=True):
            means.append(states[len(e.prompt) : len(e.prompt) + len(e.completion)].mean(0))
        on_rows(at + len(part))
    return torch.stack(means)
