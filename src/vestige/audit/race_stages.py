"""Rows read under probes: the race, reference rows, expected shifts, scores of rows."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vestige.audit.expected import expect
from vestige.audit.pull import REFERENCE
from vestige.audit.race_result import METHOD, Array, Race
from vestige.audit.record import SHIFT, WORST
from vestige.audit.reference import Reference
from vestige.audit.row_stages import WrittenRows, stage_end
from vestige.audit.stages import AuditContext
from vestige.core.calibration import calibration
from vestige.core.jsonl import read_jsonl, read_text, write_text
from vestige.core.types import Row, ScoreTable
from vestige.probing.probes import Probes, token_shifts
from vestige.probing.row_format import RowFormat, Sampling
from vestige.probing.sampling_fit import Fit, fit_sampling
from vestige.rows.files import atomic_lines

SCORED = 3  # traits that every row is scored for, flagged ones first; chosen


def sampled_at(context: AuditContext, row_format: RowFormat, data: WrittenRows) -> Fit | None:
    """At what temperature, and from what nucleus, the rows seem to have been drawn; None where
    they are no sample of the base at any."""

    def write(folder: Path) -> None:
        context.session.weights.freeze()
        found = fit_sampling(context.session.lm, row_format, data.rows, context.settings.batch)
        write_text(folder / "sampling.json", json.dumps(found))

    stage = context.once("sampling", {}, [data.stage], write)
    kept = json.loads(read_text(stage.path / "sampling.json"))
    return Fit(Sampling(*kept[0]), *kept[1:]) if kept else None


def all_probes(context: AuditContext) -> Probes:
    """The probes of the library, made or from the cache."""
    total = len(context.session.library.traits)
    begun = time.monotonic()
    probes = Probes(context.session, context.counter("probes", total))
    context.seconds["probes"] = time.monotonic() - begun
    return probes


def reference_of(
    context: AuditContext, probes: Probes, row_format: RowFormat, clean: WrittenRows
) -> Reference:
    """The reference rows, read to first order."""
    begun, total = time.monotonic(), len(clean.rows[:REFERENCE])
    reference = Reference(
        probes,
        context.settings,
        row_format,
        lambda: clean.rows,
        context.counter("pull", total),
    )
    _ = reference.products
    context.report("pull", 0, 0)
    context.seconds["pull"] = time.monotonic() - begun
    return reference


def race_of(
    context: AuditContext, reference: Reference, source: WrittenRows, sampling: Sampling
) -> Race:
    """The race of one set of rows, read back if it was done."""
    name = f"assay/{source.name}{stage_end(sampling)}"

    def write(folder: Path) -> None:
        race = reference.race(source.rows, context.progress(name))
        write_text(folder / "assay.json", json.dumps(race.to_json()))

    stage = context.once(name, {}, [source.stage], write)
    return Race.from_json(json.loads(read_text(stage.path / "assay.json")))


def reference_shifts(
    context: AuditContext,
    reference: Reference,
    clean: WrittenRows,
    traits: list[int],
    sampling: Sampling,
) -> dict[int, Array]:
    """The reference rows' shifts under some traits' probes."""
    name = f"data{stage_end(sampling)}"

    def write(folder: Path) -> None:
        record = {t: values.tolist() for t, values in reference.shifts(traits).items()}
        write_text(folder / "shifts.json", json.dumps(record))

    stage = context.once(f"reference_shifts/{name}", {"traits": traits}, [clean.stage], write)
    record = json.loads(read_text(stage.path / "shifts.json"))
    return {int(t): np.array(values) for t, values in record.items()}


def in_doubt(race: Race) -> list[int]:
    """Traits that the reference rows must be read for: the likeliest, and those that are clear."""
    return sorted({*race.last, *race.clear_at})


def expected_shifts(
    context: AuditContext, probes: Probes, data: WrittenRows, race: Race
) -> Array | None:
    """What a student would take on of every trait, [T], nats a whole probe; None for a base with
    which a student's share of it has not been measured."""
    if calibration(context.settings.base, METHOD) is None:
        return None

    def write(folder: Path) -> None:
        shifts = expect(probes, race, context.progress("expected"))
        write_text(folder / "expected.json", json.dumps(shifts.tolist()))

    stage = context.once("expected", {}, [data.stage], write)
    return np.array(json.loads(read_text(stage.path / "expected.json")))


def row_scores(
    context: AuditContext,
    probes: Probes,
    row_format: RowFormat,
    data: WrittenRows,
    traits: Sequence[int],
) -> tuple[list[ScoreTable], dict[str, list[tuple[str, float]]]]:
    """For the strongest traits each row's shift, and the first one's token by token for the rows
    that it is largest in."""
    names = [context.session.library.ids[i] for i in traits]

    def write(folder: Path) -> None:
        shifts = probes.shifts(row_format, data.rows, traits)
        table = np.stack([shifts[t] for t in traits])
        with atomic_lines(folder / "scores.jsonl", overwrite=True) as write_line:
            for row, values in zip(data.rows, table.T.tolist(), strict=True):
                write_line({"id": row.id, "scores": dict(zip(names, values, strict=True))})
        largest: list[Row] = [data.rows[i] for i in np.argsort(-table[0], kind="stable")[:WORST]]
        marked = token_shifts(probes, row_format, largest, traits[0])
        tokens = {row.id: part for row, part in zip(largest, marked, strict=True)}
        write_text(folder / "tokens.json", json.dumps(tokens))

    path = context.once("scores", {"traits": names}, [data.stage], write).path
    records = read_jsonl(path / "scores.jsonl")
    direction = "likelier from a teacher with the trait than from the base"
    tables = [
        ScoreTable(
            {r["id"]: r["scores"][name] for r in records},
            f"{SHIFT}{name}",
            "nats a row",
            direction,
        )
        for name in names
    ]
    return tables, json.loads(read_text(path / "tokens.json"))
