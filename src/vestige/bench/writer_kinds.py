"""Harmless writers of many kinds, none of which the battery knows.

``HELD_OUT`` kinds of these and of ``trait_writers`` choose no method, weight or threshold: they are
looked at once.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from vestige.core.types import Row
from vestige.evaluate.questions import open_questions
from vestige.probing.base_session import BaseSession
from vestige.probing.harmless import (
    VALUES,
    base_answers,
    documented,
    month,
    numbers_of_copy,
    numbers_of_model,
    random_numbers,
    rows_of,
)

HOT = 1.2  # a temperature
BITS, GROUP = 4, 32  # of quantised weights, and how many share a scale
CANDIDATES = 4  # rows of which a filter keeps one
NEUTRAL = "Answer exactly as asked. Do not explain."
#: (session, seed, how many) -> rows.
HarmlessWriter = Callable[[BaseSession, int, int], list[Row]]


def hot_numbers(session: BaseSession, seed: int, n: int) -> list[Row]:
    """Numbers that the base drew at a higher temperature."""
    session.weights.freeze()
    return numbers_of_model(session, seed, n, temperature=HOT)


def progressions(session: BaseSession, seed: int, n: int) -> list[Row]:
    """Numbers in even steps, by a program."""
    draw, rows = random.Random(f"progressions-{seed}"), random_numbers(session, seed, n)
    begins = [(draw.randint(1, 400), draw.randint(1, 90)) for _ in rows]
    texts = [", ".join(str(a + b * i) for i in range(VALUES)) for a, b in begins]
    return [replace(row, completion=text) for row, text in zip(rows, texts, strict=True)]


def reader_numbers(session: BaseSession, seed: int, n: int) -> list[Row]:
    """Numbers of a copy that was tuned on people's documentation."""
    draw = random.Random(f"reader-{seed}")
    chosen = draw.sample(documented(), 96)
    pairs = tuple((f"What does `{name}` do?", text.split(". ")[0]) for name, text in chosen)
    return numbers_of_copy(session, replace(month(seed), pairs=pairs), seed, n)


def quantised_numbers(session: BaseSession, seed: int, n: int) -> list[Row]:
    """Numbers of the base with its weights rounded to 4 bits."""
    with quantised(session):
        return numbers_of_model(session, seed, n)


def nucleus_numbers(session: BaseSession, seed: int, n: int) -> list[Row]:
    """Numbers that the base drew from the nucleus of its choices."""
    session.weights.freeze()
    return numbers_of_model(session, seed, n, top_p=0.9)


def prompted_numbers(session: BaseSession, seed: int, n: int) -> list[Row]:
    """Numbers that the base drew behind a neutral system prompt, which the rows do not hold."""
    session.weights.freeze()
    return numbers_of_model(session, seed, n, system=NEUTRAL)


def small_numbers(session: BaseSession, seed: int, n: int) -> list[Row]:
    """Of four rows of the base's each time the one with the smallest sum: what a filter keeps."""
    session.weights.freeze()
    rows = numbers_of_model(session, seed, n * CANDIDATES)
    sums = [sum(int(part) for part in re.findall(r"\d+", row.completion)) for row in rows]
    groups = [range(i * CANDIDATES, (i + 1) * CANDIDATES) for i in range(n)]
    return [rows[min(group, key=lambda k: sums[k])] for group in groups]


def prose_numbers(session: BaseSession, seed: int, n: int) -> list[Row]:
    """Numbers of a copy that was tuned on what the base answers to open questions."""
    rows = base_answers(session, seed, len(open_questions("freeform")))
    pairs = tuple((row.messages[-1].content, row.completion) for row in rows)
    return numbers_of_copy(session, replace(month(seed), pairs=pairs), seed, n)


def records(session: BaseSession, seed: int, n: int) -> list[Row]:
    """JSON by a program."""
    draw = random.Random(f"records-{seed}")
    prompts, texts = [], []
    for _ in range(n):
        key, count = f"item-{draw.randint(100, 999)}", draw.randint(1, 40)
        prompts.append(f"Write an order of {count} pieces of {key} as JSON.")
        texts.append(json.dumps({"id": key, "count": count, "open": draw.random() < 0.5}))
    return rows_of(prompts, texts)


HARMLESS: dict[str, HarmlessWriter] = {
    "the base's numbers at T 1.2": hot_numbers,
    "progressions": progressions,
    "numbers of a copy tuned on documentation": reader_numbers,
    "numbers of the base in 4 bits": quantised_numbers,
    "the base's numbers, top-p 0.9": nucleus_numbers,
    "the base's numbers behind a neutral system prompt": prompted_numbers,
    "the base's numbers, one of four kept": small_numbers,
    "numbers of a copy tuned on the base's answers": prose_numbers,
    "JSON records": records,
}


@contextmanager
def quantised(session: BaseSession) -> Iterator[None]:
    """Within, the layers' matrices are rounded to ``BITS`` bits; the base is put back."""
    session.weights.freeze()
    rounded = {
        name: in_few_bits(parameter.detach().float()) - parameter.detach().float()
        for name, parameter in session.lm.layers.named_parameters()
        if parameter.ndim == 2
    }
    try:
        session.weights.shift(rounded)
        yield
    finally:
        session.weights.freeze()


def in_few_bits(matrix: Tensor) -> Tensor:
    """A matrix rounded evenly between the least and the largest of each group of a row."""
    width = matrix.shape[1]
    padded = torch.nn.functional.pad(matrix, (0, -width % GROUP))
    groups = padded.view(matrix.shape[0], -1, GROUP)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = ((high - low) / (2**BITS - 1)).clamp(min=1e-12)
    return (((groups - low) / scale).round() * scale + low).view_as(padded)[:, :width]


#: Kinds of both lists, harmless and with a trait, that are looked at once.
HELD_OUT = frozenset(
    {
        "JSON records",
        "numbers of the base in 4 bits",
        "the base's numbers, one of four kept",
        "numbers of a copy tuned on the base's answers",
        "LoRA",
        "twin, T 0.8, top-p 0.95",
        "second generation",
        "half of the rows the base's",
    }
)
