"""Rows/s of carrier sampling against plain ``generate``, same prompts, same model.

Plain ``generate`` is what a user would run: batch 64, T=1, 48 new tokens. Few of its rows keep the
format, so rows that pass the filter are counted as well. Run: python benchmarks/sampling.py
"""

from __future__ import annotations

import statistics

import common
from vestige.carriers.filtering import filter_rows
from vestige.carriers.numbers import NumberFilter
from vestige.core.types import Row
from vestige.models.sampling import sample_free, sample_grammar

ROWS, PER_PROMPT = 128, 16


def main() -> None:
    options = common.arguments(__doc__ or "")
    lm, rules = common.load(options), common.grammar()
    texts = [t for t in common.prompts(ROWS // PER_PROMPT) for _ in range(PER_PROMPT)]
    ids = [lm.question_ids(text) for text in texts]
    out: dict[str, list[str]] = {}

    def ours() -> None:
        out["ours"] = sample_grammar(lm, ids, range(ROWS), rules, seed=0, max_length=31)

    def plain() -> None:
        out["plain"] = [
            text
            for at in range(0, ROWS, 64)
            for text in sample_free(lm, ids[at : at + 64], seed=at, max_new_tokens=48)
        ]

    seconds = common.in_turn(options.repeats, ours=ours, plain=plain)
    rate = {name: ROWS / statistics.median(s) for name, s in seconds.items()}
    valid = {
        name: len(filter_rows([Row(str(i), (), t) for i, t in enumerate(texts)], NumberFilter())[0])
        for name, texts in out.items()
    }
    common.show(
        rows_per_second=rate,
        valid_share={name: n / ROWS for name, n in valid.items()},
        valid_rows_per_second={name: rate[name] * n / ROWS for name, n in valid.items()},
        speedup=common.ratio(seconds["plain"], seconds["ours"]),
    )


if __name__ == "__main__":
    main()
