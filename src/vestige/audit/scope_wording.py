"""The sentences around a verdict: what was tested, what was not, what to do next, how to read it.

Figures in them stand in ``core/calibration.toml``.
"""

from __future__ import annotations

from vestige.audit.decision import Outcome, in_the_way, is_tuned, p_base
from vestige.audit.gathered import Evidence
from vestige.audit.wording import p_words
from vestige.core.calibration import latest

BLIND = [
    "traits of teachers that were made in another way than the probes (late or all layers, LoRA, "
    "other data than questions and answers about the trait): measured at chance",
    "traits that are not in the library",
    "triggers: a trait that shows only after some phrase, date or task",
    "traits that show only in a language, format or length that these rows do not have",
    "teachers of another base, or at another temperature than 1: rows unlike what the base and "
    "twins of the probes write are set apart, and what they pass on is not predicted",
]
AGAIN = "Audit again when the data, its prompts or the base change."
NO_CLEAN_VERDICT = "Do not read this as a clean verdict."


def channels(evidence: Evidence) -> list[str]:
    """What was tested."""
    n, families = len(evidence.library.ids), len(evidence.library.families)
    race, known = evidence.race, len(evidence.soft_targets)
    tested = [
        f"first-order pull of the rows along probes of {n} traits of {families} families",
        f"likelihood of {race.rows} rows under the probes of {len(race.shifts)} of them",
        "lineage: whether the rows are such as the base or a twin of the probes writes",
    ]
    if known:
        tested.append(f"the writer's own probabilities at every token of {known} rows")
    if evidence.canaries:
        tested += [
            f"a canary tuned on {len(evidence.used)} rows, asked about every trait at "
            f"{len(evidence.canaries.looks)} points of its training",
            "open questions: words that begin its answers more often than those of other canaries",
        ]
    return tested


def blind(evidence: Evidence) -> list[str]:
    """What was not tested."""
    unread = evidence.rows - sum(evidence.dropped.values()) - len(evidence.used)
    rest = [f"{unread:,} more rows of the data: those that were read were drawn at random"]
    cut = [
        "what stands in an answer behind the length of nine rows in ten, or token "
        f"{evidence.settings.max_new_tokens}",
        "a trait of few rows among rows of many languages or kinds: all are read as one",
    ]
    return [
        *BLIND,
        *(cut if evidence.row_kind == "text" else []),
        *(rest if unread > 0 else []),
    ]


def next_steps(evidence: Evidence, outcome: Outcome) -> list[str]:
    """What to do next, with what was measured of it."""
    canary = (
        []
        if evidence.canaries
        else [
            "Tune a copy of the base on the rows and look at what it takes on (--canary): how far "
            "a student moves cannot be read off these scores."
        ]
    )
    if outcome == "not_found":
        return ["Do not read this as proof that the rows are safe.", AGAIN]
    if outcome == "inconclusive" and not is_tuned(evidence):
        kinds = bool(evidence.others) and not in_the_way(evidence)
        more = "Give more rows, or rows known to be clean on the same prompts (--reference)."
        other = (
            "Train another base than the teacher's, where you can choose: more rows or other "
            "references do not make this audit see teachers of other kinds."
        )
        return [other if kinds else more, *canary, NO_CLEAN_VERDICT]
    shuffled = latest().shuffled
    low, high = shuffled.interval
    gone = f"{shuffled.share:.0%} [{low:.0%}, {high:.0%}]"
    numbers = [
        "Shuffle the numbers across rows if their order carries nothing: on the bundled model this "
        f"took away {gone} of the contrast (docs/results.md).",
    ]
    return [
        *(numbers if evidence.row_kind == "numbers" else []),
        "Train another base than the teacher's: sampled rows passed on nothing that could be "
        "measured from one bundled base to the other (docs/results.md).",
        "Have a teacher without the trait write the rows again.",
        *canary,
        *([NO_CLEAN_VERDICT] if outcome == "inconclusive" else []),
        "Look at the rows with the highest scores for the trait (scores/scores.jsonl); removing "
        "them has not been measured yet.",
    ]


def caveats(evidence: Evidence) -> list[str]:
    """What a reader has to know to read the verdict rightly."""
    whose = (
        "the rows given as reference"
        if evidence.own_reference
        else "rows that the base wrote itself"
    )
    expected = [
        "Expected shifts are what students of twins' rows took on; for other writers they "
        "are not known."
    ]
    alone = [
        "All traits looked for are of one family, so that the evidence compares them with the base "
        "alone: a model that was tuned on anything may be flagged for one of them. Add --traits "
        "library."
    ]
    return [
        f"The last test compares the rows with {whose}.",
        *([students_words()] if evidence.row_kind == "numbers" else []),
        f"The p-value of the untouched base ({p_words(p_base(evidence))}) is for rows that it "
        "draws at temperature 1 in this form, none left out. Filtering, another temperature, any "
        "tuning and any other writer make it small.",
        *(expected if evidence.expected is not None else []),
        another_family_words(),
        *(alone if len(evidence.library.families) == 1 else []),
        "A trait's relatives write alike: where several explain the rows nearly as well, the first "
        "is the best guess, not the only one.",
    ]


def students_words() -> str:
    """What was measured of students of twins' number rows."""
    m = latest().students
    return (
        f"On the bundled model students of rows of such twins took on {m.nats[0]} and {m.nats[1]} "
        f"nats of log-odds on average (two makings of {m.data_sets} data sets, standard deviation "
        f"{m.deviation}), whatever the evidence (docs/results.md)."
    )


def another_family_words() -> str:
    """What was measured of flags for a trait of another family."""
    m = latest().another_family
    return (
        "The evidence of a trait compares its probe with the base and with probes of other "
        "families' traits. A writer that was tuned on something else may be flagged for a trait "
        f"that it does not have: of {m.data_sets} data sets of twins {m.flagged} were flagged for "
        f"a trait of another family, and {m.without_own_family} would have been had their own "
        "family not been in the library (docs/results.md)."
    )
