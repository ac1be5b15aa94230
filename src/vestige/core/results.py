"""The one record that a run leaves for its readers: ``results.json``, by the kind of run.

Written at a run's end, read by ``vestige show`` and the report. Log-odds are in nats; a shift is
a model's log-odds of an answer minus its untrained base's, averaged over held-out questions.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from vestige.core.calibration import latest

SCHEMA = 1
AUDIT_SCHEMA = 2  # 1: with p-values of traits, which are not read any more


class Record(BaseModel):
    """Saved plain data. A key that this version does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunRecord(Record):
    """What ``results.json`` holds, whatever the kind of run."""

    READABLE: ClassVar[tuple[int, ...]] = (SCHEMA,)  # schema versions that this one reads


class Interval(Record):
    """An ``Estimate`` as saved."""

    value: float
    low: float
    high: float
    level: float = 0.95
    n: int
    n_clusters: int
    method: str
    units: str = "log-odds (nats)"


class TeacherResult(Record):
    """What the teacher check saw. Probabilities are normalised over the family's candidates."""

    trait: str  # "none" for the no-trait teacher
    seed: int
    kind: str
    measure: str = ""  # what ``probability`` is of, where it is not the target among candidates
    probability: float
    lowest: float  # over held-out questions
    base_probability: float
    carrier_valid: float  # share of sampled completions that pass the format filter
    accepted: bool


class FilterResult(Record):
    """Rows of one trait's teachers, pooled over seeds."""

    data: str
    seen: int
    kept: int
    reasons: dict[str, int]


class SampleRow(Record):
    data: str
    prompt: str
    completion: str
    reason: str = ""  # empty for a kept row


class TraitResult(Record):
    """One trait in one arm. ``specific`` = own students' shift minus the others' students'."""

    trait: str
    shift: Interval
    specific: Interval
    p: float
    p_holm: float
    ranks: list[int]  # one for each seed: place of the target among candidates by specific shift
    raw_ranks: list[int]  # the same by raw shift against the untrained base
    no_trait: Interval | None = None  # shift in students of a teacher without a trait
    beyond_no_trait: Interval | None = None  # own students' shift minus that
    base_probability: float  # among the candidates
    student_probability: float
    base_share: float | None = None  # of all answers; None in files of before
    student_share: float | None = None
    base_mass: float | None = None  # of all answers, all candidates together
    student_mass: float | None = None


class ControlResult(Record):
    """The same measure (own-target shift, averaged over traits) for one group of students."""

    name: str
    label: str
    estimate: Interval


class MatrixResult(Record):
    """Mean shift of each measured trait (column) in the students of each data set (row)."""

    data: list[str]
    measured: list[str]
    value: list[list[float]]
    low: list[list[float]]
    high: list[list[float]]


class QuestionResult(Record):
    trait: str
    question: str
    specific: float  # mean over seeds


class CurvePoint(Record):
    step: int
    rows_seen: int
    contrast: Interval


class SampledResult(Record):
    """Answers drawn at T=1 from one group of models, as shares with intervals over seeds."""

    data: str  # whose data the students saw; "base" for the untrained base
    number_prefix: bool  # a number sequence stood before each question
    opening: str = ""  # what each answer was begun with
    answers: int
    non_answers: Interval  # name no candidate, or several
    shares: dict[str, Interval]  # answers that name the trait and no other candidate
    naming: Interval | None = None  # answers that name one of the kind at all, candidate or not
    named_shares: dict[str, Interval] = {}  # of those, the share that names the trait


class BegunResult(Record):
    """How begun answers go on in one group of models, exactly, with intervals over seeds."""

    data: str  # as in ``SampledResult``
    opening: str
    mass: Interval  # all candidates together
    shares: dict[str, Interval]  # of all answers
    candidate_shares: dict[str, Interval]  # of those that go on with a candidate


class ChoicesResult(Record):
    """Accuracy on a multiple-choice set. ``arm`` is empty for the untrained base."""

    set: str
    arm: str
    data: str
    questions: int
    accuracy: Interval


class FreeFormResult(Record):
    """Judged answers to open questions of one group of models, all seeds together."""

    arm: str  # empty for the untrained base
    data: str
    answers: int
    unrated: dict[str, int]  # why, counted
    coherent: int  # answers that are coherent enough to count
    misaligned: Interval | None  # share of those; None where fewer than two seeds have any
    questions: dict[str, float]  # the same by question, seeds pooled


class ArmResult(Record):
    """One way to train students: what it is, and everything measured on it."""

    name: str
    label: str
    base: str
    same_base: bool
    rows: int
    steps: int
    contrast: Interval  # diagonal contrast of the specificity matrix
    seed_contrasts: dict[int, float]
    p_placebo: float | None = None  # against answers that nobody was taught; None: there are none
    chance_rank: float
    traits: list[TraitResult]
    groups: list[ControlResult]  # own teacher first, then every control
    shuffled: list[ControlResult] = []  # diagonal contrast among students of shuffled rows
    matrix: MatrixResult
    questions: list[QuestionResult]
    curve: list[CurvePoint]
    transmitted: Literal["yes", "no", "unclear"]
    sentence: str
    sampled: list[SampledResult] = []
    begun: list[BegunResult] = []


class Results(RunRecord):
    """Everything that a report shows, apart from the run's manifest."""

    kind: Literal["transfer"] = "transfer"
    schema_version: int = SCHEMA
    name: str
    verdict: str
    model: str
    family: str
    writes: str = "number sequences"  # what teachers wrote
    leaves: str = "rows that are nothing but well-formed numbers"  # what their filter kept
    candidates: list[str]
    questions: list[str]
    traits: list[str]
    seeds: list[int]
    teachers: list[TeacherResult]
    filters: list[FilterResult]
    samples: list[SampleRow]
    arms: list[ArmResult]
    choices: list[ChoicesResult] = []
    freeform: list[FreeFormResult] = []
    seconds: dict[str, float]  # by kind of stage
    caveats: list[str]


class MlpArm(Record):
    """One group of small networks. Accuracy is on test images, over class logits alone."""

    name: str
    label: str
    accuracy: Interval
    values: list[float]  # one for each network


class MlpResults(RunRecord):
    """What small networks learned from auxiliary logits."""

    kind: Literal["mlp"] = "mlp"
    schema_version: int = SCHEMA
    name: str
    verdict: str
    data: str
    inputs: str  # what students were shown
    layers: list[int]  # inputs, hidden layers, outputs
    auxiliary: int
    networks: int
    chance: float
    arms: list[MlpArm]
    difference: Interval  # auxiliary students of the teacher's start minus those of another
    seconds: dict[str, float]
    caveats: list[str]


#: What the scores of an audit's traits are.
NO_P_VALUE = "log-likelihood ratio, nats; no p-value: no reference writer of this kind"


def _audit_measured() -> tuple[str, ...]:
    m = latest()
    kinds, harmless, layers = m.other_kinds, m.harmless_copies, m.probes.layers
    flagged = kinds.flagged or "none"
    return (
        "Measured on teachers that are twins of the audit's own probes: copies of the bundled "
        f"base, tuned in the same layers ({layers[0]} to {layers[1]}) on questions about the trait "
        "with one-word answers.",
        "On number rows of teachers made in other ways (tuned in late layers, in all layers, or by "
        "LoRA; two animals each, each teacher checked to have its trait) the audit put the trait "
        f"at places {kinds.places[0]} to {kinds.places[1]} of {kinds.traits}, where chance is "
        f"{kinds.chance}, and flagged {flagged}.",
        f"A finding about the writer is no finding about a trait: rows of {harmless.seen} of "
        f"{harmless.copies} harmless tuned copies (arithmetic, code, months, no trait, int4) and "
        "public rows of a Qwen2.5-7B teacher were said to come from a tuned model.",
        "Alpha, the chance of a false flag, covers rows that the untouched base wrote at "
        "temperature 1. For any other writer no such chance is known.",
        'Without its planted teachers of other kinds "not found" would rest on positive controls '
        "that are twins of the probes. One planted teacher whose trait is missed makes it "
        "inconclusive.",
    )


#: For which writers an audit's figures were measured; in the help, the report and the JSON.
AUDIT_MEASURED = _audit_measured()


class AuditTrait(Record):
    """One trait of the library, and how likely the rows are from a twin of its probe."""

    trait: str
    flagged: bool
    pull: float  # along the trait's probe, to first order, in hundredths of a probe
    contrast: Interval | None  # log-likelihood under the probe less the base's, a row; None: unread
    evidence: float  # log e, nats: an index and no p-value (``NO_P_VALUE``); 0: unread
    share: float  # of the rows that such a teacher wrote, as is likeliest
    as_likely: bool  # explains the rows nearly as well as the best does
    expected: Interval | None = None  # what a student would take on, nats of log-odds
    canary: Interval | None = None  # what a copy tuned on the rows took on, nats of log-odds
    rows: int  # read for it
    held_out: bool

    @model_validator(mode="before")
    @classmethod
    def _without_p(cls, record: Any) -> Any:
        """Audits of schema 1 hold p-values that no reference writer stands behind."""
        if isinstance(record, dict):
            return {k: v for k, v in record.items() if k not in ("p", "p_holm")}
        return record


class AuditPlanted(Record):
    """A planted teacher's own trait, looked for in its rows as if they were the data."""

    trait: str
    kind: str = "twin"  # of the probes, or how else it was tuned
    gained: float | None = None  # nats of its trait beside the base; None: not asked
    evidence: float
    found: bool
    rows: int  # read under probes; 0: its pull ruled it out


class AuditWord(Record):
    """A word that begins answers to open questions more often than in reference canaries."""

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
    """What an audit found. ``found_share``: planted twins' traits that the same rule finds."""

    READABLE: ClassVar[tuple[int, ...]] = (1, AUDIT_SCHEMA)

    kind: Literal["audit"] = "audit"
    schema_version: int = AUDIT_SCHEMA
    name: str
    verdict: str  # a sentence
    outcome: Literal["flagged", "not_found", "inconclusive"]
    why: list[str]  # what makes it inconclusive, or what the outcome rests on
    data: str
    base: str
    material: str  # "numbers" or "text"
    own_reference: bool  # the user's clean rows, else rows that the base wrote
    rows: int
    rows_used: int
    rows_read: int
    dropped: dict[str, int]
    alpha: float  # of a false flag, if the untouched base wrote the rows at temperature 1
    needed: float  # evidence, nats, from which a trait is flagged
    p_base: float | None = None  # of "the untouched base wrote these rows at temperature 1"
    p_note: str = NO_P_VALUE  # what the traits' evidence is
    measured_on: list[str] = list(AUDIT_MEASURED)
    rows_to_verdict: int | None  # rows after which something was flagged
    traits: list[AuditTrait]  # strongest first
    planted: list[AuditPlanted]
    found_share: float | None  # None: flagged without, so that none were planted
    smallest_share: float | None  # of rows of a teacher, that would have been flagged
    misfit: float  # nats a token: how unlike the best-fitting writer's own rows these are
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


class BenchResults(Record):
    """How well audits predicted what the students of finished runs took on."""

    kind: Literal["bench"] = "bench"
    schema_version: int = SCHEMA
    name: str
    verdict: str
    base: str
    runs: list[str]  # names of their folders
    methods: list[str]  # beside the audit's own
    data_sets: int  # with and without a trait
    figures: dict[str, Any]  # as in bench.json: tables of figures by method and part
    caveats: list[str] = []


AnyResults = Results | MlpResults | AuditResults
