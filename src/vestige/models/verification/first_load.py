"""A base at its first load: the outcome that is remembered, or compared now."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vestige.models.passes import Passes
from vestige.models.verification.comparison import Comparison
from vestige.models.verification.differences import quiet
from vestige.models.verification.outcome import Verified, fingerprint, recall, remember


def verify(passes: Passes, tokenizer: Any = None, *, again: bool = False) -> Verified:
    """The outcome for this base: as it was remembered, or compared now and remembered.

    The model's attention is left as the outcome says.

    Args:
        again: compare even if an outcome is remembered.

    Raises:
        ModelError: the model's own forward passes cannot be used: they fail, differ between two
            runs, see later tokens, or hide the states that its head reads.
    """
    key = fingerprint(passes)
    known = None if again else recall(key)
    if known is None:
        with quiet(passes.causal_lm):
            known = replace(Comparison(passes, tokenizer).outcome(), key=key)
        remember(known)
    if known.attention:
        passes.causal_lm.set_attn_implementation(known.attention)  # type: ignore[operator]
    return known
