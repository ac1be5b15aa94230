"""What a student would take on: from the rows' likeliest writers to the log-odds of every trait.

A student moves towards the writer of its rows. So for every writer t that the rows may have come
from, take the log-odds L of all traits a short way from the base along its probe D_t, against the
same way along the mean of all probes (what any tuning on a trait does)::

    profile(t) = (L(base + h D_t) - L(base + h mean D)) / h          [T], nats a whole probe

What is expected of the rows is the profiles' mean, each with the probability that its writer wrote
them (``Race.writers``). Close to the base the profiles foretell other traits' shifts best
(``docs/log.md``): students of a few hundred rows have not gone far either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from vestige.audit.race_result import Race
from vestige.probing.directions import RANK
from vestige.probing.probes import COPIES, Probes, key
from vestige.probing.trait_panel import Array

STEP = (
    0.05  # h, of a probe; chosen: close to the base other traits are predicted best (docs/log.md)
)


def expect(
    probes: Probes, race: Race, on_writer: Callable[[int, int], None] = lambda done, total: None
) -> Array:
    """What is expected of every trait, [T], in nats a whole probe: a student's share of it is
    fitted to students that were trained (``core/calibration.toml``)."""
    shifts, writers = np.zeros(probes.n), race.writers
    for done, (trait, chance) in enumerate(writers.items(), 1):
        shifts += chance * profile(probes, trait)
        on_writer(done, len(writers))
    return shifts


def profile(probes: Probes, trait: int) -> Array:
    """profile(t), [T], made once for each base, probe and library."""
    session, n = probes.session, probes.n
    optimisation = session.settings.probe(len(session.lm.layers))
    library = [STEP, session.contents, session.settings.questions, optimisation, RANK, COPIES]

    def read(shares: Sequence[float]) -> Array:
        session.weights.shift(probes.directions.total([STEP * share for share in shares]))
        return session.panel.read()

    def mean() -> list[dict[str, torch.Tensor]]:
        return [{"log_odds": torch.tensor(read([1 / n] * n))}]

    def make() -> list[dict[str, torch.Tensor]]:
        along_mean = session.keep("profiles", ["mean"], library, mean)[0]["log_odds"].numpy()
        along_own = read([float(i == trait) for i in range(n)])
        return [{"slope": torch.tensor((along_own - along_mean) / STEP)}]

    own = session.library.traits[trait]
    slope = session.keep("profiles", [own.name], [*library, *key(session, own)], make)[0]["slope"]
    session.weights.freeze()
    return slope.numpy()
