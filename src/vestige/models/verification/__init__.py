"""Does a base's fast path give the model's own numbers? Found out once for each base.

At a base's first load, the fast path (``passes``: shared prefix, token trees, cached branches) is
compared with the model's own plain forward pass, one sequence at a time without padding, mask or
cache (``plain.plain_logits``), on a small ragged batch with a shared prefix and branching trees, in
values and in gradients. Where they agree the fast path is used; where they do not, the plain path
is. A model whose own passes contradict each other is refused. Longer sequences than were compared
are compared before they are first used: attention windows and rotary scaling begin somewhere.

Tolerances, in units of the model's own spread (the standard deviation of its log-probabilities over
the vocabulary): fp32, the largest difference at most 0.001; bf16, the mean difference at most 0.05.
Gradients: the norm of the difference against the norm, 0.001 and 0.1.
"""

from vestige.models.verification.differences import VALUES, reason, spread_of
from vestige.models.verification.first_load import verify
from vestige.models.verification.lengths import extended
from vestige.models.verification.outcome import Verified

__all__ = ["VALUES", "Verified", "extended", "reason", "spread_of", "verify"]
