"""The one record that a run leaves for its readers: ``results.json``, by the kind of run.

Written at a run's end, read by ``vestige show`` and the report. Log-odds are in nats; a shift is
a model's log-odds of an answer minus its untrained base's, averaged over held-out questions.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA = 1


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


class HeldoutResult(Record):
    """Cross-entropy on rows of the own teacher that no student read, nats a scored position."""

    rows: int  # of each data set
    base: Interval
    student: Interval


class DefenceResult(Record):
    """An arm with changed data or training, against the arm that learns alike without."""

    arm: str
    label: str  # what was changed
    against: str
    remains: Interval | None  # share of the diagonal contrast; None: no interval has an end
    learned: Interval | None  # share of what training takes off the loss on held-out rows
    rows: float  # of the changed data sets, as a share of those that teachers wrote
    tokens: float  # of these rows' that could be drawn anew: the share that was
    seconds: float  # more for each student, changes of its rows included; scores are kept


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
    heldout: HeldoutResult | None = None


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
    defences: list[DefenceResult] = []
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


AnyResults = Results | MlpResults
