"""Two models compared, and what came of it in words."""

from __future__ import annotations

import math

from vestige.core.lineage import LayerMatch, LineageResults
from vestige.core.types import ConfigError
from vestige.lineage.decision import OTHER, SAME, Evidence, Outcome, decide
from vestige.lineage.models import LAYERS, compare, load

LN10 = math.log(10)


def lineage(first: str, second: str, *, layers: int = LAYERS) -> LineageResults:
    """Whether two models share an initialisation.

    Args:
        first, second: bundled names, folders or hub ids.
        layers: how many layers are compared, evenly spread; 0: all.

    Raises:
        ConfigError, ModelError: a model cannot be found or loaded as it was saved.
    """
    if layers < 0:
        raise ConfigError(f"--layers is {layers}: give 0 for all, or a number of layers")
    return results_of(first, second, compare(load(first), load(second), layers))


def results_of(first: str, second: str, evidence: Evidence) -> LineageResults:
    """The record of a comparison."""
    outcome, tokens = decide(evidence), evidence.tokens
    return LineageResults(
        first=first,
        second=second,
        outcome=outcome,
        verdict=VERDICTS[outcome].format(first=first, second=second),
        why=why(evidence, outcome),
        log10_p=evidence.log_p / LN10,
        layers=[
            LayerMatch(
                units=m.units, agreement=m.agreement, cosine=m.cosine, log10_p=m.log_p / LN10
            )
            for m in evidence.layers
        ],
        token_cosine=tokens[0] if tokens else None,
        token_log10_p=tokens[1] / LN10 if tokens else None,
        identical=evidence.identical,
        differences=list(evidence.differences),
    )


VERDICTS: dict[Outcome, str] = {
    "same": "{first} and {second} share an initialisation: hidden traits can pass between them",
    "other": "{first} and {second} do not share an initialisation",
    "cannot_tell": "It cannot be said whether {first} and {second} share an initialisation",
}


def why(evidence: Evidence, outcome: Outcome) -> list[str]:
    """The reasons, a sentence each."""
    if evidence.identical:
        return ["all their weights are the same"]
    if evidence.differences and not evidence.only_depth:
        return [f"they are of different shapes: {'; '.join(evidence.differences)}"]
    if not evidence.layers:
        return ["their layers have no MLP units that could be compared"]
    agreement = sum(m.agreement for m in evidence.layers) / len(evidence.layers)
    sentences = [
        f"{agreement:.1%} of their MLP units pair up alike in two matrices; that units which have "
        f"nothing to do with each other do so has p = 1e{evidence.log_p / LN10:.1f}",
    ]
    if evidence.only_depth:
        sentences.append(f"they have other depths: {'; '.join(evidence.differences)}")
    if outcome == "cannot_tell" and evidence.only_depth:
        sentences.append("layers may have been taken out or put in: no shared one was found")
    elif outcome == "cannot_tell" and evidence.log_p < math.log(OTHER):
        sentences.append(f"that is neither below {SAME:g} nor above {OTHER:g}")
    elif outcome == "cannot_tell":
        sentences.append("their tokens' embeddings are alike all the same")
    return sentences
