"""The one rule of a lineage: from its evidence to an outcome. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vestige.lineage.unit_matching import UnitMatch, fisher_log_p

Outcome = Literal["same", "other", "cannot_tell"]
#: Below this p-value of independence two models share a start, above the other one they do not;
#: chosen. In the tests changed copies lie below 1e-9, and p of other starts is even over 0 to 1.
SAME, OTHER = 1e-6, 1e-3


@dataclass(frozen=True)
class Evidence:
    """What is known of two models.

    Attributes:
        differences: settings in which they differ, in words: other shapes have other starts.
        only_depth: whether the number of layers is all that differs.
        layers: how the units of each pair of layers match.
        tokens: mean cosine of the tokens' embeddings, and the logarithm of its p-value; None where
            the vocabularies differ.
        identical: whether all weights are the same.
        compared: pairs of layers among which the best were looked for; 1 where each has its own.
    """

    differences: Sequence[str]
    only_depth: bool
    layers: Sequence[UnitMatch]
    tokens: tuple[float, float] | None
    identical: bool = False
    compared: int = 1

    @property
    def log_p(self) -> float:
        """Logarithm of the p-value that their units have nothing to do with each other."""
        together = fisher_log_p([layer.log_p for layer in self.layers])
        return min(0.0, together + math.log(self.compared))


def decide(evidence: Evidence) -> Outcome:
    """The outcome. What cannot be compared is never called the same, nor other."""
    if evidence.identical:
        return "same"
    if evidence.differences and not evidence.only_depth:
        return "other"
    if not evidence.layers:
        return "cannot_tell"
    if evidence.log_p <= math.log(SAME):
        return "same"
    if evidence.only_depth or evidence.log_p < math.log(OTHER):
        return "cannot_tell"
    if evidence.tokens and evidence.tokens[1] <= math.log(SAME):
        return "cannot_tell"  # embeddings are shared and units are not: one was changed on purpose
    return "other"
