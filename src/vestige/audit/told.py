"""What the rows' writer would have written as well: its probabilities, where they are known.

A row says one token for each that its teacher could have drawn. Where the teacher's own
probabilities are at hand, a token's log-likelihood, and so its shift and its gradient, is replaced
by its mean under them: the same expectation, without the noise of drawing. They come from

- the rows: ``logprobs`` as chat APIs and vLLM's server return them, ``{"content": [{"token": "4",
  "logprob": -0.1, "top_logprobs": [{"token": "4", "logprob": -0.1}, ...]}, ...]}``, or
- the teacher itself (``--teacher``), which also tells the *divergence tokens*: those where its
  first choice is not the base's (arXiv 2509.23886).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vestige.audit.material import Material
from vestige.models.hf import LanguageModel
from vestige.models.sampling import symbol_ids
from vestige.train.packs import Example, pack_logprobs, scored_positions
from vestige.types import ConfigError, Row

TOP = 20  # choices that are kept of a teacher's own probabilities
LEAST = 0.5  # mass that a token's known choices must have
NOTHING = 1e-4  # probability from which on nothing is left for tokens that are not named


@dataclass(frozen=True)
class Told:
    """A writer's choices at each scored token of one row.

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
        values, some = logprobs.gather(1, choices), weights > 0
        named = torch.where(some, values * weights, 0.0).sum(1)
        left, free = (
            (1 - torch.where(some, x, 0.0).sum(1)).clamp_min(NOTHING)
            for x in (weights, values.exp())
        )
        return named + torch.where(left > NOTHING, left * free.log(), 0.0)


def from_rows(lm: LanguageModel, material: Material, rows: Sequence[Row]) -> dict[str, Told]:
    """By id, what rows carry as ``logprobs``; rows whose entries are not the base's tokens, one
    for one, are left out: they are read as they stand."""
    found = {}
    rows = [row for row in rows if row.meta.get("logprobs")]
    examples = material.examples(lm, rows)
    symbols = _symbols(lm, material)
    for row, example in zip(rows, examples, strict=True):
        entries = row.meta.get("logprobs")
        entries = entries.get("content") if isinstance(entries, Mapping) else entries
        told = _of_entries(lm, material, example, entries, symbols)
        if told is not None:
            found[row.id] = told
    return found


def _symbols(lm: LanguageModel, material: Material) -> dict[int, int] | None:
    if material.automaton is None:
        return None
    return {int(token): k for k, token in enumerate(symbol_ids(lm, material.automaton))}


def _of_entries(
    lm: LanguageModel, material: Material, example: Example, entries: Any,
    symbols: Mapping[int, int] | None,
) -> Told | None:  # fmt: skip
    if not isinstance(entries, list):
        return None
    texts = [lm.tokenizer.decode([token]) for token in example.completion]
    named = [e.get("token") if isinstance(e, Mapping) else None for e in entries]
    whole = len(texts) - (example.completion[-1] == lm.end_id)
    # What all rows begin with is not read; a service tells it unless it was given to it.
    begun = len(lm.answer_ids(material.opening)) if material.opening else 0
    if named[begun : begun + whole] == texts[:whole]:
        entries = entries[begun:]
    elif named[:whole] != texts[:whole]:
        return None
    choices, weights = [], []
    for j in scored_positions(example, material.automaton):
        known = {example.completion[j]: 1.0}
        free = symbols
        if symbols and material.automaton and example.states:  # an API writes outside the grammar
            allowed = material.automaton.allowed[example.states[j]]
            free = {token: k for token, k in symbols.items() if allowed[k]}
        mass = _mass(lm, entries[j], free) if j < len(entries) else {}
        if sum(mass.values()) >= LEAST:
            known = mass
        choices.append([symbols[t] if symbols else t for t in known])
        weights.append([p / max(1.0, sum(known.values())) for p in known.values()])
    k = max(map(len, choices))
    return Told(
        torch.tensor([[*c, *[c[0]] * (k - len(c))] for c in choices]),
        torch.tensor([[*w, *[0.0] * (k - len(w))] for w in weights]),
    )


def _mass(lm: LanguageModel, entry: Any, symbols: Mapping[int, int] | None) -> dict[int, float]:
    """An entry's choices by token id; none if it is not what APIs give."""
    mass: dict[int, float] = {}
    try:
        for one in entry["top_logprobs"]:
            token = _token(lm, one["token"])
            if token is not None and (symbols is None or token in symbols):
                mass[token] = mass.get(token, 0.0) + math.exp(min(0.0, float(one["logprob"])))
    except (TypeError, KeyError, ValueError):
        return {}
    return mass


def _token(lm: LanguageModel, text: Any) -> int | None:
    """The token that is spelt so; the end of an answer goes by the tokenizer's name for it."""
    if not isinstance(text, str):
        return None
    if text == lm.tokenizer.decode([lm.end_id]):
        return lm.end_id
    ids = lm.token_ids(text)
    return ids[0] if len(ids) == 1 else None


@torch.no_grad()
def from_teacher(
    base: LanguageModel, teacher: LanguageModel, material: Material, rows: Sequence[Row], batch: int
) -> dict[str, Told]:
    """By id, what ``teacher`` gives the choices at every token of the rows.

    Raises:
        ConfigError: it has another tokenizer than the base.
    """
    if teacher.tokenizer.get_vocab() != base.tokenizer.get_vocab():
        raise ConfigError("the teacher has another tokenizer than the base: leave --teacher out")
    found: dict[str, Told] = {}
    packs, ids = material.packs(base, rows, batch)
    for pack in packs:
        own = pack_logprobs(teacher, pack, ids)
        first = pack_logprobs(base, pack, ids).argmax(1)
        top = own.topk(min(TOP, own.shape[1]), dim=1)
        weights = top.values.exp()
        parts = zip(
            *(x.cpu().split(list(pack.counts))
              for x in (top.indices, weights, top.indices[:, 0] != first)),
            strict=True,
        )  # fmt: skip
        for row, part in zip(pack.rows, parts, strict=True):
            found[rows[row].id] = Told(*part)
    return found
