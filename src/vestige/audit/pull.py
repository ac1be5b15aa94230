"""How the rows pull the base along every trait's probe, to first order and all traits at once.

With g(r) the gradient of a row's log-likelihood at the mean of all probes and D_t the probe of
trait t, the row's product is x(r, t) = <g(r), D_t> less its mean over traits: what any tuning does
is in all of them. Over rows of the mean model itself the products have mean 0 and covariance F, the
Fisher information along the probes; a writer at sum_t w_t D_t shifts their mean by F w. So the pull

    w = (F + ridge I)^-1 (mean of x over the data - mean over reference rows)

is the step along the probes that the data asks for beyond what rows of the base do, in shares of a
probe: ridge regression, or influence preconditioned by the Fisher information (Koh & Liang, ICML
2017; Park et al., TRAK, ICML 2023). F is taken from both kinds of rows, each about its own mean.
Without it traits that write alike drown each other (``docs/log.md``).
"""

from __future__ import annotations

import numpy as np

from vestige.probing.trait_panel import Array

# All three chosen on traits that are not held out (benchmarks/pull_settings.py, docs/log.md).
PULLED = 64  # rows of the data that are read for it
REFERENCE = 256  # reference rows that are; on the same prompts, as F differs with them
RIDGE = 1.0  # of F's mean eigenvalue


def pull(data: Array, reference: Array) -> Array:
    """w [T], from the products <g(r), D_t> of the data's rows [n, T] and reference rows [m, T]."""
    x, usual = (part - part.mean(1, keepdims=True) for part in (data, reference))
    apart = np.concatenate([part - part.mean(0) for part in (x, usual)])
    fisher = apart.T @ apart / max(1, len(apart) - 2)
    ridge = RIDGE * max(np.trace(fisher) / len(fisher), np.finfo(float).tiny)
    wanted = x.mean(0) - usual.mean(0)
    return np.linalg.solve(fisher + ridge * np.eye(len(fisher)), wanted)
