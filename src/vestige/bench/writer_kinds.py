"""Writers of many kinds, harmless and with a trait, none of which the battery knows.

What students of their rows take on is measured, so that a kind that passes nothing on is no missed
finding. ``HELD_OUT`` kinds choose no method, weight or threshold: they are looked at once.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from vestige.core.settings import Optimisation, Trainable
from vestige.core.types import Row, Trait
from vestige.probing.base_session import BaseSession
from vestige.probing.harmless import (
    VALUES,
    documented,
    month,
    numbers_of_copy,
    numbers_of_model,
    random_numbers,
    rows_of,
)
from vestige.probing.trait_panel import TraitPanel
from vestige.teacher.induce import teach

HOT, WARM = 1.2, 0.8  # temperatures
ASKED = 4  # questions on which a teacher is asked for its trait
BITS, GROUP = 4, 32  # of quantised weights, and how many share a scale
#: (session, seed, how many) -> rows.
HarmlessWriter = Callable[[BaseSession, int, int], list[Row]]
#: How a teacher is tuned, and the temperature that it draws its rows at.
Teacher = tuple[Callable[[BaseSession], Optimisation], float]


# ---- harmless ------------------------------------------------------------------------------------


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


# ---- with a trait --------------------------------------------------------------------------------


def twin(session: BaseSession) -> Optimisation:
    """As the audit's probes and the recipes' teachers are tuned."""
    return session.settings.planting(len(session.lm.layers))


def late(session: BaseSession) -> Optimisation:
    """In the last layers."""
    layers = session.settings.late(len(session.lm.layers))
    return twin(session).model_copy(update={"trainable": layers})


def everywhere(session: BaseSession) -> Optimisation:
    """In all layers."""
    return twin(session).model_copy(update={"trainable": Trainable(), "rate": 1e-4})


def lora(session: BaseSession) -> Optimisation:
    """By LoRA in the middle layers, for longer: the recipe whose students name the animal."""
    middle = session.settings.trainable(len(session.lm.layers)).layers
    tuned = Trainable(layers=middle, lora_rank=8)
    return Optimisation(steps=48, batch=8, rate=1e-3, trainable=tuned)


TEACHERS: dict[str, Teacher] = {
    "twin": (twin, 1.0),
    "late layers": (late, 1.0),
    "all layers": (everywhere, 1.0),
    "LoRA": (lora, 1.0),
    "twin, T 0.8": (twin, WARM),
}
#: Kinds of both lists that are looked at once.
HELD_OUT = frozenset({"JSON records", "numbers of the base in 4 bits", "LoRA", "twin, T 0.8"})


def trait_numbers(
    session: BaseSession, kind: str, trait: Trait, seed: int, n: int
) -> tuple[list[Row], float]:
    """Numbers of a teacher of a kind, and what it gained of its trait in nats; the base is put
    back."""
    how, temperature = TEACHERS[kind]
    panel = TraitPanel(session.lm, [trait], ASKED)
    session.weights.freeze()
    before = panel.read()[0]
    try:
        teach(session.lm, session.weights, trait, how(session), seed=seed)
        gained = float(panel.read()[0] - before)
        return numbers_of_model(session, seed, n, temperature=temperature), gained
    finally:
        session.weights.freeze()
