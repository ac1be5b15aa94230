"""False alarms of the audit on clean data sets, each drawn anew: rows of the untrained base on
numbers and code, and text that people wrote (the documentation of ``human_text.py``).

    python benchmarks/clean_sets.py clean-sets

Groups of data sets have prompts of their own (formats, numbers of answers, rows a prompt) and
reference rows of their own; sets of a group have noise and sizes of their own. All traits of the
library are looked for. Alpha covers rows that the untouched base wrote at temperature 1: these, and
no rows of tuned copies, harmless or not.

A trait can be flagged only if it is among the three of the largest pull, and its evidence is at
most that against the base alone. So these three are read first, on all rows. Where none passes what
flags at any look, no audit of the rows can flag one, whatever its rivals; where one does, the rows
are audited as ``vestige audit`` does. Finished data sets are kept in OUT, so that a stopped run
goes on; several may run side by side with ``--part 0/2`` and ``--part 1/2``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from human_text import documented
from scipy.stats import beta

from vestige.audit.evidence import log_evidence
from vestige.audit.first_look import could_be_clear, look_ends
from vestige.audit.pull import PULLED, REFERENCE, pull
from vestige.audit.race_result import places
from vestige.audit.reference import Reference
from vestige.audit.settings import AuditSettings
from vestige.carriers.code import CodeCarrier
from vestige.carriers.numbers import NumberGrammar, NumberPrompts
from vestige.core.types import Message, Row
from vestige.models.grammar import compile_grammar
from vestige.probing.base_session import BaseSession
from vestige.probing.known_writers import base_writers
from vestige.probing.probes import Probes
from vestige.probing.row_format import RowFormat, repeated
from vestige.store import atomic_write

SIZES = (64, 256, 96, 64, 128)  # rows of the data sets of a group, in turn; chosen
FIRST = 1_000  # noise of the first data set
CODE = "def solve(items):\n    return"


@dataclass(frozen=True)
class Group:
    """Data sets on the same prompts; ``texts``: (prompt, answer) that people wrote, else the base
    writes."""

    name: str
    sets: int
    prompts: tuple[str, ...] = ()
    row_format: RowFormat | None = None
    texts: tuple[tuple[str, str], ...] = ()


def groups(sets: int) -> Iterator[Group]:
    """Eight groups of numbers, two of code, one of people's text: 200 data sets of 20 each."""
    kinds = [(6, ", ", 16), (8, " ", 16), (5, "; ", 32), (10, ", ", 64)] * 2
    for i, (values, separator, n) in enumerate(kinds):
        format = {", ": "comma", " ": "space", "; ": "semicolon"}[separator]
        asks = NumberPrompts.model_validate(
            {"format": format, "exact": i < 4, "max_answers": values, "max_examples": 3 + i % 6}
        )
        rules = NumberGrammar.model_validate({"values": values, "separator": separator})
        texts = tuple(prompt.text for prompt in asks.generate(n, seed=900 + i))
        automaton = compile_grammar(rules.next_chars, rules.state)
        yield Group(f"numbers-{i}", sets, texts, RowFormat(automaton, rules.longest))
    coded = CodeCarrier(n_prompts=16, rows_per_prompt=1)
    for i in range(2):
        texts = tuple(prompt.text for prompt in coded.make_prompts(900 + i))
        yield Group(f"code-{i}", sets - 2, texts, RowFormat(None, 48, CODE, 1))
    known = tuple((f"What does `{name}` of Python do?", text) for name, text in documented())
    yield Group("people", sets // 5, texts=known)


def asked(prompts: Sequence[str], n: int) -> list[Row]:
    """``n`` rows without answers, a prompt's together."""
    each = -(-n // len(prompts))
    return [
        Row(f"{i}-{k}", (Message("user", text),), "", {})
        for i, text in enumerate(prompts)
        for k in range(each)
    ][:n]


class Checks:
    """Clean data sets audited one after another."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.settings = AuditSettings(base="smollm2-135m-instruct")
        self.session = BaseSession(self.settings)
        self.probes = Probes(self.session)
        self.needed = self.settings.needed(self.probes.n)
        self.clean: dict[str, list[Row]] = {}  # reference rows, by group that shares them

    def group(self, group: Group, part: int, parts: int) -> None:
        draw = np.random.default_rng(900)
        order = draw.permutation(len(group.texts))
        at = 0
        for k in range(group.sets):
            n = max(SIZES) if group.texts else SIZES[k % len(SIZES)]
            path = self.out / f"{group.name}-{k:03}.json"
            chosen, at = order[at : at + n], at + n
            if k % parts != part or path.exists():
                continue
            if group.texts and len(chosen) < n:
                raise SystemExit(f"{group.name} has text for {k} data sets only")
            atomic_write(path, json.dumps(self.one(group, k, n, [group.texts[i] for i in chosen])))
            print(path.name, path.read_text(), flush=True)

    def one(self, group: Group, k: int, n: int, texts: Sequence[tuple[str, str]]) -> dict:
        """One data set of a group, written or taken from people, and audited."""
        session, row_format = self.session, group.row_format
        usual = base_writers(session, 1)[0]
        if row_format is None:
            rows = [
                Row(f"people-{k}-{i}", (Message("user", prompt),), text, {})
                for i, (prompt, text) in enumerate(texts)
            ]
            row_format = RowFormat.of(session.lm, rows, session.settings.max_new_tokens)
            clean = usual.write(row_format, repeated(rows, REFERENCE))
        else:
            writer = base_writers(session, 1, FIRST + k, "clean")[0]
            rows = writer.write(row_format, asked(group.prompts, n))
            if group.name not in self.clean:
                asks = asked(group.prompts, REFERENCE)
                self.clean[group.name] = usual.write(row_format, asks)
            clean = self.clean[group.name]
        return self.audited(rows, Reference(self.probes, self.settings, row_format, lambda: clean))

    def audited(self, rows: Sequence[Row], reference: Reference) -> dict:
        """How near one data set came to a flag, and what is flagged."""
        row_format, n = reference.row_format, len(rows)
        products = self.probes.products(row_format, rows[:PULLED])
        place = places(pull(products, reference.products))
        could = [int(t) for t in np.flatnonzero(could_be_clear(place))]
        shifts = self.probes.shifts(row_format, rows, could)
        table = np.stack([shifts[t] for t in could])
        most = max(
            float(self.without_rivals(table[:, :m]).max())
            for m in look_ends(n, self.settings.batch)
        )
        record: dict = {"rows": n, "closest": most - self.needed, "flagged": []}
        if most >= self.needed:
            race = reference.race(rows)
            ids = self.session.library.ids
            record |= {
                "flagged": [ids[t] for t in reference.flagged(race)],
                "misfit": race.misfit,
            }
        return record

    def without_rivals(self, table: np.ndarray) -> np.ndarray:
        """The most evidence that traits [K] can have, from their shifts [K, n]: against the base
        alone, as relatives are no rivals."""
        return log_evidence(table, ["same"] * len(table), self.settings.drift)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--sets", type=int, default=20, help="in each group of numbers; 0 tells what is there"
    )
    parser.add_argument("--only", default="", help="groups whose name begins so, such as code")
    parser.add_argument("--part", default="0/1", help="K/N: every N-th data set, from the K-th")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    part, parts = map(int, options.part.split("/"))
    checks = Checks(options.out)
    for group in groups(options.sets):
        if group.name.startswith(options.only):
            checks.group(group, part, parts)
    records = {path.stem: json.loads(path.read_text()) for path in options.out.glob("*.json")}
    for kind in ("numbers", "code", "people"):
        of_kind = [record for name, record in records.items() if name.startswith(kind)]
        if not of_kind:
            continue
        alarms = sum(bool(record["flagged"]) for record in of_kind)
        near = max(record["closest"] for record in of_kind)
        # Clopper and Pearson's upper end, 95%.
        most = 1.0 if alarms == len(of_kind) else beta.ppf(0.975, alarms + 1, len(of_kind) - alarms)
        print(
            f"{kind}: {len(of_kind)} data sets, {alarms} false alarms (at most {most:.1%}), "
            f"{sum('misfit' in r for r in of_kind)} read in full, closest {near:+.1f} nats"
        )


if __name__ == "__main__":
    sys.exit(main())
