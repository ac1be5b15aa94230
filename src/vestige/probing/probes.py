"""Probes: what fine-tuning on a trait does to the base, once for each base and trait.

A probe is the mean of a few brief tunings (other orders of the trait's pairs) minus the base: the
trait's task vector (Ilharco et al., arXiv 2212.04089), kept in a few ranks (``directions``).
Tunings of one trait with other seeds agree (cosine 0.65 on the bundled model, 0.29 between
animals), and what they agree on lies in few directions: rank 4 scores rows as the whole does
(``docs/log.md``). One probe is 650 kB there.

Two scores for a row r and the probe D_t of trait t:

    shift(r, t)  = log p(r | base + D_t) - log p(r | base)                    exact, a forward pass
    pull(r, t)   = <grad log p(r), D_t> at base + mean over traits of D       all traits at once

Where the probes' mean stands, each is told from the others; at the base itself the gradient mostly
says that some tuning went on (``docs/log.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vestige.core.types import Row, Trait
from vestige.probing.base_session import Lab
from vestige.probing.directions import (
    RANK,
    Directions,
    compress,
    row_products,
    token_logprobs,
)
from vestige.probing.parallel import count_for, in_processes
from vestige.probing.row_format import Material
from vestige.probing.soft_targets import Told
from vestige.probing.trait_panel import Array
from vestige.student.packs import SHARED, Pack, pack_logprobs, scored_positions
from vestige.teacher.induce import teach

COPIES = 2
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

    def __init__(self, lab: Lab, on_trait: OnDone = lambda done: None) -> None:
        self.lab = lab
        traits = lab.library.traits
        missing = [i for i, t in enumerate(traits) if not lab.kept("probes", t.name, key(lab, t))]
        if (count := count_for(lab, len(missing))) > 1:
            there = len(traits) - len(missing)
            in_processes(_make, lab, missing, count, lambda done: on_trait(there + done))
        made = []
        for trait in traits:
            made.append(probe(lab, trait))
            on_trait(len(made))
        self.directions = Directions.stack(made)
        #: What is known of the rows' writer, by row.
        self.told: dict[str, Told] = {}
        self.n = len(made)

    def products(
        self, material: Material, rows: Sequence[Row], on_rows: OnDone = lambda done: None
    ) -> Array:
        """Each row's gradient at the mean of all probes along every probe, nats, [N, T]; see
        ``pull``."""
        self.lab.weights.shift(self.directions.total([1 / self.n] * self.n))
        found = row_products(self.lab, material, rows, self.directions, on_rows, self.told)
        self.lab.weights.freeze()
        return found

    def reference(
        self, material: Material, rows: Sequence[Row], on_rows: OnDone = lambda done: None
    ) -> Array:
        """``products`` of reference rows, kept for the next audit beside the same rows."""
        lab = self.lab
        read = [[*((m.role, m.content) for m in row.messages), row.completion] for row in rows]
        form = [material.kind, material.longest, material.opening, material.lines]
        probes = [[t.name, *key(lab, t)] for t in lab.library.traits]

        def make() -> list[dict[str, Tensor]]:
            return [{"products": torch.from_numpy(self.products(material, rows, on_rows))}]

        found = lab.keep("products", [material.kind], [read, form, probes], make)
        return found[0]["products"].numpy()

    def read(self, material: Material, rows: Sequence[Row], trait: int | None) -> Likelihood:
        """The rows' likelihood under one trait's probe, or under the base (None); the model is
        left there, since the next probe is loaded faster than the base."""
        if trait is None:
            self.lab.weights.freeze()
        else:
            shares = [float(i == trait) for i in range(self.n)]
            self.lab.weights.shift(self.directions.total(shares))
        return read(self.lab, material, rows, self.told)

    def shifts(
        self, material: Material, rows: Sequence[Row], traits: Sequence[int]
    ) -> dict[int, Array]:
        """shift(r, t) of every row under some traits' probes, nats, [N] each."""
        base = self.read(material, rows, None).logp
        return {t: self.read(material, rows, t).logp - base for t in traits}


@torch.no_grad()
def read(
    lab: Lab, material: Material, rows: Sequence[Row], told: Mapping[str, Told] | None = None
) -> Likelihood:
    """The rows' likelihood under the model as it stands; of rows whose writer's probabilities are
    known (``told``), its mean under them."""
    wider = material.wider(lab.lm)  # and then few long passes are faster than many short ones
    batch = lab.settings.batch * wider
    packs, ids = material.packs(lab.lm, rows, batch, shared=SHARED if wider == 1 else batch + 1)
    logp, drawn, entropy = (np.empty(len(rows)) for _ in range(3))
    for pack in packs:
        logprobs = pack_logprobs(lab.lm, pack, ids)
        targets = pack.targets[:, None].to(logprobs.device)
        hard = logprobs.gather(1, targets)[:, 0]
        own = _means(logprobs, hard, pack, rows, told) if told else hard
        spread = torch.special.entr(logprobs.exp()).sum(1)
        for values, into in ((own, logp), (hard, drawn), (spread, entropy)):
            for row, part in zip(pack.rows, values.split(list(pack.counts)), strict=True):
                into[row] = float(part.sum())
    return Likelihood(logp, drawn, entropy, sum(len(pack.targets) for pack in packs))


def _means(
    logprobs: Tensor, hard: Tensor, pack: Pack, rows: Sequence[Row], told: Mapping[str, Told]
) -> Tensor:
    """Log-probability of each scored token (``hard``), or its mean over what the writer would
    choose, [n]."""
    own, at = hard.clone(), 0
    for row, count in zip(pack.rows, pack.counts, strict=True):
        if known := told.get(rows[row].id):
            own[at : at + count] = known.mean(logprobs[at : at + count])
        at += count
    return own


def token_shifts(
    probes: Probes, material: Material, rows: Sequence[Row], trait: int
) -> list[list[tuple[str, float]]]:
    """Each row's answer as (text, log-likelihood shift under the trait's probe in nats), token by
    token; a token that the grammar leaves no choice about has 0."""
    lab = probes.lab
    examples = material.examples(lab.lm, rows)
    shares = [float(i == trait) for i in range(probes.n)]
    parts: list[list[Tensor]] = []
    for deltas in ({}, probes.directions.total(shares)):
        lab.weights.shift(deltas)
        with torch.no_grad():
            parts.append([token_logprobs(lab.lm, [e], material)[0] for e in examples])
    lab.weights.freeze()
    found = []
    for row, example, base, own in zip(rows, examples, *parts, strict=True):
        shift = dict(zip(scored_positions(example, material.automaton), own - base, strict=True))
        texts = [lab.lm.tokenizer.decode([token]) for token in example.completion]
        texts[-1] = "" if example.completion[-1] == lab.lm.end_id else texts[-1]
        marked = [(text, float(shift.get(j, 0.0))) for j, text in enumerate(texts)]
        begun = row.completion.startswith(material.opening) and material.opening
        found.append([(material.opening, 0.0), *marked] if begun else marked)
    return found


def probe(lab: Lab, trait: Trait) -> Mapping[str, Tensor]:
    """One trait's probe, ``compress``ed, from the cache or made."""

    def make() -> list[dict[str, Tensor]]:
        how = lab.settings.probe(len(lab.lm.layers))
        total: dict[str, Tensor] = {}
        for copy in range(COPIES):
            teach(lab.lm, lab.weights, trait, how, seed=copy)
            for name, delta in lab.weights.deltas().items():
                total[name] = total.get(name, 0) + delta / COPIES
        lab.weights.freeze()
        return [compress(total)]

    return lab.keep("probes", [trait.name], key(lab, trait), make)[0]


def key(lab: Lab, trait: Trait) -> list[Any]:
    """What a kept probe depends on, besides the base."""
    return [trait.pairs, lab.settings.probe(len(lab.lm.layers)), RANK, COPIES]


def _make(lab: Lab, trait: int) -> None:
    probe(lab, lab.library.traits[trait])
