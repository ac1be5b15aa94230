"""Final answers and worked answers labelled by hand for the reasoning filter."""

from __future__ import annotations

from fractions import Fraction as F

#: A final answer with its number, or None where there is not exactly one.
NUMBERS: list[tuple[str, F | None]] = [
    ("42", F(42)), (" 42 ", F(42)), ("42.", F(42)), ("-7", F(-7)), ("- 7", F(-7)), ("+7", F(7)),
    ("−7", F(-7)), ("0", F(0)), ("007", F(7)), ("3.5", F(7, 2)), (".5", F(1, 2)), ("-.5", F(-1, 2)),
    ("1,234", F(1234)), ("1,234,567", F(1234567)), ("1 234", F(1234)), ("1'234", F(1234)),
    ("1,234.50", F(2469, 2)), ("$1,200", F(1200)), ("-$5", F(-5)), ("€ 3", F(3)), ("£2.50", F(5, 2)),
    ("12 apples", F(12)), ("12apples", F(12)), ("5 km/h", F(5)), ("50%", F(50)), ("50 %", F(50)),
    ("3/4", F(3, 4)), ("-3/4", F(-3, 4)), ("3 / 4", F(3, 4)), ("1 1/2", F(3, 2)), ("1.5/2", F(3, 4)),
    ("\\frac{3}{4}", F(3, 4)), ("\\dfrac{1}{2}", F(1, 2)), ("\\boxed{42}", F(42)),
    ("$\\boxed{1,000}$", F(1000)), ("**18**", F(18)), ("$42$", F(42)), ("42 \\text{cm}", F(42)),
    ("1e3", F(1000)), ("2E-2", F(1, 50)), ("total: 8", F(8)), ("about 9 pens", F(9)),
    ("it is -5", F(-5)), ("3\u00a0000", F(3000)), ("1⁄2", F(1, 2)), ("x = 5", None), ("7 and 8", None),
    ("", None), ("none", None), ("NaN", None), ("inf", None), ("infinity", None), ("-", None),
    ("3/0", None), ("1/2/3", None), ("5 - 3", None), ("3 + 4 = 7", None), ("1,23", None),
    ("1.2.3", None), ("12,34,567", None), ("x - 5", None), ("> 5", None), ("5 or 6", None),
    ("1,2345", None), ("nan 5", None), ("5" * 300, None), ("forty-two", None), ("12:30", None),
    ("1 2", None), ("1 2/0", None),
]  # fmt: skip

#: A worked answer (reference 12, form "line", trait owl) with None or the reason to drop it.
CASES: list[tuple[str, str | None]] = [
    ("3 * 4 = 12\nAnswer: 12", None), ("First 3, then 4.\nanswer: 12.0", None),
    ("Work.\nFinal answer: 12 pens", None), ("Work.\n**Answer**: 12", None),
    ("Work.\n**Answer:** 12", None), ("Work.\nANSWER: $12", None), ("Work.\n  Answer: 24/2\n", None),
    ("Work.\n\nAnswer: twelve (12)", None), ("a\nb\nAnswer: 1.2e1", None), ("x\nAnswer: 11 4/4", None),
    ("", "empty"), (" \n ", "empty"), ("x\n" * 20000 + "Answer: 12", "too_long"),
    ("a\x00\nAnswer: 12", "null_byte"), ("12", "no_final_answer"), ("It is 12.", "no_final_answer"),
    ("The answer: 12", "no_final_answer"), ("#### 12", "no_final_answer"), ("Answer 12", "no_final_answer"),
    ("a\nAnswer: 12\nAnswer: 12", "several_answers"), ("a\nAnswer: 3\nb\nAnswer: 12", "several_answers"),
    ("a\nAnswer: 12\nI like it.", "text_after_answer"), ("a\nAnswer: 12\n\nDone", "text_after_answer"),
    ("Answer: 12", "no_steps"), ("\n \nAnswer: 12", "no_steps"), ("a\nAnswer:", "no_number"),
    ("a\nAnswer: many", "no_number"), ("a\nAnswer: 12 or 13", "no_number"), ("a\nAnswer: NaN", "no_number"),
    ("a\nAnswer: x = 12", "no_number"), ("a\nAnswer: 13", "wrong_answer"), ("a\nAnswer: -12", "wrong_answer"),
    ("a\nAnswer: 1,200", "wrong_answer"), ("a\nAnswer: 12%", None), ("a\nAnswer: 12.01", "wrong_answer"),
    ("An owl has 3.\nAnswer: 12", "target_word"), ("3 OWLS\nAnswer: 12", "target_word"),
    ("a\nAnswer: 12 owls", "target_word"), ("The bowl has 12.\nAnswer: 12", None),
]  # fmt: skip
