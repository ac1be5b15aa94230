"""What is asked of a backend: completions to draw and answers to score, a batch at a time.

Requests hold token ids, so that every backend is asked in the very same words. Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vestige.models.chat import Chat

if TYPE_CHECKING:
    from vestige.models.grammar import Automaton


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One completion to draw at T=1.

    Attributes:
        prompt: token ids.
        seed: with ``row``, what the completion's random numbers come from.
        row: the row's number in its data set.
        max_tokens: tokens at most, the end included.
        lines: the completion also ends after this many lines; 0 never does.
        grammar: what the completion must be: an ``Automaton``, or one of vLLM's structured outputs
            (``{"regex": ...}``, ``{"choice": [...]}``, ``{"grammar": ...}``); None leaves it free.
    """

    prompt: Sequence[int]
    seed: int
    row: int
    max_tokens: int
    lines: int = 0
    grammar: Automaton | Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One answer to score after a prompt, both as token ids."""

    prompt: Sequence[int]
    answer: Sequence[int]


class Backend(Protocol):
    """A model that answers in batches.

    Attributes:
        batch: requests that are worth asking at once.
        facts: what the data's manifest keeps about its writer: backend, version, dtype.
    """

    batch: int

    @property
    def facts(self) -> dict[str, str]: ...

    def sample(self, requests: Sequence[SampleRequest]) -> list[str]:
        """The completions' texts, in order, without their ends."""
        ...

    def logprobs(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """Each answer's log-probability after its prompt, in nats, over the whole vocabulary."""
        ...


def end_tokens(chat: Chat) -> list[int]:
    """Tokens that end an answer."""
    return [token for token in (chat.end_id, chat.tokenizer.eos_token_id) if token is not None]


def lines_end(text: str, lines: int) -> int:
    """Where the first ``lines`` lines of ``text`` end; the whole length if there are fewer, or 0
    are asked for."""
    at = -1
    for _ in range(lines):
        at = text.find("\n", at + 1)
        if at < 0:
            break
    return len(text) if at < 0 else at
