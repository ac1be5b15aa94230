"""Which of an arm's drawn answers stand for what its students answer."""

from __future__ import annotations

from vestige.core.results import ArmResult, Interval


def named_shares(arm: ArmResult) -> tuple[str, dict[str, dict[str, Interval]]]:
    """The answers' opening, and by group of models (``base``, ``none`` or a trait) the share of
    each trait among the answers that name one of the kind. Begun answers where there are any, else
    those to the question as it stands; no groups where nothing was drawn."""
    plain = [s for s in arm.sampled if s.named_shares and not s.number_prefix]
    opening = max((s.opening for s in plain), default="")
    return opening, {s.data: s.named_shares for s in plain if s.opening == opening}
