"""What asking an API may cost: limits, and prices before anything is asked."""

from __future__ import annotations

import os
from typing import Any

from vestige.api.settings import MAX_DOLLARS, MAX_TOKENS, PRICES
from vestige.cli.output import out, print_result


def limit_spending(tokens: int | None, dollars: float | None, prices: str) -> None:
    """Hand limits on to whatever asks an API, in this process and in its workers."""
    for name, value in ((MAX_TOKENS, tokens), (MAX_DOLLARS, dollars), (PRICES, prices or None)):
        if value is not None:
            os.environ[name] = str(value)


def print_price(price: dict[str, Any], as_json: bool) -> None:
    """What a command would ask and pay, as ``--dry-run`` says it."""

    def text() -> None:
        out.print(f"{price['requests']:,} requests for {price['rows']:,} rows")
        for name in ("about", "at_most"):
            dollars = price[f"dollars_{name}"]
            money = f", ${dollars:.2f}" if dollars is not None else " (a price needs --prices)"
            label = name.replace("_", " ")
            out.print(f"{label:<8} {price[f'tokens_{name}']:,} tokens{money}")
        if not price["limits_hold_it"]:
            out.print("the limits may stop it before its end")

    print_result(price, as_json, text)
