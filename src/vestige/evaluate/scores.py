"""From log-probabilities of candidate answers to log-odds, shifts and ranks.

Axes: Q questions, C candidates. All natural logarithms. Nothing here imports torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vestige.core.jsonl import read_text, write_text
from vestige.core.types import DataError, StoreError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """Log-probability of each candidate (summed over its surface forms) after each question.

    Attributes:
        logprobs: nats, shape [Q, C]; not normalised over candidates.
    """

    questions: tuple[str, ...]
    candidates: tuple[str, ...]
    logprobs: Array

    def __post_init__(self) -> None:
        if self.logprobs.shape != (len(self.questions), len(self.candidates)):
            raise DataError(
                f"log-probabilities of shape {self.logprobs.shape} do not fit the panel"
            )
        if not np.isfinite(self.logprobs).all():
            raise DataError("a candidate has no finite log-probability; is the model's loss NaN?")

    @property
    def mass(self) -> Array:
        """Probability that the answer is any candidate at all, for each question: [Q]."""
        return np.exp(self.logprobs).sum(1)

    def probabilities(self) -> Array:
        """Probability of each candidate among all answers, [Q, C]."""
        return np.exp(self.logprobs)

    def normalised(self) -> Array:
        """Probability of each candidate among the candidates, [Q, C]; rows sum to 1."""
        top = self.logprobs.max(1, keepdims=True)
        weights = np.exp(self.logprobs - top)
        return weights / weights.sum(1, keepdims=True)

    def log_odds(self) -> Array:
        """log p / (1 - p) of the normalised probabilities, nats, [Q, C].

        Computed from the rivals' log-sum, so that p near 1 keeps its precision.
        """
        out = np.empty_like(self.logprobs)
        for c in range(self.logprobs.shape[1]):
            rivals = np.delete(self.logprobs, c, axis=1)
            top = rivals.max(1)
            out[:, c] = self.logprobs[:, c] - top - np.log(np.exp(rivals - top[:, None]).sum(1))
        return out

    def shift(self, base: Panel) -> Array:
        """Log-odds minus the base's, nats, [Q, C]. Zero: training changed nothing."""
        if (self.questions, self.candidates) != (base.questions, base.candidates):
            raise DataError("two panels can be compared only on the same questions and candidates")
        return self.log_odds() - base.log_odds()

    def save(self, path: Path) -> None:
        """Write as JSON; floats keep all their digits."""
        record = {
            "questions": self.questions,
            "candidates": self.candidates,
            "logprobs": self.logprobs.tolist(),
        }
        write_text(path, json.dumps(record, ensure_ascii=False))

    @classmethod
    def load(cls, path: Path) -> Panel:
        """Read what ``save`` wrote. Raises ``StoreError`` naming the file if it is damaged."""
        try:
            record = json.loads(read_text(path))
            return cls(
                tuple(record["questions"]),
                tuple(record["candidates"]),
                np.array(record["logprobs"], dtype=np.float64),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"cannot read the evaluation {path}: {error}; delete its stage"
            ) from error
