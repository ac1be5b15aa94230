"""The whole library read off a model in one pass: the log-odds of every trait.

A preference is the log-odds of the trait's word among its family's candidates, a behaviour the
log-odds of the trait's answer against an ordinary one; both are means over held-out questions, in
nats, exact (no sampling). Zero difference to the base: training changed nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vestige.core.types import ConfigError, Family, Trait
from vestige.evaluate.exact import whole_answer
from vestige.models.candidates import answer_forms, candidate_log_odds
from vestige.models.hf import LanguageModel

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Request:
    """One question with the answers to read; ``owner``: the candidate that each belongs to."""

    panel: int
    prompt: list[int]
    answers: list[list[int]]
    owner: list[int]

    @property
    def tokens(self) -> int:
        return len(self.prompt) + sum(map(len, self.answers))


class TraitPanel:
    """Reads every trait of ``traits`` off a model, with at most ``questions`` for each family."""

    def __init__(
        self,
        lm: LanguageModel,
        traits: Sequence[Trait],
        questions: int,
        *,
        whole_answers: int | None = None,
        system: str = "",
    ) -> None:
        """Args:
        whole_answers: questions for each family that is measured on whole answers, whose reading
            takes most of the time; None: as many as of the others.
        system: the system prompt; empty: what the template has by itself.
        """
        self.lm = lm
        self.system = system
        whole = questions if whole_answers is None else whole_answers
        panels = list({id(t.family): t.family for t in traits}.values())
        place = {id(panel): i for i, panel in enumerate(panels)}
        #: For each trait its panel, and its column there.
        self.columns = [(place[id(t.family)], t.family.answers.index(t.target)) for t in traits]
        self.requests = sorted(
            (
                request
                for i, panel in enumerate(panels)
                for request in self._requests(i, panel, whole if panel.texts else questions)
            ),
            key=lambda request: request.tokens,
        )

    def _requests(self, index: int, panel: Family, questions: int) -> list[_Request]:
        lm = self.lm
        chosen = spread(range(len(panel.heldout)), questions)
        prompts = [lm.question_ids(panel.heldout[i], self.system) for i in chosen]
        if panel.texts:
            answers = [[whole_answer(lm, text) for text in panel.texts[i]] for i in chosen]
            owners = [list(range(len(texts))) for texts in answers]
        else:
            forms, owner = answer_forms(lm, panel)
            answers, owners = [forms] * len(chosen), [owner] * len(chosen)
        return [_Request(index, *parts) for parts in zip(prompts, answers, owners, strict=True)]

    def read(self) -> Array:
        """Log-odds of each trait, shape [T], in the library's order."""
        return self.log_odds(gradients=False).cpu().numpy().astype(np.float64)

    def log_odds(self, *, gradients: bool = True) -> Tensor:
        """As ``read``, as a tensor with its graph."""
        by_request = self.lm.choice_logprobs(
            [r.prompt for r in self.requests],
            [r.answers for r in self.requests],
            gradients=gradients,
        )
        by_panel: dict[int, list[Tensor]] = {}
        for request, logprobs in zip(self.requests, by_request, strict=True):
            odds = candidate_log_odds(logprobs, request.owner)
            by_panel.setdefault(request.panel, []).append(odds)
        means = {panel: torch.stack(odds).mean(0) for panel, odds in by_panel.items()}
        values = torch.stack([means[panel][column] for panel, column in self.columns])
        if not torch.isfinite(values.detach()).all():
            raise ConfigError("a trait has no finite log-odds with this model; is it fp16?")
        return values


class ContextPanel:
    """The traits in several contexts, one after the other: D = contexts x traits values."""

    def __init__(
        self,
        lm: LanguageModel,
        traits: Sequence[Trait],
        contexts: Sequence[str],
        *,
        questions: int,
        whole_answers: int,
    ) -> None:
        """Args: contexts: system prompts; the empty one is what the template has by itself."""
        self.panels = [
            TraitPanel(lm, traits, questions, whole_answers=whole_answers, system=system)
            for system in contexts
        ]

    def read(self) -> Array:
        """Log-odds, shape [D]: all traits in the first context, then in the next."""
        return np.concatenate([panel.read() for panel in self.panels])


def spread(items: Sequence[int], n: int) -> list[int]:
    """``n`` of ``items``, evenly spread over them, or all."""
    if len(items) <= n:
        return list(items)
    return [items[i * len(items) // n] for i in range(n)]
