"""Probes: what fine-tuning on a trait does to the base, once for each base and trait.

A probe is the mean of a few brief tunings (other orders of the trait's pairs) minus the base: the
trait's task vector (Ilharco et al., arXiv 2212.04089), kept in a few ranks (``directions``).
Tunings of one trait with other seeds agree, and what they agree on lies in few directions: a few
ranks score rows as the whole does (``docs/log.md``).

Two scores for a row r and the probe D_t of trait t:

    shift(r, t)  = log p(r | base + D_t) - log p(r | base)                    exact, a forward pass
    pull(r, t)   = <grad log p(r), D_t> at base + mean over traits of D       all traits at once

Where the probes' mean stands, each differs from the others; at the base itself the gradient mostly
says that some tuning went on (``docs/log.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vestige.core.types import Row, Trait
from vestige.probing.base_session import BaseSession
from vestige.probing.directions import (
    RANK,
    Directions,
    compress,
    row_products,
    token_logprobs,
)
from vestige.probing.parallel import count_for, in_processes
from vestige.probing.row_format import RowFormat
from vestige.probing.soft_targets import SoftTargets
from vestige.probing.trait_panel import Array
from vestige.student.packs import SHARED, Pack, pack_logprobs, scored_positions
from vestige.teacher.induce import teach

COPIES = 2  # tunings whose mean is a probe; chosen
OnDone = Callable[[int], None]


class Likelihood(NamedTuple):
    """``drawn``: log p of each row's scored tokens, nats, [N]; ``logp``: the same, or its mean
    under what is known of the writer; ``entropy``: what -drawn would be on average had the model
    written them, [N]; ``tokens``: scored in all."""

    logp: Array
    drawn: Array
    entropy: Array
    tokens: int


class Probes:
    """The library's probes for one base, from the cache; those that are not there are made."""

    def __init__(self, session: BaseSession, on_trait: OnDone = lambda done: None) -> None:
        self.session = session
        traits = session.library.traits
        missing = [
            i for i, t in enumerate(traits) if not session.kept("probes", t.name, key(session, t))
        ]
        if (count := count_for(session, len(missing))) > 1:
            there = len(traits) - len(missing)
            in_processes(_make, session, missing, count, lambda done: on_trait(there + done))
        made = []
        for trait in traits:
            made.append(probe(session, trait))
            on_trait(len(made))
        self.directions = Directions.stack(made)
        #: What is known of the rows' writer, by row.
        self.soft_targets: dict[str, SoftTargets] = {}
        self.n = len(made)

    def products(
        self, row_format: RowFormat, rows: Sequence[Row], on_rows: OnDone = lambda done: None
    ) -> Array:
        """Each row's gradient at the mean of all probes along every probe, nats, [N, T]; see
        ``pull``."""
        self.session.weights.shift(self.directions.total([1 / self.n] * self.n))
        products = row_products(
            self.session, row_format, rows, self.directions, on_rows, self.soft_targets
        )
        self.session.weights.freeze()
        return products

    def reference(
        self, row_format: RowFormat, rows: Sequence[Row], on_rows: OnDone = lambda done: None
    ) -> Array:
        """``products`` of reference rows, kept for the next audit with the same rows."""
        session = self.session
        read = [[*((m.role, m.content) for m in row.messages), row.completion] for row in rows]
        form = [row_format.kind, row_format.longest, row_format.opening, row_format.lines]
        form += [] if row_format.sampling.usual else [*row_format.sampling]
        probes = [[t.name, *key(session, t)] for t in session.library.traits]

        def make() -> list[dict[str, Tensor]]:
            return [{"products": torch.from_numpy(self.products(row_format, rows, on_rows))}]

        kept = session.keep("products", [row_format.kind], [read, form, probes], make)
        return kept[0]["products"].numpy()

    def read(self, row_format: RowFormat, rows: Sequence[Row], trait: int | None) -> Likelihood:
        """The rows' likelihood under one trait's probe, or under the base (None); the model is
        left there, since the next probe is loaded faster than the base."""
        if trait is None:
            self.session.weights.freeze()
        else:
            shares = [float(i == trait) for i in range(self.n)]
            self.session.weights.shift(self.directions.total(shares))
        return read(self.session, row_format, rows, self.soft_targets)

    def shifts(
        self, row_format: RowFormat, rows: Sequence[Row], traits: Sequence[int]
    ) -> dict[int, Array]:
        """shift(r, t) of every row under some traits' probes, nats, [N] each."""
        base = self.read(row_format, rows, None).logp
        return {t: self.read(row_format, rows, t).logp - base for t in traits}


@torch.no_grad()
def read(
    session: BaseSession,
    row_format: RowFormat,
    rows: Sequence[Row],
    soft_targets: Mapping[str, SoftTargets] | None = None,
) -> Likelihood:
    """The rows' likelihood under the model as it stands; of rows whose writer's probabilities are
    known (``soft_targets``), its mean under them."""
    wider = row_format.wider(session.lm)  # and then few long passes are faster than many short ones
    batch = session.settings.batch * wider
    packs, ids = row_format.packs(
        session.lm, rows, batch, shared=SHARED if wider == 1 else batch + 1
    )
    logp, drawn, entropy = (np.empty(len(rows)) for _ in range(3))
    for pack in packs:
        logprobs = row_format.drawn(pack_logprobs(session.lm, pack, ids))
        targets = pack.targets[:, None].to(logprobs.device)
        hard = logprobs.gather(1, targets)[:, 0]
        mean = _means(logprobs, hard, pack, rows, soft_targets) if soft_targets else hard
        spread = torch.special.entr(logprobs.exp()).sum(1)
        for values, into in ((mean, logp), (hard, drawn), (spread, entropy)):
            for row, part in zip(pack.rows, values.split(list(pack.counts)), strict=True):
                into[row] = float(part.sum())
    return Likelihood(logp, drawn, entropy, sum(len(pack.targets) for pack in packs))


def _means(
    logprobs: Tensor,
    hard: Tensor,
    pack: Pack,
    rows: Sequence[Row],
    soft_targets: Mapping[str, SoftTargets],
) -> Tensor:
    """Log-probability of each scored token (``hard``), or its mean over what the writer would
    choose, [n]."""
    means, at = hard.clone(), 0
    for row, count in zip(pack.rows, pack.counts, strict=True):
        if known := soft_targets.get(rows[row].id):
            means[at : at + count] = known.mean(logprobs[at : at + count])
        at += count
    return means


def token_shifts(
    probes: Probes, row_format: RowFormat, rows: Sequence[Row], trait: int
) -> list[list[tuple[str, float]]]:
    """Each row's answer as (text, log-likelihood shift under the trait's probe in nats), token by
    token; a token that the grammar leaves no choice about has 0."""
    session = probes.session
    examples = row_format.examples(session.lm, rows)
    shares = [float(i == trait) for i in range(probes.n)]
    parts: list[list[Tensor]] = []
    for deltas in ({}, probes.directions.total(shares)):
        session.weights.shift(deltas)
        with torch.no_grad():
            parts.append([token_logprobs(session.lm, [e], row_format)[0] for e in examples])
    session.weights.freeze()
    by_row = []
    for row, example, under_base, under_probe in zip(rows, examples, *parts, strict=True):
        shift = dict(
            zip(
                scored_positions(example, row_format.automaton),
                under_probe - under_base,
                strict=True,
            )
        )
        texts = [session.lm.tokenizer.decode([token]) for token in example.completion]
        texts[-1] = "" if example.completion[-1] == session.lm.end_id else texts[-1]
        marked = [(text, float(shift.get(j, 0.0))) for j, text in enumerate(texts)]
        begun = row.completion.startswith(row_format.opening) and row_format.opening
        by_row.append([(row_format.opening, 0.0), *marked] if begun else marked)
    return by_row


def probe(session: BaseSession, trait: Trait) -> Mapping[str, Tensor]:
    """One trait's probe, ``compress``ed, from the cache or made."""

    def make() -> list[dict[str, Tensor]]:
        optimisation = session.settings.probe(len(session.lm.layers))
        total: dict[str, Tensor] = {}
        for copy in range(COPIES):
            teach(session.lm, session.weights, trait, optimisation, seed=copy)
            for name, delta in session.weights.deltas().items():
                total[name] = total.get(name, 0) + delta / COPIES
        session.weights.freeze()
        return [compress(total)]

    return session.keep("probes", [trait.name], key(session, trait), make)[0]


def key(session: BaseSession, trait: Trait) -> list[Any]:
    """What a kept probe depends on, besides the base."""
    return [trait.pairs, session.settings.probe(len(session.lm.layers)), RANK, COPIES]


def _make(session: BaseSession, trait: int) -> None:
    probe(session, session.library.traits[trait])
