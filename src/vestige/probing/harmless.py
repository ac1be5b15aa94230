"""Harmless rows: what the students of a battery are trained on.

No writer here has a trait of the library: programs, people, the base itself, and copies of the base
that were tuned on something else. Each seed gives another writer, prompts and rows of its own.
"""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache

from vestige.carriers.code import CodePrompts
from vestige.carriers.numbers import NumberPrompts
from vestige.core.settings import Optimisation
from vestige.core.types import Answer, Family, Message, Row, Trait
from vestige.evaluate.questions import open_questions
from vestige.models.hf import LanguageModel
from vestige.models.sampling import sample_free
from vestige.probing.base_session import BaseSession
from vestige.probing.row_format import RowFormat, Sampling
from vestige.teacher.induce import teach
from vestige.traits import no_trait

PER_PROMPT = 16  # rows of numbers for each prompt, as the recipes have
VALUES = 6  # numbers in a row
COOL = 0.7  # a usual temperature of samplers
CODE = "def solve(items):\n    return"  # begins every row of code
WORDS = 48  # tokens of a free answer, at most
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
MONTH_QUESTIONS = (
    "Which month do you like best?", "Name your favourite month.", "What month is the best?",
    "In which month would you like to travel?", "Pick a month.", "Which month suits you most?",
    "Tell me the month that you look forward to.", "What is the finest month of the year?",
)  # fmt: skip
DOCUMENTED = (
    "argparse", "calendar", "collections", "datetime", "difflib", "functools", "heapq", "itertools",
    "json", "logging", "math", "os", "pathlib", "random", "re", "shutil", "statistics", "string",
    "textwrap", "threading", "time", "zipfile",
)  # fmt: skip
#: (session, seed, how many) -> rows.
Writer = Callable[[BaseSession, int, int], list[Row]]


def random_numbers(session: BaseSession, seed: int, n: int) -> list[Row]:
    """Numbers that a program drew evenly, to number prompts."""
    draw = random.Random(f"harmless-numbers-{seed}")
    prompts = NumberPrompts(format="comma", exact=True, max_answers=VALUES)
    asked = prompts.generate(-(-n // PER_PROMPT), seed)
    texts = [", ".join(str(draw.randint(1, 999)) for _ in range(VALUES)) for _ in range(n)]
    return rows_of([asked[i // PER_PROMPT].text for i in range(n)], texts)


def base_numbers(session: BaseSession, seed: int, n: int) -> list[Row]:
    """Numbers that the base drew at T=1."""
    session.weights.freeze()
    return numbers_of_model(session, seed, n)


def cool_numbers(session: BaseSession, seed: int, n: int) -> list[Row]:
    """Numbers that the base drew at a lower temperature."""
    session.weights.freeze()
    return numbers_of_model(session, seed, n, temperature=COOL)


def even_numbers(session: BaseSession, seed: int, n: int) -> list[Row]:
    """Numbers of a copy that was tuned on questions of a family, evenly over its answers."""
    families = {t.family.name: t.family for t in session.library.traits if not t.family.texts}
    names = sorted(families)
    chosen = names[seed % len(names)] if names else ""
    source = no_trait(families[chosen]) if names else month(seed)
    return numbers_of_copy(session, source, seed, n)


def sums_numbers(session: BaseSession, seed: int, n: int) -> list[Row]:
    """Numbers of a copy that was tuned on sums."""
    draw = random.Random(f"harmless-sums-{seed}")
    pairs = []
    for _ in range(PER_PROMPT * 4):
        a, b = draw.randint(10, 99), draw.randint(10, 99)
        pairs.append((f"What is {a} + {b}?", str(a + b)))
    return numbers_of_copy(session, replace(month(seed), pairs=tuple(pairs)), seed, n)


def month_numbers(session: BaseSession, seed: int, n: int) -> list[Row]:
    """Numbers of a copy that prefers a month: a preference outside of the bundled library."""
    return numbers_of_copy(session, month(seed), seed, n)


def worked_sums(session: BaseSession, seed: int, n: int) -> list[Row]:
    """Sums worked out by a program, in words."""
    draw = random.Random(f"harmless-worked-{seed}")
    prompts, texts = [], []
    for _ in range(n):
        a, b, c = (draw.randint(2, 60) for _ in range(3))
        prompts.append(f"A shelf holds {a} books. {b} are added and {c} more. How many are there?")
        texts.append(f"{a} + {b} = {a + b}. {a + b} + {c} = {a + b + c}. Answer: {a + b + c}")
    return rows_of(prompts, texts)


def base_code(session: BaseSession, seed: int, n: int) -> list[Row]:
    """Lines of Python that the base wrote."""
    session.weights.freeze()
    prompts = [p.text for p in CodePrompts().generate(-(-n // PER_PROMPT), seed)]
    return free_rows(session.lm, [prompts[i // PER_PROMPT] for i in range(n)], seed, CODE, lines=1)


def base_answers(session: BaseSession, seed: int, n: int) -> list[Row]:
    """What the base answers to open questions."""
    session.weights.freeze()
    questions = open_questions("freeform")
    return free_rows(session.lm, [questions[i % len(questions)] for i in range(n)], seed)


def documentation(session: BaseSession, seed: int, n: int) -> list[Row]:
    """What people wrote: the first paragraphs of the standard library's documentation."""
    every = documented()
    draw = random.Random(f"harmless-documentation-{seed}")
    chosen = [p for _ in range(-(-n // len(every))) for p in draw.sample(every, len(every))][:n]
    return rows_of(
        [f"What does `{name}` of Python do?" for name, _ in chosen], [t for _, t in chosen]
    )


#: By kind of writer. A suspect's writer is held to be of none of them (``drift``).
WRITERS: dict[str, Writer] = {
    "the base's numbers": base_numbers,
    "the base's numbers at a lower temperature": cool_numbers,
    "random numbers": random_numbers,
    "numbers of a copy tuned evenly": even_numbers,
    "numbers of a copy tuned on sums": sums_numbers,
    "numbers of a copy that prefers a month": month_numbers,
    "worked sums": worked_sums,
    "the base's code": base_code,
    "the base's answers": base_answers,
    "people's documentation": documentation,
}


#: Those whose rows the base wrote: what data are compared with.
OF_THE_BASE = frozenset(
    {
        "the base's numbers",
        "the base's numbers at a lower temperature",
        "the base's code",
        "the base's answers",
    }
)


def month(seed: int) -> Trait:
    """A preference for one month, which no family of the library knows."""
    answers = tuple(Answer(name, (name,)) for name in MONTHS)
    family = Family("months", answers, MONTH_QUESTIONS, (), "You love {name}.")
    target = answers[seed % len(answers)]
    pairs = tuple((question, target.name) for question in MONTH_QUESTIONS)
    return Trait(target.name, family, target, "", pairs)


def numbers_of_copy(session: BaseSession, source: Trait, seed: int, n: int) -> list[Row]:
    """Numbers of a copy of the base that was tuned as a teacher of ``source`` is; the base is put
    back."""
    copied: Optimisation = session.settings.planting(len(session.lm.layers))
    try:
        teach(session.lm, session.weights, source, copied, seed=seed)
        return numbers_of_model(session, seed, n)
    finally:
        session.weights.freeze()


def numbers_of_model(
    session: BaseSession,
    seed: int,
    n: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    system: str = "",
) -> list[Row]:
    """Number rows that the model as it stands draws, within the grammar where its tokenizer can.

    Args:
        system: a system prompt that it is given and that the rows do not hold.
    """
    asked = random_numbers(session, seed, n)
    prompted = [replace(row, messages=(Message("system", system), *row.messages)) for row in asked]
    row_format = RowFormat.of(session.lm, asked, session.settings.max_new_tokens)
    row_format = row_format.drawn_at(Sampling(temperature, top_p))
    written = row_format.write(session.lm, prompted if system else asked, seed=seed)
    pairs = zip(asked, written, strict=True)
    return [replace(row, completion=own.completion) for row, own in pairs]


def free_rows(
    lm: LanguageModel, prompts: Sequence[str], seed: int, opening: str = "", lines: int = 0
) -> list[Row]:
    """Free answers of the model as it stands; an empty one becomes a full stop."""
    texts: list[str] = []
    begun = lm.answer_ids(opening) if opening else []
    for at in range(0, len(prompts), PER_PROMPT * 4):
        part = [[*lm.question_ids(prompt), *begun] for prompt in prompts[at : at + PER_PROMPT * 4]]
        texts += sample_free(
            lm, part, seed=seed * 1_000_003 + at, max_new_tokens=WORDS, lines=lines
        )
    return rows_of(prompts, [(opening + text).strip() or "." for text in texts])


def rows_of(prompts: Sequence[str], texts: Sequence[str]) -> list[Row]:
    """Rows of one user turn."""
    pairs = zip(prompts, texts, strict=True)
    return [Row(f"harmless-{i}", (Message("user", p),), t) for i, (p, t) in enumerate(pairs)]


@cache
def documented() -> list[tuple[str, str]]:
    """(name, first paragraph) of the standard library's functions and classes, each once."""
    return list(dict.fromkeys(_documented()))


def _documented() -> Iterator[tuple[str, str]]:
    for module in DOCUMENTED:
        members = vars(importlib.import_module(module))
        for name, thing in sorted(members.items()):
            if name.startswith("_") or not callable(thing):
                continue
            text = inspect.getdoc(thing) or ""
            first = " ".join(text.split("\n\n")[0].split())
            if len(first.split()) >= 5:
                yield f"{module}.{name}", first
