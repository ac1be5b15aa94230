"""What ``vestige detect`` leaves for its readers: ``results.json`` of a detection."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from vestige.core.audit_results import AuditWord
from vestige.core.results import Record, RunRecord

DETECT_SCHEMA = 2  # 1: by the direction of log-odds

#: What a detection's figures were measured on; in the help, the report and the JSON.
DETECT_MEASURED = (
    "A finding says that the student leans towards a trait more than harmless students of the same "
    "base do: students of ten kinds of harmless writers, tuned in four ways. The p-value covers "
    "all traits together. A student of data unlike any of these may drift in another way.",
    "With each kind of writers of the bundled base's battery left out in turn, students of that "
    "kind were found about as often as was asked for (docs/detect.md).",
    "Only traits of the library are looked for, in answers to its held-out questions.",
)


class DetectTrait(Record):
    """One trait of the library, read off the student."""

    trait: str
    found: bool
    relative: bool  # of its family, and not told apart from a trait that was found
    shift: float  # nats of log-odds against the base (or the control), mean over contexts
    shifts: list[float]  # in each context
    share: float | None = None  # of the answers to a typical question, mean over contexts
    usual_share: float | None = None  # the same in the base, or the control
    standardised: float  # its rise, in standard deviations of the battery's members
    p: float  # that a harmless student shows as much of any trait
    smallest_share: float | None  # from which it would have been found; None: none
    held_out: bool


class DetectResults(RunRecord):
    """What a finished student took on."""

    READABLE: ClassVar[tuple[int, ...]] = (1, DETECT_SCHEMA)

    kind: Literal["detect"] = "detect"
    schema_version: int = DETECT_SCHEMA
    name: str
    verdict: str
    outcome: Literal["found", "not_found", "inconclusive"]
    why: list[str]
    base: str
    model: str
    adapter: bool
    alpha: float
    members: int  # of the battery
    placebos: int = 0  # values that the student is held against: of members, or of their pairs
    control: str | None = None  # a student trained alike on rows of the base
    smallest_p: float  # that so many can give
    writers: dict[str, int]  # members by the kind of their writer
    contexts: list[str]  # system prompts; the empty one is what the chat template has
    layers: list[int]  # decoder layers that changed
    outside: list[str]  # other tensors that changed
    relative_change: float  # length of the matrices' change over theirs
    cosine: float  # of the matrices with the base's
    traits: list[DetectTrait]  # the strongest first
    words: list[AuditWord]  # that begin open answers more often than harmless students'
    seconds: dict[str, float]
    measured_on: list[str] = list(DETECT_MEASURED)
    caveats: list[str]

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, record: Any) -> Any:
        """Schema 1 read log-odds by their direction, and no shares of the answers."""
        if not isinstance(record, dict) or record.get("schema_version") != 1:
            return record
        gone = ("coherence", "smallest_effect")
        traits = [
            {k: v for k, v in t.items() if k not in gone} | {"smallest_share": None}
            for t in record["traits"]
        ]
        return record | {"traits": traits}


class Calibrated(Record):
    """A base's battery, as ``vestige calibrate`` prints it."""

    base: str
    members: int
    made: int  # now; the others were kept
    smallest_p: float  # that so many members can give
