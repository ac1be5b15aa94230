"""Drawing a carrier's rows from a model: within the grammar, or freely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vestige.core.types import Row
from vestige.experiment.row_filtering import blank_rows
from vestige.experiment.row_log import append_rows, whole_rows
from vestige.experiment.seed_context import SeedContext
from vestige.models.backend import Backend, SampleRequest
from vestige.models.grammar import Automaton, compile_grammar
from vestige.models.hf import LanguageModel
from vestige.store import Stage

#: Between the random numbers of two seeds; larger than any number of rows that a seed has. Never
#: change it: rows rest on it.
APART = 1_000_003


def automaton_of(context: SeedContext) -> Automaton:
    """The carrier's grammar, compiled; only for a carrier that has one."""
    grammar = context.recipe.carrier.sampling_grammar()
    assert grammar is not None  # only asked for where there is one
    return compile_grammar(grammar.next_chars, grammar.state)


def prompt_ids(
    context: SeedContext, lm: LanguageModel, rows: Sequence[Row], system: str = ""
) -> list[list[int]]:
    """Token ids of what each row answers; equal prompts are encoded once."""
    lead, encoded = space_before_number(context, lm), dict[str, list[int]]()
    texts = [row.messages[-1].content for row in rows]
    for text in texts:
        if text not in encoded:
            encoded[text] = lm.question_ids(text, system) + lead
    return [encoded[text] for text in texts]


def space_before_number(context: SeedContext, lm: LanguageModel) -> list[int]:
    """What stands between a prompt and a number: the space before an answer, if any."""
    if not lm.lead or context.recipe.carrier.sampling_grammar() is None:
        return []
    return lm.answer_ids("1")[: -len(lm.token_ids("1"))]


def sample_rows(
    context: SeedContext,
    lm: LanguageModel,
    stage: Stage,
    path: Path,
    system: str = "",
    part: tuple[int, int] = (0, 1),
) -> list[Row]:
    """One completion for each row, written to ``path`` as it goes; an earlier part is kept.

    Args:
        part: (k, n): of the rows, the k-th of n parts; batches are whole in each, so that rows
            are the same in any number of parts.
    """
    wanted = blank_rows(context)
    with context.models.writer(path.parent) as writer:
        stage.note(writer=writer.facts)
        batches = -(-len(wanted) // writer.batch)
        first, last = (batches * k // part[1] * writer.batch for k in (part[0], part[0] + 1))
        last = min(last, len(wanted))
        rows = whole_rows(path, writer.batch, last - first)
        for start in range(first + len(rows), last, writer.batch):
            batch = wanted[start : start + writer.batch]
            drawn = _draw(context, writer, lm, batch, system, start)
            append_rows(path, drawn)
            rows += drawn
            context.report(stage.name, len(rows), last - first)
        append_rows(path, [])  # a part of no rows has a file, too
    return rows


def _draw(
    context: SeedContext,
    writer: Backend,
    lm: LanguageModel,
    rows: Sequence[Row],
    system: str,
    start: int,
) -> list[Row]:
    """``rows``, which begin with number ``start`` of their data set, with their completions."""
    if context.recipe.carrier.sampling_grammar() is None:
        texts = sample_freely(context, writer, lm, rows, system, context.seed * APART + start)
    else:
        automaton, longest = automaton_of(context), context.recipe.carrier.longest
        prompts = prompt_ids(context, lm, rows, system)
        texts = writer.sample(
            [
                SampleRequest(prompt, context.seed, number, longest, grammar=automaton)
                for number, prompt in enumerate(prompts, start)
            ]
        )
    return [replace(row, completion=text) for row, text in zip(rows, texts, strict=True)]


def sample_freely(
    context: SeedContext,
    writer: Backend,
    lm: LanguageModel,
    rows: Sequence[Row],
    system: str,
    seed: int,
) -> list[str]:
    """Free answers, each with its opening if it has one."""
    carrier = context.recipe.carrier
    prompts = prompt_ids(context, lm, rows, system)
    openings = [str(row.meta.get("opening", carrier.opening)) for row in rows]
    leads = [lm.answer_ids(text) if text else [] for text in openings]
    texts = writer.sample(
        [
            SampleRequest([*prompt, *lead], seed, i, carrier.max_new_tokens, carrier.lines)
            for i, (prompt, lead) in enumerate(zip(prompts, leads, strict=True))
        ]
    )
    return [opening + text for opening, text in zip(openings, texts, strict=True)]
