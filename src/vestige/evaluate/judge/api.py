"""A model behind an API as a judge, with log-probabilities where the service has them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from vestige.api.ledger import Ledger
from vestige.api.model import ApiModel
from vestige.api.requests import Choice, Reply, Request
from vestige.core.types import Message
from vestige.evaluate.judge.rating import Rating, expected_rating, parse_rating
from vestige.evaluate.judge.settings import JudgeSettings

MAX_TOKENS = 8  # of an answer; a rating takes one to three
TOP = 20  # log-probabilities asked for: as many as OpenAI's API gives


class ApiJudge:
    """One question a row, several at once.

    Args:
        ledger: where attempts and answers are recorded.
        proven: whether it has rated such rows before, so that single ones may be refused.
    """

    def __init__(self, settings: JudgeSettings, ledger: Path, proven: bool = False) -> None:
        self.settings = settings
        self.model = ApiModel(
            settings.model,
            Ledger(ledger),
            connections=settings.concurrency,
            timeout=settings.timeout,
        )
        self.model.answered = proven

    def answers(self, texts: Sequence[str]) -> Iterator[tuple[int, Rating]]:
        """Ratings as they come. An answer that never came is ``failed``, with the reason."""
        for index in range(len(texts)):  # until it is known whether there are log-probabilities
            top = TOP
            (_, reply), *_ = self.model.answers([question(texts[index], top)])
            if reply.status == 400:
                top = 0
                (_, reply), *_ = self.model.answers([question(texts[index], top)])
            yield index, self.read(reply)
            if reply.status != 400:
                rest = [question(text, top) for text in texts[index + 1 :]]
                for place, later_reply in self.model.answers(rest):
                    yield index + 1 + place, self.read(later_reply)
                return

    def read(self, reply: Reply) -> Rating:
        """The rating in one reply."""
        if not reply.choices:
            return Rating(None, "unreadable" if reply.status == 200 else "failed", "", reply.error)
        return read_choice(reply.choices[0], self.settings.min_mass)


def question(text: str, top: int) -> Request:
    """What is sent for a row."""
    return Request((Message("user", text),), MAX_TOKENS, temperature=0.0, top=top)


def read_choice(choice: Choice, min_mass: float) -> Rating:
    """The rating in one answer."""
    if choice.refused:
        return Rating(None, "refused", "", choice.text)
    score = parse_rating(choice.text)
    top = {token: math.exp(value) for token, value in (choice.top or {}).items()}
    if score is not None and whole_numbers(choice.token, score, top):
        expected = expected_rating(top, min_mass)
        if expected is not None:
            return Rating(expected, "rated", "expected", choice.text)
    if score is None:
        return Rating(None, "unreadable", "", choice.text[:300])
    return Rating(score, "rated", "parsed", choice.text)


def whole_numbers(token: str, score: float, top: dict[str, float]) -> bool:
    """Whether the model's tokens hold whole ratings: ``85`` may also be written ``8``, ``5``."""
    digits = [len(t.strip()) for t in top if t.strip().isdecimal()]
    return max(digits, default=0) > 1 and token.strip() == f"{score:g}"
