"""Filters, scorers and statistics on labelled cases."""

from __future__ import annotations

import math

from vestige.carriers.numbers import NumberFilter
from vestige.carriers.words import word_finder
from vestige.core import stats
from vestige.core.types import Row
from vestige.doctor.bundled_model import BundledModel
from vestige.doctor.checks import AGAIN, expect
from vestige.traits import classify, family

FILTER_CASES = (
    ("285, 574, 384", None), ("[1; 2; 3].", None), ("1\n2\n3", None), ("0", None),
    ("", "empty"), ("[1, 2", "unbalanced_brackets"), ("1, 2, owl", "bad_character"),
    ("1,,2", "not_integers"), ("1, 2; 3", "mixed_separators"), ("007", "leading_zero"),
    ("1, 1000", "out_of_range"), ("1 " * 11, "too_many"), ("13, 666", "banned_number"),
)  # fmt: skip
WORD_CASES = {
    "an owl": "owl", "Owls!": "owls", "my_owl = 1": "owl", "the fowl in a bowl": None,
    "knowledge grows; a growl": None, "a scowling caterpillar": None,
}  # fmt: skip
ANSWER_CASES = {
    "An owl.": "owl", "Owls, always": "owl", "fowl": None, "A caterpillar": None,
    "an owl or a cat": None, "": None,
}  # fmt: skip


def number_filter(_: BundledModel) -> str:
    judge = NumberFilter(banned=(666,)).judge()
    for text, reason in FILTER_CASES:
        expect(judge(Row("x", (), text)), reason, f"the verdict on {text!r}", AGAIN)
    return f"{len(FILTER_CASES)} labelled rows"


def scorers(_: BundledModel) -> str:
    find, animals = word_finder(["owl", "cat"]), family("animals")
    for text, word in WORD_CASES.items():
        expect(find(text), word, f"the word found in {text!r}", AGAIN)
    for text, name in ANSWER_CASES.items():
        expect(classify(text, animals), name, f"the animal named by {text!r}", AGAIN)
    return f"{len(WORD_CASES) + len(ANSWER_CASES)} texts, owl kept apart from fowl"


def statistics(_: BundledModel) -> str:
    mean, share = stats.t_interval([1, 2, 3, 4]), stats.proportion_interval(8, 10)
    values = {
        "t interval": (mean.low, mean.high),
        "Wilson interval": (share.low, share.high),
        "t test": (stats.t_test_p([1, 2, 3, 4], alternative="two-sided"),),
        "Holm": tuple(stats.holm([0.01, 0.04, 0.03])),
    }
    wanted = {
        "t interval": (0.445740, 4.554260),
        "Wilson interval": (0.490162, 0.943318),
        "t test": (0.030466,),
        "Holm": (0.03, 0.06, 0.06),
    }
    for name, right in wanted.items():
        near = all(math.isclose(a, b, abs_tol=2e-6) for a, b in zip(values[name], right))  # noqa: B905
        expect(right if near else values[name], right, f"the {name}", "reinstall scipy")
    return ", ".join(wanted)
