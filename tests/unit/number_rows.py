"""Number rows, clean and nearly clean."""

from __future__ import annotations

from hypothesis import strategies as st

from vestige.carriers.numbers import (
    NumberFilter,
)
from vestige.core.types import Message, Row


def row(completion: str, name: str = "r") -> Row:
    return Row(name, (Message("user", "Continue: 1, 2"),), completion)


def verdict(text: str, **rules) -> str | None:
    return NumberFilter(**rules).judge()(row(text))


# ---- against the slow reference


PIECE = st.sampled_from(
    ["0", "7", "42", "007", "999", "1000", "13", "1" * 25, "0" * 25 + "5", ",", ", ", ";", "; ",
     " ", "\n", "\t", "(", ")", "[", "]", ".", "-", "a", "²", "٣", "\u00a0", " , "]
)  # fmt: skip


@st.composite
def nearly_clean(draw) -> str:
    numbers = draw(st.lists(st.integers(0, 1005).map(str), min_size=1, max_size=12))
    separator = draw(st.sampled_from([", ", ",", " ", "; ", ";", "\n", " , "]))
    left, right = draw(st.sampled_from([("", ""), ("[", "]"), ("(", ")"), ("[ ", " ]")]))
    text = left + separator.join(numbers) + right + draw(st.sampled_from(["", "", ".", " ."]))
    for _ in range(draw(st.integers(0, 1))):  # at most one blemish
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(PIECE) + text[at:]
    return text
