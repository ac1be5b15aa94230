"""Rows alone: teachers write a recipe's carrier data, and nothing is trained on it.

An API model gets its trait from a system prompt and writes freely. What needs the model's weights
or every probability (tuned teachers, grammars, exact evaluation, students) is a local model's.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vestige.api.ledger import Ledger
from vestige.api.model import ApiModel
from vestige.api.price import price as price_of
from vestige.api.requests import Request
from vestige.api.settings import is_api
from vestige.core.types import ConfigError, DataError, Message, Row
from vestige.experiment.recipe import Experiment
from vestige.experiment.run import Event, run_seed
from vestige.experiment.seed_context import LEDGER, Desk
from vestige.rows.files import prompt_of, write_rows
from vestige.store import Run, StageResult, hash_config, load_stage
from vestige.store.files import run_folder
from vestige.store.machine import usable_threads

ROUNDS = 4  # times in a row that a prompt is asked for nothing


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
    on_event: Callable[[Event], None] = lambda event: None,
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
            model = ApiModel(recipe.model, Ledger(folder / LEDGER), connections=connections)
            try:
                for seed in recipe.seeds:
                    tell = reporter(seed, on_event)
                    desk = ApiDesk(recipe, folder, seed, overwrite, tell, model=model)
                    for name in names:
                        desk.rows(name)
            finally:
                opened.update(spent=spending(model.ledger))
        else:
            for seed in recipe.seeds:
                run_seed(config, folder, seed, overwrite, usable_threads(), on_event, upto="rows")
        return folder, [found(folder, seed, name) for seed in recipe.seeds for name in names]


def count_stages(recipe: Experiment) -> int:
    """How many stages ``write`` has."""
    made = len(recipe.writers)
    if not is_api(recipe.model):
        made += 1 + bool(recipe.carrier.sampling_grammar())
        made += len(recipe.sources) + recipe.with_none
    return made * len(recipe.seeds)


def reporter(seed: int, on_event: Callable[[Event], None]) -> Callable[[str, int, int], None]:
    return lambda stage, done, total: on_event(Event(seed, stage, done, total))


def found(folder: Path, seed: int, name: str) -> Written:
    """What a finished stage holds."""
    stage = load_stage(folder / f"seed-{seed}/rows/{name}")
    notes = stage.manifest["notes"]
    return Written(seed, name, stage.path / "rows.jsonl", notes["seen"], notes["kept"])


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
    path = run_folder(root, recipe.name, hash_config(recipe.model_dump(mode="json"))) / LEDGER
    desks = (Desk(recipe, path.parent, seed) for seed in recipe.seeds)
    requests = (
        request
        for desk in desks
        for name in recipe.writers
        for request, _ in first_requests(desk, name)
    )
    return price_of(recipe.model, requests, path)


def first_requests(desk: Desk, name: str) -> Iterator[tuple[Request, list[Row]]]:
    """What a teacher is asked first: one request a prompt, for all of its rows."""
    system = desk.system(desk.trait_of(name))
    prompts: dict[str, list[Row]] = {}
    for row in desk.blank_rows():
        prompts.setdefault(prompt_of(row), []).append(row)
    for rows in prompts.values():
        yield request_for(desk, system, rows, 0), rows


def request_for(desk: Desk, system: str, rows: Sequence[Row], number: int) -> Request:
    """A request for the answers that ``rows`` still need, with a seed of its own: a server that
    is given one seed for all may answer different prompts alike."""
    turns = (*([Message("system", system)] if system else []), *rows[0].messages)
    digest = hashlib.sha256(f"{desk.seed}/{rows[0].id}/{number}".encode()).digest()
    return Request(
        turns,
        desk.recipe.carrier.max_new_tokens,
        choices=len(rows),
        seed=int.from_bytes(digest[:4]) >> 1,
        number=number,
    )


@dataclass
class ApiDesk(Desk):
    """One seed whose rows an API model writes."""

    model: ApiModel | None = None

    def rows(self, name: str) -> StageResult:
        """Rows that the teacher ``name`` wrote: raw, kept and dropped with reasons."""
        system = self.system(self.trait_of(name))
        stage = self.stage(f"rows/{name}", {**self.writing_settings(), "system_prompt": system})
        if not stage.done:
            with stage.writing() as folder:
                rows = self.answered(name, system, stage.name)
                write_rows(folder / "raw.jsonl", rows, overwrite=True)
                self.filter(rows, stage, folder)
        return self.not_too_many_dropped(self.finish(stage))

    def answered(self, name: str, system: str, stage: str) -> list[Row]:
        """Every row with its answer. Raises ``DataError`` if answers are missing."""
        assert self.model is not None
        waiting = [(rows, 0, 0) for _, rows in first_requests(self, name)]
        order = [row.id for rows, *_ in waiting for row in rows]
        done: dict[str, Row] = {}
        problems: Counter[str] = Counter()
        while waiting:
            requests = [request_for(self, system, rows, number) for rows, number, _ in waiting]
            new = set(self.model.new(requests))
            left = []
            for index, reply in self.model.answers(requests):
                rows, number, idle = waiting[index]
                for row, choice in zip(rows, reply.choices, strict=False):
                    done[row.id] = replace(row, completion=choice.text)
                if missing := rows[len(reply.choices) :]:
                    idle = 0 if reply.choices else idle + (requests[index] in new)
                    if idle < ROUNDS:
                        left.append((missing, number + (reply.status == 200), idle))
                    problems[reply.error or "fewer choices than asked for"] += 1
                self.report(stage, len(done), len(order))
            waiting = left
        if len(done) == len(order):
            return [done[name] for name in order]
        told = "; ".join(f"{n} x {why}" for why, n in problems.most_common(3))
        raise DataError(
            f"{stage}: {len(order) - len(done)} of {len(order)} rows got no answer ({told}); the "
            "others are kept: run the same command again"
        )
