"""A model of an OpenAI-compatible service as a judge, through the ``openai`` library.

Retries, time-outs and connections are the library's. The key comes from ``OPENAI_API_KEY``, the
address from ``OPENAI_BASE_URL`` (vLLM, llama.cpp and most providers offer this interface).
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from vestige.judge.rating import Rating, expected_rating, parse_rating
from vestige.judge.settings import JudgeSettings
from vestige.types import ConfigError, MissingExtraError

MAX_TOKENS = 8


class ApiJudge:
    """One question a row, several at once; with log-probabilities where the service has them."""

    def __init__(self, settings: JudgeSettings) -> None:
        try:
            self._openai: Any = importlib.import_module("openai")
        except ImportError as error:
            raise MissingExtraError("openai", "judge") from error
        if not os.environ.get("OPENAI_API_KEY"):
            raise ConfigError(
                f"the judge {settings.model} needs OPENAI_API_KEY in the environment (any text "
                "where the service asks for none), or take a local model: local:NAME"
            )
        self.settings = settings
        self.client = self._openai.OpenAI(timeout=settings.timeout)
        self._logprobs = True

    def answers(self, texts: Sequence[str]) -> Iterator[tuple[int, Rating]]:
        """Ratings as they come. An answer that never came is ``failed``, with the reason."""
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            asked = {pool.submit(self.rate, text): index for index, text in enumerate(texts)}
            try:
                for done in as_completed(asked):
                    yield asked[done], done.result()
            finally:
                for future in asked:
                    future.cancel()

    def rate(self, text: str) -> Rating:
        """One rating."""
        try:
            reply = self._ask(text)
        except self._openai.AuthenticationError as error:
            raise ConfigError(f"the judge's service refused the key: {error}") from error
        except self._openai.NotFoundError as error:
            raise ConfigError(
                f"the judge's service does not know {self.settings.model}: {error}"
            ) from error
        except self._openai.OpenAIError as error:
            return Rating(None, "failed", "", f"{type(error).__name__}: {error}"[:300])
        if not reply.choices:
            return Rating(None, "unreadable", "", "no choices in the reply")
        return self.read(reply.choices[0])

    def _ask(self, text: str) -> Any:
        asked = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }
        if self._logprobs:
            try:
                return self.client.chat.completions.create(**asked, logprobs=True, top_logprobs=20)
            except self._openai.BadRequestError:
                self._logprobs = False  # this service has none: ask for the text alone
        return self.client.chat.completions.create(**asked)

    def read(self, choice: Any) -> Rating:
        """The rating in one reply."""
        text = choice.message.content or ""
        if getattr(choice.message, "refusal", None) or choice.finish_reason == "content_filter":
            return Rating(None, "refused", "", text or str(choice.message.refusal))
        content = getattr(choice.logprobs, "content", None) if choice.logprobs else None
        score = parse_rating(text)
        if content:
            top = {t.token: math.exp(t.logprob) for t in content[0].top_logprobs}
            if score is not None and whole_numbers(content[0].token, score, top):
                expected = expected_rating(top, self.settings.min_mass)
                if expected is not None:
                    return Rating(expected, "rated", "expected", text)
        if score is None:
            return Rating(None, "unreadable", "", text[:300])
        return Rating(score, "rated", "parsed", text)


def whole_numbers(token: str, score: float, top: dict[str, float]) -> bool:
    """Whether the model's tokens hold whole ratings: ``85`` may also be written ``8``, ``5``."""
    digits = [len(t.strip()) for t in top if t.strip().isdecimal()]
    return max(digits, default=0) > 1 and token.strip() == f"{score:g}"
