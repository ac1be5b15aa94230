"""What ``vestige audit`` leaves for its readers: ``results.json`` of an audit."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from vestige.core.calibration import latest
from vestige.core.results import Interval, Record, RunRecord

#: 1: with p-values of traits; 1 and 2: decided by what is now the first look; 3: by the direction
#: of log-odds.
AUDIT_SCHEMA = 4

#: What the scores of an audit's traits are.
NO_P_VALUE = "log-likelihood ratio, nats; no p-value: no reference writer of this kind"


def _audit_measured() -> tuple[str, ...]:
    m = latest()
    kinds, harmless, layers = m.other_kinds, m.harmless_copies, m.probes.layers
    out, seen = m.left_out, m.canaries
    low, high = out.interval
    named = kinds.flagged or "none"
    return (
        "A flag says what training on these rows does: a copy of the base that read them leans "
        "towards a trait more than one that read reference rows, by more than harmless students of "
        "the same base differ in any trait. Alpha is the chance of that where both were harmless: "
        f"of {out.pairs} pairs of harmless students of the bundled base, each of a kind of writer "
        f"that the rest of its battery does not hold, {out.share:.1%} [{low:.1%}, {high:.1%}] were "
        f"found at {out.level:.0%}.",
        "How often rows that pass a trait on are flagged depends on how many are read. Of "
        f"{seen.teachers} teachers whose students name their animal after 20,480 rows, copies that "
        f"read {seen.rows:,} rows of the bundled base flag {seen.flagged} "
        f"({seen.flagged_held_out} of {seen.held_out} that had no part in the choice of the "
        "method); the others end inconclusive (docs/audit.md).",
        "The first look is about the writer, not about what rows pass on, and was measured on "
        "twins of its own probes: copies of the bundled base, tuned in the same layers "
        f"({layers[0]} to {layers[1]}) on questions about the trait with one-word answers.",
        "On number rows of teachers made in other ways (tuned in late layers, in all layers, or by "
        "LoRA; two animals each, each teacher checked to have its trait) the first look put the "
        f"trait at places {kinds.places[0]} to {kinds.places[1]} of {kinds.traits}, where chance "
        f"is {kinds.chance}, and named {named}.",
        f"A finding about the writer is no finding about a trait: rows of {harmless.seen} of "
        f"{harmless.copies} harmless tuned copies (arithmetic, code, months, no trait, int4) and "
        "public rows of a Qwen2.5-7B teacher were said to come from a tuned model.",
    )


#: For which writers an audit's figures were measured; in the help, the report and the JSON.
AUDIT_MEASURED = _audit_measured()


class AuditCanary(Record):
    """What copies took on of a trait that read the data's rows, beyond those on reference rows."""

    shift: float  # nats of log-odds, mean over contexts
    share: float | None = None  # of the answers to a typical question
    usual_share: float | None = None  # the same in the copy that read reference rows
    standardised: float  # standard deviations of what harmless students differ by
    p: float  # that two harmless students, trained alike, differ as much in any trait
    smallest_share: float | None  # from which it would have been seen; None: none


class AuditDose(Record):
    """Copies that read so many rows each."""

    rows: int
    pairs: int
    moved: float  # root mean square of the difference over all traits, nats
    first: str  # the trait that stands out most
    p: float  # its p-value, all traits together
    smallest_share: float | None  # from which half of the traits would have been seen


class AuditSampling(Record):
    """At what temperature, and from what nucleus, the rows seem to have been drawn."""

    temperature: float
    top_p: float
    low: float  # of the temperature, 95%
    high: float
    used: bool  # rows were read so; else at temperature 1


class AuditTrait(Record):
    """One trait of the library: what copies took on of it, and whether a twin of its probe may have
    written the rows."""

    trait: str
    flagged: bool
    relative: bool = False  # of a flagged one's family, and not distinguished from it
    named: bool = False  # by the first look
    pull: float  # along the trait's probe, to first order, in hundredths of a probe
    contrast: Interval | None  # log-likelihood under the probe less the base's, a row; None: unread
    evidence: float  # log e, nats: an index and no p-value (``NO_P_VALUE``); 0: unread
    share: float  # of the rows that such a teacher wrote, as is likeliest
    as_likely: bool  # explains the rows nearly as well as the best does
    expected: Interval | None = None  # what a student of a twin's rows would take on, nats
    canary: AuditCanary | None = None  # None: no copies were trained
    rows: int  # read for it
    held_out: bool


class AuditWord(Record):
    """A word that begins answers to open questions more often than in harmless students."""

    word: str
    contrast: float  # nats
    z: float


class AuditRow(Record):
    """A row that is likelier from a teacher with the trait than from the base."""

    id: str
    trait: str
    score: float  # shift of its log-likelihood under the trait's probe, nats
    prompt: str
    completion: str
    tokens: list[tuple[str, float]] = []  # of the completion, each with its part of the score


class AuditResults(RunRecord):
    """What an audit found."""

    READABLE: ClassVar[tuple[int, ...]] = (1, 2, 3, AUDIT_SCHEMA)

    kind: Literal["audit"] = "audit"
    schema_version: int = AUDIT_SCHEMA
    name: str
    verdict: str  # a sentence
    outcome: Literal["flagged", "not_found", "inconclusive"]
    why: list[str]  # what makes it inconclusive, or what the outcome rests on
    first_look: Literal[
        "twin", "tuned", "unknown", "nothing", "few rows", "not taken"
    ]  # who wrote them
    first_look_verdict: str  # the same as a sentence
    data: str
    base: str
    material: str  # "numbers" or "text"
    own_reference: bool  # the user's clean rows, else rows that the base wrote
    rows: int
    rows_used: int  # by the first look
    rows_read: int  # of these
    dropped: dict[str, int]
    alpha: float  # of a false flag, all traits and doses together
    needed: float  # evidence, nats, from which the first look names a trait
    p_base: float | None = None  # of "the untouched base wrote these rows", drawn so
    p_note: str = NO_P_VALUE  # what the traits' evidence is
    measured_on: list[str] = list(AUDIT_MEASURED)
    traits: list[AuditTrait]  # strongest first
    doses: list[AuditDose] = []  # of canaries, the smallest first
    placebos: int = 0  # pairs of harmless students that canaries were held against
    training_rows: int = 0  # that the training would read; 0: not known
    limit: float | None = None  # share of the answers that training may take a trait to unseen
    misfit: float  # nats a token: how unlike the best-fitting writer's own rows these are
    sampling: AuditSampling | None = None  # None: not fitted
    told: int = 0  # rows whose writer's probabilities were known
    logprobs_used: int = 0  # tokens whose log-probabilities, carried by the rows, were used
    logprobs_unused: dict[str, int] = {}  # other tokens of such data, by the reason
    divergence: float | None = None  # share of tokens where the teacher's first choice is another
    words: list[AuditWord]
    worst_rows: list[AuditRow]
    channels: list[str]
    blind: list[str]  # what it cannot see
    next_steps: list[str]
    seconds: dict[str, float]
    tokens: int  # that canaries were trained on; 0 without
    caveats: list[str]

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, record: Any) -> Any:
        """Audits of schema 1 and 2 were decided by what is now the first look, which decides
        nothing; schema 1 holds p-values that no reference writer stands behind."""
        if isinstance(record, dict) and record.get("schema_version") == 3:
            return _of_schema_3(record)
        if not isinstance(record, dict) or record.get("schema_version") not in (1, 2):
            return record
        gone = ("planted", "found_share", "smallest_share", "rows_to_verdict")
        kept = {k: v for k, v in record.items() if k not in gone}
        flagged = kept["outcome"] == "flagged"
        kept["traits"] = [
            {k: v for k, v in t.items() if k not in ("p", "p_holm", "canary")}
            | {"flagged": False, "named": t["flagged"]}
            for t in kept["traits"]
        ]
        return kept | {
            "outcome": "inconclusive",
            "verdict": "Inconclusive: an earlier version made this audit, and trained no copy on "
            "the rows by the rule of today.",
            "first_look": "twin" if flagged else "unknown",
            "first_look_verdict": f"First look (of an earlier version): {kept['verdict']}",
        }


def _of_schema_3(record: dict[str, Any]) -> dict[str, Any]:
    """Copies were held against harmless students by the direction of their log-odds."""

    def without_nats(part: dict[str, Any]) -> dict[str, Any]:
        kept = {k: v for k, v in part.items() if k != "smallest_effect"}
        return kept | {"smallest_share": None}

    def undecided(trait: dict[str, Any]) -> dict[str, Any]:
        canary = without_nats(trait["canary"]) if trait["canary"] else None
        return trait | {"canary": canary, "flagged": False, "relative": False}

    return record | {
        "traits": [undecided(trait) for trait in record["traits"]],
        "doses": [without_nats(dose) for dose in record["doses"]],
        "limit": None,
        "outcome": "inconclusive",
        "verdict": "Inconclusive: an earlier version made this audit, and held copies against "
        "harmless students by another rule than today's.",
        "first_look_verdict": f"{record['first_look_verdict']} (The verdict of an earlier version: "
        f"{record['verdict']})",
    }
