"""What ``vestige lineage`` says of two models."""

from __future__ import annotations

from typing import Literal

from vestige.core.results import Record


class LayerMatch(Record):
    """The MLP units of one layer of two models."""

    units: int
    agreement: float  # share of units whose partners in both matrices are the same
    cosine: float  # of matched vectors, mean
    log10_p: float  # that the matchings have nothing to do with each other


class LineageResults(Record):
    """Whether two models share an initialisation."""

    kind: Literal["lineage"] = "lineage"
    first: str
    second: str
    outcome: Literal["same", "other", "cannot_tell"]
    verdict: str
    why: list[str]
    log10_p: float  # all layers together
    layers: list[LayerMatch]
    token_cosine: float | None  # of the same tokens' embeddings; None: not comparable
    token_log10_p: float | None
    identical: bool
    differences: list[str]  # settings of shape
