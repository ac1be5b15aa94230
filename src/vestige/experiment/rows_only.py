"""Rows alone: teachers write a recipe's carrier data, and nothing is trained on it.

An API model gets its trait from a system prompt and writes freely. What needs the model's weights
or every probability (tuned teachers, grammars, exact evaluation, students) is a local model's.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vestige.api.ledger import Ledger
from vestige.api.model import ApiModel
from vestige.api.price import price as price_of
from vestige.api.requests import Request
from vestige.api.settings import is_api
from vestige.core.types import ConfigError, DataError, Message, Row
from vestige.experiment.events import OnEvent, ignore, report_of
from vestige.experiment.executors.processes import run_seed
from vestige.experiment.row_filtering import (
    blank_rows,
    check_dropped,
    write_filtered,
    writing_settings,
)
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.settings import Experiment
from vestige.rows.files import prompt_of, write_rows
from vestige.store import Run, StageResult, hash_config, load_stage
from vestige.store.files import run_folder
from vestige.store.layout import RunLayout, StageFile
from vestige.store.machine import usable_threads

ROUNDS = 4  # times in a row that a prompt is asked and brings nothing; chosen


@dataclass(frozen=True)
class Written:
    """One teacher's rows of one seed: the kept ones and their counts."""

    seed: int
    trait: str
    path: Path
    seen: int
    kept: int


def check_writable(recipe: Experiment) -> None:
    """Raises ``ConfigError`` for what an API model cannot do, naming the setting."""
    carrier, problems = recipe.carrier, []
    if recipe.teacher.kind != "system_prompt":
        problems.append("it cannot be tuned (teacher.kind=system_prompt)")
    if carrier.sampling_grammar():
        problems.append("it cannot write inside a grammar (carrier.constrained=false)")
    begun = any("opening" in p.meta for p in carrier.make_prompts(recipe.seeds[0]))
    if carrier.opening or carrier.lines or begun:
        problems.append(
            "it begins and ends its answers itself (carrier.opening= carrier.lines=0, for worked "
            "solutions carrier.begun=false)"
        )
    if problems:
        raise ConfigError(f"{recipe.model} is behind an API: {'; '.join(problems)}")


def write(
    recipe: Experiment,
    root: Path,
    *,
    connections: int = 8,
    overwrite: bool = False,
    on_event: OnEvent = ignore,
) -> tuple[Path, list[Written]]:
    """Every teacher's rows for every seed of ``recipe``, below ``root``.

    Returns:
        The run folder and what was written. A local model's rows are those that ``run`` uses.

    Raises:
        ConfigError: the model is behind an API and the recipe needs more than that.
        SpendingError: a limit would be passed; the same command goes on after it was raised.
        DataError: answers are missing, or the filter dropped too many.
    """
    config = recipe.model_dump(mode="json")
    names = recipe.writers
    if is_api(recipe.model):
        check_writable(recipe)
    with Run.open(root, recipe.name, config, overwrite=overwrite) as opened:
        folder = opened.folder
        if is_api(recipe.model):
            ledger = Ledger(RunLayout(folder).ledger)
            model = ApiModel(recipe.model, ledger, connections=connections)
            try:
                for seed in recipe.seeds:
                    report = report_of(seed, on_event)
                    context = SeedContext.of(
                        recipe, folder, seed, overwrite=overwrite, report=report
                    )
                    for name in names:
                        api_rows(context, model, name)
            finally:
                opened.update(spent=spending(model.ledger))
        else:
            for seed in recipe.seeds:
                run_seed(config, folder, seed, overwrite, usable_threads(), on_event, upto="rows")
        return folder, [written(folder, seed, name) for seed in recipe.seeds for name in names]


def count_stages(recipe: Experiment) -> int:
    """How many stages ``write`` has."""
    made = len(recipe.writers)
    if not is_api(recipe.model):
        made += 1 + bool(recipe.carrier.sampling_grammar())
        made += len(recipe.sources) + recipe.with_none
    return made * len(recipe.seeds)


def written(folder: Path, seed: int, name: str) -> Written:
    """What a finished stage holds."""
    stage = load_stage(RunLayout(folder).rows(seed, name))
    notes = stage.manifest["notes"]
    return Written(seed, name, stage.path / StageFile.KEPT, notes["seen"], notes["kept"])


def spending(ledger: Ledger) -> dict[str, Any]:
    """What a ledger's answers have cost, as plain data."""
    used = ledger.spent
    return {
        "tokens_read": used.read,
        "tokens_written": used.written,
        "dollars": ledger.limits.cost(used),
    }


def price(recipe: Experiment, root: Path) -> dict[str, Any]:
    """What ``write`` would take from here on, asking nobody: about, and at most.

    Raises:
        ConfigError: as ``write``.
    """
    check_writable(recipe)
    folder = run_folder(root, recipe.name, hash_config(recipe.model_dump(mode="json")))
    seeds = (SeedContext.of(recipe, folder, seed) for seed in recipe.seeds)
    requests = (
        request
        for context in seeds
        for name in recipe.writers
        for request, _ in first_requests(context, name)
    )
    return price_of(recipe.model, requests, RunLayout(folder).ledger)


def first_requests(context: SeedContext, name: str) -> Iterator[tuple[Request, list[Row]]]:
    """What a teacher is asked first: one request a prompt, for all of its rows."""
    system = context.system_prompt(context.trait_of(name))
    prompts: dict[str, list[Row]] = {}
    for row in blank_rows(context):
        prompts.setdefault(prompt_of(row), []).append(row)
    for rows in prompts.values():
        yield request_for(context, system, rows, 0), rows


def request_for(context: SeedContext, system: str, rows: Sequence[Row], number: int) -> Request:
    """A request for the answers that ``rows`` still need, with a seed of its own: a server that
    is given one seed for all may answer different prompts alike."""
    turns = (*([Message("system", system)] if system else []), *rows[0].messages)
    digest = hashlib.sha256(f"{context.seed}/{rows[0].id}/{number}".encode()).digest()
    return Request(
        turns,
        context.recipe.carrier.max_new_tokens,
        choices=len(rows),
        seed=int.from_bytes(digest[:4]) >> 1,
        number=number,
    )


def api_rows(context: SeedContext, model: ApiModel, name: str) -> StageResult:
    """Rows that an API model wrote as the teacher ``name``: raw, kept and dropped with reasons."""
    system = context.system_prompt(context.trait_of(name))
    settings = {**writing_settings(context), "system_prompt": system}
    stage = context.stage(context.layout.rows(context.seed, name), settings)

    def make(folder: Path) -> None:
        rows = answered(context, model, name, stage.name)
        write_rows(folder / StageFile.RAW, rows, overwrite=True)
        write_filtered(context, rows, stage, folder)

    return check_dropped(context, context.once(stage, make))


def answered(context: SeedContext, model: ApiModel, name: str, stage: str) -> list[Row]:
    """Every row with its answer. Raises ``DataError`` if answers are missing."""
    system = context.system_prompt(context.trait_of(name))
    waiting = [(rows, 0, 0) for _, rows in first_requests(context, name)]
    order = [row.id for rows, *_ in waiting for row in rows]
    done: dict[str, Row] = {}
    problems: Counter[str] = Counter()
    while waiting:
        requests = [request_for(context, system, rows, number) for rows, number, _ in waiting]
        new = set(model.new(requests))
        left = []
        for index, reply in model.answers(requests):
            rows, number, idle = waiting[index]
            for row, choice in zip(rows, reply.choices, strict=False):
                done[row.id] = replace(row, completion=choice.text)
            if missing := rows[len(reply.choices) :]:
                idle = 0 if reply.choices else idle + (requests[index] in new)
                if idle < ROUNDS:
                    left.append((missing, number + (reply.status == 200), idle))
                problems[reply.error or "fewer choices than asked for"] += 1
            context.report(stage, len(done), len(order))
        waiting = left
    if len(done) == len(order):
        return [done[row] for row in order]
    reasons = "; ".join(f"{n} x {why}" for why, n in problems.most_common(3))
    raise DataError(
        f"{stage}: {len(order) - len(done)} of {len(order)} rows got no answer ({reasons}); the "
        "others are kept: run the same command again"
    )
