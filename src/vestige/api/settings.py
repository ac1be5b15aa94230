"""Names of API models, and what may be spent on them. Free of any API library."""

from __future__ import annotations

import os
from dataclasses import dataclass

from vestige.core.types import ConfigError
from vestige.models.catalog import API_PREFIX

#: Where limits and prices come from: the processes of one run share them.
MAX_TOKENS, MAX_DOLLARS, PRICES = "VESTIGE_MAX_TOKENS", "VESTIGE_MAX_DOLLARS", "VESTIGE_PRICES"


def is_api(name: str) -> bool:
    """Whether a model's name is that of an API model: ``api:`` and what the service calls it."""
    return name.startswith(API_PREFIX)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens that a model read and wrote."""

    read: int = 0
    written: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.read + other.read, self.written + other.written)

    @property
    def total(self) -> int:
        """Both together."""
        return self.read + self.written


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be spent in all; None is without a limit.

    Attributes:
        prices: dollars for a million tokens read, and written.
    """

    tokens: int | None = None
    dollars: float | None = None
    prices: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.dollars is not None and self.prices is None:
            raise ConfigError(
                f"a limit in dollars needs prices: --prices READ,WRITTEN in dollars for a million "
                f"tokens, for example --prices 0.10,0.40 (or {PRICES})"
            )

    @classmethod
    def from_environment(cls) -> Limits:
        """The limits that the environment holds.

        Raises:
            ConfigError: a variable is not a number, or there is a limit in dollars and no price.
        """
        tokens, dollars = _number(MAX_TOKENS), _number(MAX_DOLLARS)
        prices = os.environ.get(PRICES)
        return cls(None if tokens is None else int(tokens), dollars, parse_prices(prices))

    def cost(self, used: Tokens) -> float | None:
        """Dollars; None without prices."""
        if self.prices is None:
            return None
        return (used.read * self.prices[0] + used.written * self.prices[1]) / 1e6

    def passed(self, used: Tokens) -> bool:
        """Whether ``used`` is more than may be spent."""
        if self.tokens is not None and used.total > self.tokens:
            return True
        cost = self.cost(used)
        return self.dollars is not None and cost is not None and cost > self.dollars

    def in_words(self, used: Tokens) -> str:
        """What was used, in words."""
        cost = self.cost(used)
        money = f", ${cost:.4f}" if cost is not None else ""
        return f"{used.total:,} tokens{money}"


def parse_prices(text: str | None) -> tuple[float, float] | None:
    """``READ,WRITTEN`` as two prices. Raises ``ConfigError`` for anything else."""
    if not text:
        return None
    try:
        read, written = (float(part) for part in text.split(","))
        if read >= 0 and written >= 0:
            return read, written
    except ValueError:
        pass
    raise ConfigError(f"prices are two numbers such as 0.10,0.40, not {text!r}")


def _number(variable: str) -> float | None:
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{variable} is {text!r}; it must be a number, zero or more")
    return value
