"""First-order influence: how much one small step on a row would raise each trait.

For a row r and a trait with log-odds o_t, both at the base,

    influence(r, t) = <grad log p(r), grad o_t>

over the weights that a canary tunes: the change of o_t for one step of plain gradient descent on
the row's log-likelihood, for each unit of learning rate. It is the inner product of Theorem 1
(Cloud et al., arXiv 2507.14805) and the first-order form of influence functions without the Hessian
(TracIn, Pruthi et al., arXiv 2002.08484). Deviations: training uses AdamW, and of each linear map's
trait gradient the best few ranks are kept (``directions``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from vestige.core.types import Row, Trait
from vestige.probing.base_session import BaseSession
from vestige.probing.directions import Directions, compress, row_products
from vestige.probing.row_format import RowFormat
from vestige.probing.trait_panel import Array, TraitPanel


def trait_gradients(
    session: BaseSession, on_trait: Callable[[int], None] = lambda done: None
) -> Directions:
    """The gradient of every trait's log-odds at the base, from the cache or made.

    A family's traits share a forward pass, so that they are made together.
    """
    by_family: dict[int, list[Trait]] = {}
    for trait in session.library.traits:
        by_family.setdefault(id(trait.family), []).append(trait)
    made = []
    for traits in by_family.values():
        key = [
            session.settings.questions,
            session.trainable,
            [[t.target.name, t.pairs] for t in traits],
        ]
        names = [f"{trait.family.name}-{trait.name}" for trait in traits]
        made += session.keep(
            "gradients", names, key, lambda traits=traits: _gradients(session, traits)
        )
        on_trait(len(made))
    return Directions.stack(made)


def _gradients(session: BaseSession, traits: Sequence[Trait]) -> list[dict[str, torch.Tensor]]:
    session.weights.train(session.trainable, seed=0)
    named = [(n, p) for n, p in session.lm.layers.named_parameters() if p.requires_grad]
    odds = TraitPanel(session.lm, traits, session.settings.questions).log_odds()
    factors = []
    for i, value in enumerate(odds):
        parts = torch.autograd.grad(
            value, [p for _, p in named], retain_graph=i < len(traits) - 1, allow_unused=True
        )
        gradient = {name: g for (name, _), g in zip(named, parts, strict=True) if g is not None}
        factors.append(compress(gradient))
    session.weights.freeze()
    return factors


def influence(
    session: BaseSession,
    row_format: RowFormat,
    rows: Sequence[Row],
    gradients: Directions,
    on_rows: Callable[[int], None] = lambda done: None,
) -> Array:
    """influence(r, t) for every row and trait, [N, T]: nats of log-odds for a unit of rate."""
    session.weights.freeze()
    return row_products(session, row_format, rows, gradients, on_rows)
