"""Exact evaluation: the probability that an answer begins with each candidate's surface forms.

P(candidate | question) = sum over its forms of the product of token probabilities. Forms are
disjoint events: a form whose tokens extend another form's is part of that event and is left out.

Paired families: P(answer | question) of each question's own whole answers, their end included.

Begun answers: P(the opening is followed by one of the candidate's forms, as a word of its own |
question, opening). "My favourite animal is the" is followed by an animal far more often than a
question is answered by one word. Here forms are whole words: "cat" is no part of "caterpillar".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vestige.core.types import DataError, Family, Message
from vestige.evaluate.scores import Panel
from vestige.models.candidates import answer_forms
from vestige.models.hf import LanguageModel


def measure(
    lm: LanguageModel,
    family: Family,
    questions: Sequence[str] | None = None,
    *,
    system: str = "",
    before: Sequence[Message] = (),
    batch: int = 8,
) -> Panel:
    """Every candidate of ``family`` on every question (default: the held-out ones).

    Args:
        system: a system prompt, for teachers that have their trait from one.
        before: turns that stand before the question (the in-context control).

    Raises:
        DataError: there are no questions, or two candidates cannot be distinguished.
    """
    asked = tuple(questions or family.heldout)
    if not asked:
        raise DataError(f"family {family.name} has no held-out questions to measure with")
    prompts = [lm.question_ids(q, system, before) for q in asked]
    names = tuple(answer.name for answer in family.answers)
    if family.texts:
        if asked != family.heldout:
            raise DataError(f"family {family.name} has answers to its held-out questions alone")
        choices = [[whole_answer(lm, text) for text in texts] for texts in family.texts]
        by_question = lm.choice_logprobs(prompts, choices, batch=batch)
        return Panel(asked, names, torch.stack(by_question).numpy())
    forms, owner = answer_forms(lm, family)
    logprobs = lm.answer_logprobs(prompts, forms, batch=batch)
    return Panel(asked, names, joined(logprobs, owner))


def measure_begun(lm: LanguageModel, family: Family, *, batch: int = 8) -> Panel:
    """Every candidate of ``family`` on every held-out question, its answer begun by the opening.

    Raises:
        DataError: the family has no opening, or the tokenizer joins it with what follows.
    """
    if not family.opening:
        raise DataError(f"family {family.name} has no opening to begin answers with")
    begun = lm.answer_ids(family.opening)
    forms, owner = [], []
    for index, answer in enumerate(family.answers):
        for form in answer.forms:
            if is_part_of_another(form, index, family):
                continue
            ids = lm.answer_ids(f"{family.opening} {form}")
            if ids[: len(begun)] != begun:
                raise DataError(
                    f"this tokenizer joins the opening {family.opening!r} with {form!r}: give the "
                    "family another opening"
                )
            forms.append(ids[len(begun) :])
            owner.append(index)
    prompts = [[*lm.question_ids(question), *begun] for question in family.heldout]
    logprobs = lm.answer_logprobs(prompts, forms, batch=batch, whole_words=True)
    return Panel(family.heldout, tuple(a.name for a in family.answers), joined(logprobs, owner))


def is_part_of_another(form: str, index: int, family: Family) -> bool:
    """Whether a form of candidate ``index`` begins with another form as a whole word ("fox cub",
    "fox"): its event is part of that one's.

    Raises:
        DataError: the other form is another candidate's.
    """
    for owner, answer in enumerate(family.answers):
        for shorter in answer.forms:
            if shorter != form and re.match(rf"{re.escape(shorter)}(?!\w)", form):
                if owner != index:
                    raise DataError(
                        f"{form!r} begins with {shorter!r}, which names {answer.name}: they cannot "
                        "be distinguished by their first words; give other forms"
                    )
                return True
    return False


def joined(logprobs: Tensor, owner: Sequence[int]) -> NDArray[np.float64]:
    """Log-probability of each candidate from those of its forms: [questions, candidates]."""
    columns = [
        torch.logsumexp(logprobs[:, [i for i, o in enumerate(owner) if o == c]], dim=1)
        for c in range(max(owner) + 1)
    ]
    return torch.stack(columns, 1).numpy()


def whole_answer(lm: LanguageModel, text: str) -> list[int]:
    """Token ids of a complete answer, its end included."""
    return [*lm.answer_ids(text), lm.end_id]
