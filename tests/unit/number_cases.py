"""Completions labelled by hand, and the filter's rules once more, slow and plain."""

from __future__ import annotations

from vestige.carriers.numbers import NumberFilter

TEN = tuple(range(1, 11))

#: A completion with its numbers, or with the reason to drop it.
CASES: list[tuple[str, tuple[int, ...] | str]] = [
    # clean
    ("0", (0,)), ("7", (7,)), ("999", (999,)), ("285.", (285,)), ("[5]", (5,)), ("(5).", (5,)),
    ("1, 2, 3", (1, 2, 3)), ("1,2,3", (1, 2, 3)), ("1 2 3", (1, 2, 3)), ("1; 2; 3", (1, 2, 3)),
    ("1;2;3", (1, 2, 3)), ("1\n2\n3", (1, 2, 3)), ("1\t2", (1, 2)), ("1  2", (1, 2)),
    ("1\r\n2", (1, 2)), ("[1, 2, 3]", (1, 2, 3)), ("(1 2)", (1, 2)), ("[1;2].", (1, 2)),
    ("1, 2, 3.", (1, 2, 3)), ("1 2.", (1, 2)), ("5, 5, 5", (5, 5, 5)), ("0, 0", (0, 0)),
    ("10, 100", (10, 100)), ("1 , 2 , 3", (1, 2, 3)), ("1,\n2,\n3", (1, 2, 3)),
    (", ".join(map(str, TEN)), TEN), ("\n".join(map(str, TEN)), TEN), ("9 8 7", (9, 8, 7)),
    # white space at an end, or uneven around one separator, is ignored
    (" 1, 2", (1, 2)), ("1, 2\n", (1, 2)), ("\t[1, 2] ", (1, 2)), ("[ 1, 2 ]", (1, 2)),
    ("1, 2 .", (1, 2)), ("[1, 2] .", (1, 2)), ("1,2, 3", (1, 2, 3)), ("1 2  3", (1, 2, 3)),
    ("1\n\n2", (1, 2)), ("\u00a01 2", (1, 2)),
    # nothing there
    ("", "empty"), (" ", "empty"), ("\n\t\n", "empty"), ("\u00a0", "empty"), ("\u2028", "empty"),
    # brackets
    ("[1, 2", "unbalanced_brackets"), ("1, 2]", "unbalanced_brackets"),
    ("(1, 2]", "unbalanced_brackets"), ("[1, 2)", "unbalanced_brackets"),
    ("[[1, 2]]", "unbalanced_brackets"), ("([1])", "unbalanced_brackets"),
    ("[1], [2]", "unbalanced_brackets"), ("(1) (2)", "unbalanced_brackets"),
    ("1, [2, 3]", "unbalanced_brackets"), ("1 (2) 3", "unbalanced_brackets"),
    ("]1, 2[", "unbalanced_brackets"), ("(", "unbalanced_brackets"), ("]", "unbalanced_brackets"),
    ("[1, 2].)", "unbalanced_brackets"), ("Sure: [1, 2]", "unbalanced_brackets"),
    ("[1, 2] a", "unbalanced_brackets"), ("(.", "unbalanced_brackets"),
    # characters
    ("1, 2, a", "bad_character"), ("one, two", "bad_character"), ("owl", "bad_character"),
    ("-1, 2", "bad_character"), ("+1", "bad_character"), ("1.5, 2", "bad_character"),
    ("1, 2..", "bad_character"), ("...", "bad_character"), ("1. 2. 3.", "bad_character"),
    ("1, 2!", "bad_character"), ("1/2", "bad_character"), ("1-2-3", "bad_character"),
    ("1 | 2", "bad_character"), ("1: 2", "bad_character"), ("{1, 2}", "bad_character"),
    ("<1>", "bad_character"), ("`1, 2`", "bad_character"), ("1e3", "bad_character"),
    ("0x1f", "bad_character"), ("1_000", "bad_character"), ("٣, ٤", "bad_character"),
    ("1, 2²", "bad_character"), ("½", "bad_character"), ("１２", "bad_character"),
    ("1\u00a02", "bad_character"), ("1\u20282", "bad_character"), ("1、2", "bad_character"),
    ("1，2", "bad_character"), ("\u200b1", "bad_character"), ("1\0", "bad_character"),
    ("[1, 2.]", "bad_character"), ("[1, a]", "bad_character"), ("1, 2 and 3", "bad_character"),
    ("\ufeff1, 2", "bad_character"), ("1, 2。", "bad_character"), ("1\x1c2", "bad_character"),
    ("'1, 2'", "bad_character"), ("$5", "bad_character"), ("5%", "bad_character"),
    # numbers missing
    (".", "not_integers"), (",", "not_integers"), (";", "not_integers"), ("[]", "not_integers"),
    ("()", "not_integers"), ("[].", "not_integers"), ("1,", "not_integers"),
    (",1", "not_integers"), ("1, , 2", "not_integers"), ("1,,2", "not_integers"),
    ("1;;2", "not_integers"), ("1, 2,.", "not_integers"), ("[1, 2,]", "not_integers"),
    ("1,; 2", "not_integers"), ("[ ]", "not_integers"), (", ,", "not_integers"),
    # separators
    ("1, 2 3", "mixed_separators"), ("1 2, 3", "mixed_separators"), ("1,2;3", "mixed_separators"),
    ("1; 2, 3", "mixed_separators"), ("1 2; 3", "mixed_separators"),
    ("1, 2\n3, 4", "mixed_separators"), ("[1 2, 3]", "mixed_separators"),
    ("1, 2 3000", "mixed_separators"), ("1 007, 2", "mixed_separators"),
    # zeros, size, number
    ("007", "leading_zero"), ("00", "leading_zero"), ("1, 02", "leading_zero"),
    ("[01]", "leading_zero"), ("010 1000", "leading_zero"), ("0" * 30 + "1", "leading_zero"),
    ("1000", "out_of_range"), ("1, 2, 1000", "out_of_range"), ("1000, 2.", "out_of_range"),
    ("9" * 18, "out_of_range"), ("9" * 19, "out_of_range"), ("9" * 5000, "out_of_range"),
    ("1 " * 20 + "5000", "out_of_range"), ("1,000", "leading_zero"),
    (", ".join("1" * 11), "too_many"), ("1\n" * 11, "too_many"), ("1 " * 500, "too_many"),
    ("[" + ";".join("2" * 12) + "].", "too_many"),
]  # fmt: skip

#: The same with ``paper_compat``.
PAPER_CASES: list[tuple[str, tuple[int, ...] | str]] = [
    ("1, 2, 3", (1, 2, 3)), ("[1, 2].", (1, 2)), ("007, 12", (7, 12)), ("00", (0,)),
    ("0" * 30 + "1", (1,)), ("1 , 2 , 3", (1, 2, 3)), ("1\n\n2\n\n3", (1, 2, 3)),
    (" 1, 2", "outer_whitespace"), ("1, 2\n", "outer_whitespace"), ("5 ", "outer_whitespace"),
    ("[ 1, 2 ]", "outer_whitespace"), ("1, 2 .", "outer_whitespace"),
    ("[1, 2] .", "outer_whitespace"), (" a", "outer_whitespace"), ("  ", "empty"),
    ("1,2, 3", "mixed_separators"), ("1, 2,3", "mixed_separators"),
    ("1 2  3", "mixed_separators"), ("1\n2 3", "mixed_separators"), ("1,2;3", "mixed_separators"),
    ("1, 2,", "not_integers"), ("[1, 2", "unbalanced_brackets"), ("1000", "out_of_range"),
    ("9" * 30, "out_of_range"), (" ".join("1" * 11), "too_many"), ("1, -2", "bad_character"),
]  # fmt: skip


def reference(text: str, rules: NumberFilter) -> str | None:
    """The first rule in the order of ``RULES`` that a completion breaks; character by character."""
    if not text.strip():
        return "empty"
    body, padded = text.strip(), text != text.strip()
    if body[-1] == ".":
        padded = padded or body[:-1].strip() != body[:-1]
        body = body[:-1].strip()
    if body and (body[0], body[-1]) in (("(", ")"), ("[", "]")):
        padded = padded or body[1:-1].strip() != body[1:-1]
        body = body[1:-1].strip()
    numbers, gaps, ends = split(body)
    kinds = {gap.strip() for gap in gaps}
    value = [int(n[-4000:]) for n in numbers]  # int() takes no more digits
    zeros = [len(n) > 1 and n.startswith("0") for n in numbers]
    broken = {
        "outer_whitespace": rules.paper_compat and padded,
        "unbalanced_brackets": any(c in "()[]" for c in body),
        "bad_character": any(
            c not in "0123456789,; \t\n\r\f\v" and not (rules.paper_compat and c.isspace())
            for c in body
        ),
        "not_integers": not numbers or ends or any(len("".join(k.split())) > 1 for k in kinds),
        "mixed_separators": len(kinds) > 1 or (rules.paper_compat and len(set(gaps)) > 1),
        "leading_zero": any(zeros) and not rules.paper_compat,
        "out_of_range": not all(
            rules.min_value <= v <= rules.max_value and v < 10**18 for v in value
        ),
        "too_few": len(value) < rules.min_count,
        "too_many": len(value) > rules.max_count,
        "banned_number": any(v in rules.banned for v in value),
    }
    return next((reason for reason, found in broken.items() if found), None)


def split(body: str) -> tuple[list[str], list[str], bool]:
    """Runs of digits, what stands between them, and whether the body begins or ends without one."""
    numbers, gaps, last = [], [], None
    for c in body:
        digit = c in "0123456789"
        if digit != last:
            (numbers if digit else gaps).append("")
        (numbers if digit else gaps)[-1] += c
        last = digit
    ends = not body or body[0] not in "0123456789" or body[-1] not in "0123456789"
    return numbers, gaps, ends
