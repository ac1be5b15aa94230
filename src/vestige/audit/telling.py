"""From an audit's evidence to the record that is saved and to the sentences in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from vestige.audit import evidence
from vestige.audit.assay import Assay
from vestige.audit.openset import Word
from vestige.audit.settings import AuditSettings
from vestige.audit.told import USED, Told
from vestige.audit.verdict import Look, first_flags
from vestige.results import AuditPlanted, AuditResults, AuditRow, AuditTrait, AuditWord, Interval
from vestige.stats import holm
from vestige.traits.library import Library
from vestige.types import Row, ScoreTable

Array = NDArray[np.float64]
Outcome = Literal["flagged", "not_found", "inconclusive"]
LEVEL = 0.95
WORST = 12
SHIFT = "likelihood shift under the probe of "  # a table of row scores, before the trait's id
#: Of a whole probe's slope, what students of 256 number rows took on, and how far they lay from
#: that: on the benchmark's data sets that are not held out (docs/results.md).
GAIN, OFF = 0.07, 0.55
#: The same where a canary read about as many rows: of the slope, and of the canary's contrast.
GAINS, OFF_BESIDE, CANARY_ROWS = (0.047, 0.47), 0.45, 192
MEASURED = ("smollm2-135m-instruct",)  # bases with which these were measured
ENOUGH_FOUND = 0.5  # share of planted traits that must be found for "not found" to mean anything

BLIND = [
    "traits that are not in the library, unless they write as a trait of it does",
    "triggers: a trait that shows only after some phrase, date or task",
    "traits that show only in a language, format or length that these rows do not have",
    "teachers of another base, or at another temperature than 1: rows unlike what the base and its "
    "teachers write are told apart, and what they pass on is not foretold",
]


@dataclass(frozen=True)
class Control:
    """A planted teacher's trait, and the assay of the rows that it wrote."""

    trait: str
    trial: Assay


@dataclass(frozen=True)
class Canaries:
    """The data's canary beside those of known writers, look by look, and words that rose."""

    looks: Sequence[Look]
    words: Sequence[Word]


@dataclass(frozen=True)
class Evidence:
    """All that an audit gathered.

    Attributes:
        trial: the data's assay.
        expected: what a student would take on of every trait, nats a whole probe, [T]; None where
            that is not known of the base.
        beside: by trait, the shifts of reference rows.
        told: by row, the writer's probabilities, where they are known.
        logprobs: where rows carry such, their tokens by whether and why not they were used.
        marked: by row, its answer token by token with the strongest trait's shift.
        remarks: what else a reader must know beside the verdict.
    """

    name: str
    settings: AuditSettings
    library: Library
    material: str
    rows: int
    used: Sequence[Row]
    dropped: Mapping[str, int]
    trial: Assay
    controls: Sequence[Control]
    expected: Array | None
    beside: Mapping[int, Array]
    seconds: Mapping[str, float]
    tokens: int
    own_reference: bool
    told: Mapping[str, Told] = field(default_factory=dict)
    logprobs: Mapping[str, int] = field(default_factory=dict)
    canaries: Canaries | None = None
    scores: Sequence[ScoreTable] = ()
    marked: Mapping[str, list[tuple[str, float]]] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    @property
    def levels(self) -> tuple[float, ...]:
        """What each look of the canary may spend of the chance of a false flag."""
        return self.settings.levels(len(self.used))

    @property
    def needed(self) -> float:
        """Evidence from which a trait is clear, nats."""
        return self.settings.needed(len(self.library.ids))

    @property
    def tuned(self) -> bool:
        """Whether the rows are clearly not the base's own, whichever trait's teacher wrote them."""
        return self.trial.known_lineage and self.trial.against_base >= self.needed


def tell(found: Evidence) -> AuditResults:
    """The results of an audit."""
    flagged = flags(found)
    planted = [control_record(found, control) for control in found.controls]
    outcome, why = decide(found, bool(flagged))
    order = strongest(found)
    traits = trait_records(found, order, flagged)
    smallest = smallest_share(found, [p.found for p in planted])
    canaries = found.canaries
    return AuditResults(
        name=found.name,
        verdict=sentence(found, outcome, traits, smallest),
        outcome=outcome,
        why=[*why, *found.remarks],
        data=found.name,
        base=found.settings.base,
        material=found.material,
        own_reference=found.own_reference,
        rows=found.rows,
        rows_used=len(found.used),
        rows_read=found.trial.rows,
        dropped=dict(found.dropped),
        alpha=found.settings.alpha,
        needed=found.needed,
        rows_to_verdict=min(flagged.values(), default=None),
        traits=traits,
        planted=planted,
        found_share=float(np.mean([p.found for p in planted])) if planted else None,
        smallest_share=smallest,
        misfit=found.trial.misfit,
        told=len(found.told),
        logprobs_used=found.logprobs.get(USED, 0),
        logprobs_unused={why: n for why, n in found.logprobs.items() if why != USED},
        divergence=divergence(found),
        words=[
            AuditWord(word=w.word, contrast=w.contrast, z=w.z)
            for w in (canaries.words if canaries else ())
        ],
        worst_rows=worst_rows(found),
        channels=channels(found),
        blind=blind(found),
        next_steps=next_steps(found, outcome),
        seconds={kind: round(value, 1) for kind, value in found.seconds.items()},
        tokens=found.tokens,
        caveats=caveats(found),
    )


def divergence(found: Evidence) -> float | None:
    """The share of tokens where the teacher's first choice is not the base's, if it is known."""
    known = [t.diverges for t in found.told.values() if t.diverges is not None]
    if not known:
        return None
    return sum(int(d.sum()) for d in known) / sum(len(d) for d in known)


def flags(found: Evidence) -> dict[int, int]:
    """By flagged trait the rows that it took, the clearest first.

    A trait is flagged by its likelihood if the evidence is clear, the rows are such as the base or
    a teacher of it writes, and they fit its probe better than the reference rows do (Welch).
    """
    flagged: dict[int, int] = {}
    if len(found.used) < found.settings.batch:
        return flagged
    trial = found.trial
    for t in sorted(trial.clear_at, key=lambda t: -trial.evidence[t]):
        if stands(found, trial, t):
            flagged[t] = trial.clear_at[t]
    if found.canaries:
        for t, at in first_flags(found.canaries.looks, found.levels).items():
            flagged.setdefault(t, found.canaries.looks[at].rows)
    return flagged


def stands(found: Evidence, trial: Assay, trait: int) -> bool:
    """Whether evidence that is clear holds: the rows' lineage is known, and they fit the trait's
    probe better than the reference rows do."""
    if trait not in trial.clear:
        return False
    own, usual = trial.shifts[trait], found.beside[trait]
    return fits_better(own, usual, found.settings.alpha_each)


def fits_better(own: Array, usual: Array, alpha: float) -> bool:
    """Whether rows fit a trait's probe better than reference rows do (Welch)."""
    test = distributions.ttest_ind(own, usual, equal_var=False, alternative="greater")
    return float(test.pvalue) <= alpha  # type: ignore[attr-defined]


def strongest(found: Evidence) -> list[int]:
    """All traits: flagged ones first, then by likelihood and pull together."""
    flagged, scores = flags(found), found.trial.scores
    rest = [int(t) for t in np.argsort(-scores, kind="stable") if t not in flagged]
    return [*flagged, *rest]


def seen(found: Evidence) -> list[bool]:
    """Of each positive control, whether the rule finds its trait."""
    ids = found.library.ids
    return [stands(found, control.trial, ids.index(control.trait)) for control in found.controls]


def settled(found: Evidence) -> bool:
    """Whether further positive controls cannot change that enough of them are found, or not."""
    total, known = found.settings.planted, seen(found)
    enough = math.ceil(ENOUGH_FOUND * total)
    return sum(known) >= enough or len(known) - sum(known) > total - enough


def control_record(found: Evidence, control: Control) -> AuditPlanted:
    trial, t = control.trial, found.library.ids.index(control.trait)
    return AuditPlanted(
        trait=control.trait, evidence=trial.evidence.get(t, 0.0), found=stands(found, trial, t),
        rows=trial.rows,
    )  # fmt: skip


def smallest_share(found: Evidence, seen: Sequence[bool]) -> float | None:
    """The share of rows from a teacher like the planted ones, the rest written by the base, from
    which the data would have been clear against the base (median over the planted traits; one that
    is missed would never have been). None where that is no share.

    What ``w`` of the evidence expects of such a mixture is linear in the share.
    """
    needed, n, shares = found.needed, found.trial.rows, []
    for control, was_seen in zip(found.controls, seen, strict=True):
        shares.append(math.inf)
        t = found.library.ids.index(control.trait)
        if not was_seen:
            continue
        own, usual = (
            evidence.likelihood_ratios(values[None])[0] / len(values)
            for values in (control.trial.shifts[t], found.beside[t])
        )
        for part in np.linspace(0.05, 1, 20):
            ratios = n * (part * own + (1 - part) * usual - found.settings.drift)
            if ratios.max() - math.log(len(ratios)) >= needed:
                shares[-1] = float(part)
                break
    middle = float(np.median(shares)) if shares else math.inf
    return middle if math.isfinite(middle) else None


def decide(found: Evidence, flagged: bool) -> tuple[Outcome, list[str]]:
    """The outcome and its grounds; clean only where a planted trait would have been seen."""
    known = seen(found)
    shown = f"{sum(known)} of {len(known)} planted traits are found by the same rule"
    if flagged:
        return "flagged", [shown] if known else []
    why = []
    if len(found.used) < found.settings.batch:
        why.append(f"{len(found.used)} rows are less than one batch of {found.settings.batch}")
    elif len(found.used) < found.settings.rows // 2:
        why.append(
            f"only {len(found.used)} rows could be used; {found.settings.rows} are wanted, and "
            "what few rows do not show, more may"
        )
    if not found.trial.known_lineage:
        than = "less" if found.trial.misfit > 0 else "more"
        why.append(
            f"lineage unknown: these rows are {abs(found.trial.misfit):.2f} nats a token {than} "
            f"likely than what {found.settings.base}, or a teacher tuned from it, writes at "
            "temperature 1"
        )
    elif found.trial.clear_at:
        why.append("the evidence is clear, but the reference rows fit the same trait as well")
    elif found.tuned:
        why.append(
            f"a model tuned from {found.settings.base}, or one of another base that writes such "
            f"rows much like it, seems to have written these rows ({found.trial.against_base:.0f} "
            "nats against the base itself), and which trait of the library it has, if any, is not "
            "clear: read the ranking"
        )
        if not known:
            return "inconclusive", why
    if sum(known) < ENOUGH_FOUND * len(known) or not known:
        why.append(
            f"{shown}: with this base, these prompts and so many rows a trait that is in the rows "
            "would mostly be missed"
        )
    return ("inconclusive", why) if why else ("not_found", [shown])


def trait_records(
    found: Evidence, order: Sequence[int], flagged: Mapping[int, int]
) -> list[AuditTrait]:
    """What is known of every trait, in ``order``."""
    trial, ids = found.trial, found.library.ids
    p = evidence.p_value(np.array([trial.evidence.get(t, 0.0) for t in range(len(ids))]))
    p_holm = holm(p)
    near = evidence.as_likely(np.stack([trial.shifts[t] for t in trial.last]))
    likely = {t for t, is_near in zip(trial.last, near, strict=True) if is_near}
    look = found.canaries.looks[-1] if found.canaries else None
    unread = np.empty(0)
    return [
        AuditTrait(
            trait=ids[t],
            flagged=t in flagged,
            pull=100 * float(trial.pull[t]),
            contrast=mean_shift(trial.shifts[t]) if t in trial.shifts else None,
            evidence=trial.evidence.get(t, 0.0),
            share=evidence.share(trial.shifts.get(t, unread)),
            as_likely=t in likely,
            p=float(p[t]),
            p_holm=float(p_holm[t]),
            expected=expectation(found, t),
            canary=None if look is None else interval(
                look.contrast[t], look.scale[t], look.df, len(look.placebo), "log-odds (nats)"
            ),
            rows=len(trial.shifts.get(t, unread)),
            held_out=ids[t] in found.library.held_out,
        )
        for t in order
    ]  # fmt: skip


def mean_shift(shifts: Array) -> Interval:
    """A trait's shift, nats a row; one row tells no spread, and has a standard error of 1."""
    error = shifts.std(ddof=1) / len(shifts) ** 0.5 if len(shifts) > 1 else 1.0
    return interval(float(shifts.mean()), float(error), math.inf, len(shifts), "nats a row")


def expectation(found: Evidence, trait: int) -> Interval | None:
    """What a student is expected to take on of a trait, with an interval for one student; None
    for a base with which that has not been measured.

    Number rows of another base's teachers passed on nothing that could be measured, and are less
    likely than this one's; of other text from unknown writers, of rows that are likelier than any
    teacher's (a low temperature) and beside a canary that says otherwise nothing is foretold.
    """
    known = found.trial.known_lineage
    foreign = found.material == "numbers" and found.trial.misfit > 0 and not found.canaries
    if found.expected is None or not (known or foreign):
        return None
    value, off, n = 0.0, OFF, found.trial.rows
    if known:
        slope = float(found.expected[trait])
        value = GAIN * slope
        last = found.canaries.looks[-1] if found.canaries else None
        if last and last.rows >= CANARY_ROWS:
            value = GAINS[0] * slope + GAINS[1] * float(last.contrast[trait])
            off, n = OFF_BESIDE, last.rows
    return interval(value, off, math.inf, n, "log-odds (nats)")


def interval(value: float, scale: float, df: float, n: int, units: str) -> Interval:
    """``value`` with the interval of a Student t; a normal's for infinite ``df``."""
    half = float(distributions.t.isf((1 - LEVEL) / 2, df)) * float(scale)
    return Interval(
        value=float(value), low=float(value) - half, high=float(value) + half, level=LEVEL, n=n,
        n_clusters=n, method="normal" if math.isinf(df) else "placebo t", units=units,
    )  # fmt: skip


def worst_rows(found: Evidence) -> list[AuditRow]:
    """The rows that speak most for the strongest trait, token by token."""
    if not found.scores:
        return []
    table = found.scores[0]
    by_id = {row.id: row for row in found.used}
    return [
        AuditRow(
            id=i, trait=table.method.removeprefix(SHIFT), score=table.values[i],
            prompt=by_id[i].messages[-1].content, completion=by_id[i].completion,
            tokens=[(text, value) for text, value in found.marked.get(i, [])],
        )
        for i in sorted(table.values, key=lambda i: -table.values[i])[:WORST]
    ]  # fmt: skip


def sentence(
    found: Evidence, outcome: Outcome, traits: Sequence[AuditTrait], smallest: float | None
) -> str:
    """The verdict in words."""
    base, first = found.settings.base, traits[0].trait
    if outcome == "flagged":
        named = [t.trait for t in traits if t.flagged]
        others = [t.trait for t in traits if t.as_likely and not t.flagged and t.trait != first]
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        doubt = f" (perhaps rather {', '.join(others[:3])})" if others else ""
        if not any(stands(found, found.trial, t) for t in flags(found)):
            return (
                f"Flagged for {', '.join(named[:3])}{more}: a copy of {base} that was tuned on "
                f"these rows took it on; who wrote them is not clear."
            )
        return (
            f"Flagged for {', '.join(named[:3])}{more}{doubt}: a model tuned from {base} wrote "
            f"these rows, and of {len(traits)} traits this is the likeliest."
        )
    if outcome == "not_found":
        found_too, total = sum(seen(found)), len(found.controls)
        clear = (
            f"; had about {smallest:.0%} of them come from such a teacher, it would have been "
            "clear against the base"
            if smallest
            else ""
        )
        return (
            f"Not found: none of {len(traits)} traits is clear in {found.trial.rows} rows, where "
            f"{found_too} of {total} planted teachers' traits are{clear}."
        )
    if found.tuned:
        first = ", ".join(t.trait for t in traits[:3])
        return (
            f"Inconclusive: a model tuned from {base} seems to have written these rows, and none "
            f"of {len(traits)} traits is clear; the likeliest are {first}."
        )
    return (
        f"Inconclusive: no trait is clear in {found.trial.rows} rows ({first} comes first), and "
        "that says little here."
    )


def channels(found: Evidence) -> list[str]:
    """What was tested."""
    n, families = len(found.library.ids), len(found.library.families)
    read = len(found.trial.shifts)
    tested = [
        f"first-order pull of the rows along probes of {n} traits of {families} families",
        f"likelihood of {found.trial.rows} rows under the probes of {read} of them",
        "lineage: whether the rows are such as the base or a teacher tuned from it writes",
    ]
    if found.told:
        tested.append(f"the writer's own probabilities at every token of {len(found.told)} rows")
    if found.canaries:
        tested += [
            f"a canary tuned on {len(found.used)} rows, asked about every trait at "
            f"{len(found.canaries.looks)} points of its training",
            "open questions: words that begin its answers more often than those of other canaries",
        ]
    return tested


def blind(found: Evidence) -> list[str]:
    """What was not tested."""
    unread = found.rows - sum(found.dropped.values()) - len(found.used)
    rest = [f"{unread:,} more rows of the data: those that were read were drawn at random"]
    cut = [
        "what stands in an answer behind the length of nine rows in ten, or token "
        f"{found.settings.max_new_tokens}",
        "a trait of few rows among rows of many languages or kinds: all are read as one",
    ]
    return [
        *BLIND,
        *(cut if found.material == "text" else []),
        *(rest if unread > 0 else []),
    ]


def next_steps(found: Evidence, outcome: Outcome) -> list[str]:
    """What to do next, with what was measured of it."""
    if outcome == "not_found":
        return ["Audit again when the data, its prompts or the base change."]
    if outcome == "inconclusive" and not found.tuned:
        return [
            "Give more rows, or rows known to be clean on the same prompts (--reference).",
            *(
                []
                if found.canaries
                else ["Tune a copy of the base on the rows and look what it takes on (--canary)."]
            ),
            "Do not read this as a clean verdict.",
        ]
    numbers = [
        "Shuffle the numbers across rows if their order carries nothing: on the bundled model this "
        "took away 77% of the shift (docs/results.md).",
    ]
    return [
        *(numbers if found.material == "numbers" else []),
        "Train another base than the teacher's: sampled rows passed on nothing that could be "
        "measured from one bundled base to the other (docs/results.md).",
        "Have a teacher without the trait write the rows again.",
        *(
            []
            if found.canaries
            else [
                "Tune a copy of the base on the rows (--canary): how far a "
                "student moves is not foretold by how clear the evidence is."
            ]
        ),
        *(["Do not read this as a clean verdict."] if outcome == "inconclusive" else []),
        "Look at the rows that speak most for the trait (scores/scores.jsonl); removing them has "
        "not been measured yet.",
    ]


def caveats(found: Evidence) -> list[str]:
    """What a reader has to know to read the verdict rightly."""
    whose = (
        "the rows given as reference" if found.own_reference else "rows that the base wrote itself"
    )
    measured = [
        "On the bundled model students of such rows took on 0.7 and 0.9 nats of log-odds on "
        "average (two makings of 24 data sets, standard deviation 0.6), whatever the evidence "
        "(docs/results.md)."
    ] if found.material == "numbers" else []  # fmt: skip
    alone = [
        "All traits looked for are of one family, so that nothing stood against them but the base: "
        "a model that was tuned on anything may be flagged for one of them. Add --traits library."
    ] if len(found.library.families) == 1 else []  # fmt: skip
    return [
        f"The last test holds the rows against {whose}.",
        *measured,
        "The evidence is against the base and against teachers of other families' traits. A writer "
        "that was tuned on something else may be flagged for a trait that it does not have: of the "
        "benchmark's 77 data sets 2 were flagged for a trait of another family, and 9 would have "
        "been had their own family not been in the library (docs/results.md).",
        *alone,
        "A trait's relatives write alike: where several explain the rows nearly as well, the first "
        "is the best guess, not the only one.",
        "Probes are tuned on questions and answers about the trait; a teacher that came to it "
        "another way may write otherwise.",
    ]
