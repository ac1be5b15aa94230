"""How fast the filters are: rows a second on one core. Run: python benchmarks/filters.py"""

from __future__ import annotations

import random
from dataclasses import replace

from common import in_turn, show
from vestige.carriers.code import CodeFilter
from vestige.carriers.filtering import filter_rows
from vestige.carriers.numbers import NumberFilter
from vestige.carriers.reasoning import ReasoningFilter, arithmetic, worked
from vestige.core.types import Message, Row

ASKED = (Message("user", "Go on."),)
NUMBERS, CODE, REASONING = 100_000, 5_000, 50_000
FUNCTION = """def total(items, limit={n}):
    found = []
    for index, item in enumerate(items):
        if item > limit and index % {n}:
            found.append(item * {n})
    return sum(found)
"""


def main() -> None:
    draw = random.Random(0)
    numbers = [
        Row(str(i), ASKED, ", ".join(str(draw.randrange(1100)) for _ in range(draw.randint(1, 11))))
        for i in range(NUMBERS)
    ]
    code = [Row(str(i), ASKED, FUNCTION.format(n=i + 1)) for i in range(CODE)]
    reasoning = []
    for i in range(REASONING):
        question, _, answer = arithmetic(random.Random(i))
        text = worked(random.Random(i), "line").removeprefix(question).strip()
        reasoning.append(Row(str(i), ASKED, text, {"answer": answer}))
    reasoning[::7] = [replace(row, completion=row.completion + "0") for row in reasoning[::7]]
    kept: dict[str, int] = {}

    def run(name: str, rows: list[Row], rules) -> None:
        kept[name] = len(filter_rows(rows, rules)[0])

    sets = {"numbers": numbers, "code": code, "reasoning": reasoning}
    seconds = in_turn(
        3,
        numbers=lambda: run("numbers", numbers, NumberFilter()),
        code=lambda: run("code", code, CodeFilter(words=("owl", "owls"))),
        reasoning=lambda: run("reasoning", reasoning, ReasoningFilter()),
    )
    show(
        **{
            name: {
                "rows": len(rows),
                "kept": kept[name],
                "rows_per_second": round(len(rows) / min(seconds[name])),
            }
            for name, rows in sets.items()
        }
    )


if __name__ == "__main__":
    main()
