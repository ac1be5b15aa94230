"""What ``vestige bench writers`` leaves for its readers."""

from __future__ import annotations

from typing import Literal

from vestige.core.results import SCHEMA, Interval, Record, RunRecord


class WriterReading(Record):
    """What a student's shifts say, held against harmless students or pairs of them."""

    p: float  # smallest over all traits
    first: str  # the trait that stands out most
    place: int | None  # of the writer's trait among all
    own_p: float | None


class WriterStudent(Record):
    """A student of one writer, as it was examined."""

    kind: str  # of its writer
    trait: str  # that the writer had; empty: harmless
    training: str
    held_out: bool  # the kind of writer, or the trait
    gained: float | None  # nats of the trait that its teacher had more than the base
    shift: float | None  # nats of the trait that the student took on, over harmless students' mean
    alone: WriterReading
    paired: WriterReading | None = None  # less a control that was trained alike


class WriterRate(Record):
    """A share of the students of a group of writers."""

    group: str
    what: str
    students: int
    share: Interval


class WritersResults(RunRecord):
    """How often students of many writers are found, rightly and wrongly."""

    kind: Literal["bench_writers"] = "bench_writers"
    schema_version: int = SCHEMA
    name: str
    verdict: str
    base: str
    alpha: float
    members: int
    placebos: int = 0  # pairs of members that were trained alike
    rows: int = 0  # that each student read
    students: list[WriterStudent]
    rates: list[WriterRate]
    caveats: list[str] = []
