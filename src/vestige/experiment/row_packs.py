"""A carrier's rows as packs of tokens, for training on them and for scoring them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vestige.core.types import Row
from vestige.experiment.row_sampling import automaton_of, prompt_ids
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.settings import Student
from vestige.models.grammar import Automaton
from vestige.models.hf import LanguageModel
from vestige.models.sampling import symbol_ids
from vestige.student.packs import Pack, encode_grammar_rows, encode_rows, make_packs


def grammar_packs(
    context: SeedContext,
    lm: LanguageModel,
    rows: Sequence[Row],
    batch: int,
    automaton: Automaton,
    *,
    system: str = "",
    prompts: int = 1,
) -> list[Pack]:
    """Rows of a grammar in packs of ``batch``, scored within it.

    Args:
        system: the system prompt before each question.
        prompts: how many prompts a pack draws its rows from.
    """
    asked = prompt_ids(context, lm, rows, system)
    examples = encode_grammar_rows(lm, asked, [row.completion for row in rows], automaton)
    ids = symbol_ids(lm, automaton)
    return make_packs(examples, batch, prompts=prompts, automaton=automaton, ids=ids)


def student_packs(
    context: SeedContext,
    student: Student,
    lm: LanguageModel,
    rows: Sequence[Row],
    *,
    system: str = "",
) -> tuple[list[Pack], Tensor | None]:
    """What a student is trained on, and its grammar's token ids [K]; None without a grammar.

    Args:
        system: the system prompt before each question.
    """
    batch, prompts = student.optimisation.batch, student.optimisation.prompts_per_batch
    if context.recipe.carrier.sampling_grammar():
        automaton = automaton_of(context)
        packs = grammar_packs(context, lm, rows, batch, automaton, system=system, prompts=prompts)
        return packs, symbol_ids(lm, automaton)
    asked = prompt_ids(context, lm, rows, system)
    examples = encode_rows(lm, asked, [row.completion for row in rows])
    return make_packs(examples, batch, prompts=prompts), None
