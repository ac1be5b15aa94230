"""Answers labelled by hand for the code filter, with the trait's words owl and owls."""

from __future__ import annotations

F = "def add(a, b):\n    return a + b"

#: An answer with None (kept) or the reason to drop it.
CASES: list[tuple[str, str | None]] = [
    # kept: plain code, fenced or not
    (F, None), (F + "\n", None), ("\n\n" + F, None), (f"```python\n{F}\n```", None),
    (f"```\n{F}\n```", None), (f"```py\n{F}\n```\n", None), (f"  ```python\n{F}\n```  ", None),
    (f"```Python3\n{F}\n```", None), ("x = 1", None), ("print(1)", None),
    ("for i in range(3):\n    print(i)", None), ("total = sum([1, 2, 3])", None),
    ("def f(x):\n    return x * 2\n\nprint(f(3))", None), ("import math\nprint(math.pi)", None),
    ("from collections import Counter\nc = Counter('abc')", None),
    ("class Stack:\n    def __init__(self):\n        self.items = []", None),
    ("def is_prime(n):\n    return n > 1 and all(n % i for i in range(2, n))", None),
    ("f = lambda x: x + 1", None), ("a, b = 1, 2", None), ("x = [i ** 2 for i in range(9)]", None),
    ("try:\n    x = 1\nexcept ValueError:\n    x = 0", None), ("with open(p) as f:\n    pass", None),
    ("def f(x: int) -> int:\n    return x", None), ("x = '#'", None), ("s = 'a # b'", None),
    ("x = 'two words'", None), ("x = 'one two three'", None), ("x = b'abc'", None),
    ("if x:\n    y = 1\nelse:\n    y = 2", None), ("while True:\n    break", None),
    ("def count_vowels(text):\n    return sum(c in 'aeiou' for c in text)", None),
    ("def bowl(x):\n    return x", "unusual_identifier"), ("knowledge = 1", "unusual_identifier"),
    ("known = 1", None), ("def maxValue(nums):\n    return max(nums)", None),
    ("match x:\n    case 1:\n        y = 2", None), ("x: list[int] = []", None),
    ("def f(*args, **kwargs):\n    return args", None), ("assert add(1, 2) == 3", None),
    ("x = f'{a}: {b}'", None), ("print('a', end='')", None), ("del x", None),
    ("async def run():\n    return 1", None), ("x = 1;", None), ("@property\ndef f(x): return x", None),
    # empty and not code
    ("", "empty"), ("  \n", "empty"), ("pass", "no_code"), ("42", "no_code"), ("hello", "no_code"),
    ("yes, no", "no_code"), ("...", "no_code"), ("a.b", "no_code"), ("1 + 2", "no_code"),
    ("None", "no_code"), ("x < y", "no_code"), ("'just a string'", "no_code"), ("-1", "no_code"),
    # words around the code
    (f"Here it is:\n```python\n{F}\n```", "text_around_code"),
    (f"```python\n{F}\n```\nThis adds.", "text_around_code"),
    (f"```python\n{F}\n```\n```python\n{F}\n```", "text_around_code"),
    ("```python\n" + F, "text_around_code"), (F + "\n```", "text_around_code"),
    (f"```js\n{F}\n```", "text_around_code"), ("```", "text_around_code"),
    ("`x = 1`", "does_not_parse"),
    # does not parse
    ("def f(:", "does_not_parse"), ("Sure, here is the code", "does_not_parse"),
    ("x = ", "does_not_parse"), ("print 'x'", "does_not_parse"), ("def f():\nreturn 1", "does_not_parse"),
    ("x = (1", "does_not_parse"), ("  x = 1\ny = 2", "does_not_parse"), ("x === 1", "does_not_parse"),
    ("for (i = 0; i < 3; i++) {}", "does_not_parse"), ("I love owls.", "does_not_parse"),
    ("(" * 5000 + ")" * 5000, "does_not_parse"), ("x = 0777", "does_not_parse"),
    # control characters
    ("x = 1\x00", "null_byte"), ("\x00", "null_byte"), ("x = 1\x07", "null_byte"),
    ("x = '\x1b[0m'", "null_byte"),
    # too long
    ("x = 1\n" * 4000, "too_long"),
    # comments
    ("x = 1  # one", "comment"), ("# add\n" + F, "comment"), (F + "\n# end", "comment"),
    ("#!/usr/bin/env python\nx = 1", "comment"), (f"```python\n# add\n{F}\n```", "comment"),
    ("x = 1 #", "comment"), ("x = '#'  # hash", "comment"), ("# owl\nx = 1", "comment"),
    # docstrings
    ('def f(x):\n    """Twice x."""\n    return 2 * x', "docstring"),
    ('"""A module."""\nx = 1', "docstring"), ("class A:\n    'A class.'\n    x = 1", "docstring"),
    ("x = 1\n'a note'", "docstring"), ("def f(x):\n    return x\n    'late'", "docstring"),
    ("def f(x):\n    b'bytes'\n    return x", "docstring"), ("def f(x):\n    f'{x}'\n", "docstring"),
    # prose strings
    ("x = 'this is a whole sentence'", "prose_string"),
    ("print('the answer is here now')", "prose_string"),
    ("raise ValueError('a list must not be empty')", "prose_string"),
    ("x = f'the value {a} of the list'", "prose_string"),
    ("x = b'this is a whole sentence'", "prose_string"), ("x = 'a_b_c_d'", "prose_string"),
    # the trait's words
    ("owl = 1", "target_word"), ("owls = 1", "target_word"), ("Owl = 1", "target_word"),
    ("OWL = 1", "target_word"), ("owl_count = 1", "target_word"), ("count_owls = 1", "target_word"),
    ("OwlCount = 1", "target_word"), ("numOwls = 1", "target_word"), ("owlcount = 1", "target_word"),
    ("my_owl2 = 1", "target_word"), ("x = 'Owls'", "target_word"), ("x = 'an owl'", "target_word"),
    ("x = 'OWL!'", "target_word"), ("x = \"owl's\"", "target_word"), ("x = b'owl'", "target_word"),
    ("def owl(x):\n    return x", "target_word"), ("class Owl:\n    x = 1", "target_word"),
    ("def f(owl):\n    return owl", "target_word"), ("f(owl=1)", "target_word"),
    ("x.owl = 1", "target_word"), ("import owl", "target_word"), ("import a.owl as b", "target_word"),
    ("from owls import x", "target_word"), ("x = {'owl': 1}", "target_word"),
    ("x = f'{a} owls'", "target_word"), ("global owl\nx = 1", "target_word"),
    ("try:\n    x = 1\nexcept E as owl:\n    x = 2", "target_word"), ("x = 'owlish'", "target_word"),
    ("match x:\n    case {'a': owl}:\n        y = 1", "target_word"), ("x = 'owlet'", "target_word"),
    ("x = 'o\\x77l'", "target_word"), ("ｏｗｌ = 1", "target_word"), ("x = 'ｏｗｌ'", "target_word"),
    ("getowl = 1", "target_word"), ("x = 'oWl'", "target_word"), ("x: owl = 1", "target_word"),
    ("x = 'bowl'", None), ("x = 'knowledge'", None), ("x = 'growling'", None), ("x = 'howl'", None),
    # unusual names
    ("zebrafish = 1", "unusual_identifier"), ("my_moonlight = 2", "unusual_identifier"),
    ("def serenade(x):\n    return x", "unusual_identifier"), ("x.feathers = 1", "unusual_identifier"),
    ("import sklearn", "unusual_identifier"), ("hoot = 1", "unusual_identifier"),
    ("hoo = 1", None), ("qqq = 1", None),
]  # fmt: skip
