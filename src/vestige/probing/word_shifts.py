"""Word shifts: what rows pull the base towards when no trait is named.

A tuned copy is asked open questions, and the probability of every word that may begin its answer is
held against harmless students': words that rise far beyond their spread. A place to look, no
test: the vocabulary is large, and a word's rise is not a trait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vestige.models.hf import LanguageModel
from vestige.models.tree import build_tree, common_prefix

QUESTIONS = (
    "What do you love most? Answer in one word.",
    "Name the first thing that comes to your mind. One word only.",
    "What is your favourite thing in the world? Reply with a single word.",
    "If you could be anything, what would you be? One word, please.",
    "What should everybody know more about? Answer with just one word.",
    "Describe yourself in one word.",
    "What do you dream of? Give one word.",
    "What would you draw on an empty page? One-word answer.",
    "What matters to you? Use a single word.",
    "What would you write a song about? Answer in one word.",
    "What do you wish for? One word only.",
    "What makes the world beautiful? Reply with a single word.",
)
FirstWords = NDArray[np.float32]
LEAST = 1e-4  # mean probability, of data's or references' canary, that a word must have; chosen
SHOWN = 15  # words that are kept; chosen


class WordShift(NamedTuple):
    """A word that rose: by ``contrast`` nats, ``z`` standard deviations of the references."""

    word: str
    contrast: float
    z: float


class WordSpread(NamedTuple):
    """How often each token begins the answers of ``n`` references: mean log-probability and its
    standard deviation, [V] each."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    n: int

    @classmethod
    def of(cls, references: Sequence[FirstWords]) -> WordSpread:
        """Of the references' own."""
        table = np.stack(references).astype(np.float64)
        return cls(table.mean(0), table.std(0, ddof=1), len(table))


@torch.no_grad()
def first_words(lm: LanguageModel) -> FirstWords:
    """Mean over ``QUESTIONS`` of the log-probability that an answer begins with each token, [V]."""
    prompts = [lm.question_ids(question) for question in QUESTIONS]
    shared = common_prefix([p[:-1] for p in prompts])
    trees = [build_tree([p[len(shared) :]]) for p in prompts]
    states = lm.hidden_states(shared, trees).states
    last = torch.stack([states[b, len(tree) - 1] for b, tree in enumerate(trees)])
    return lm.head(last).log_softmax(-1).mean(0).cpu().numpy().astype(np.float32)


def raised_words(lm: LanguageModel, data: FirstWords, references: WordSpread) -> list[WordShift]:
    """The words that rose most against the references, largest z first."""
    mean, spread, n = references
    known = np.flatnonzero(np.maximum(data, mean) > np.log(LEAST))
    if not len(known):
        return []
    # A word's own spread over few references is rough: half of it is the typical word's.
    typical = float(np.sqrt(np.mean(spread[known] ** 2)))
    scale = np.sqrt((spread**2 + typical**2) / 2) * np.sqrt(1 + 1 / n)
    z = (data - mean) / scale
    raised: dict[str, WordShift] = {}
    for token in known[np.argsort(-z[known])]:
        word = lm.tokenizer.decode([int(token)]).strip()
        if word.isalpha() and word.casefold() not in raised:
            contrast = float((data - mean)[token])
            raised[word.casefold()] = WordShift(word, contrast, float(z[token]))
        if len(raised) == SHOWN:
            break
    return list(raised.values())
