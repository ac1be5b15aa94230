"""The sentences around a verdict: what was tested, what was not, what to do next, how to read it.

Figures in them stand in ``core/calibration.toml``.
"""

from __future__ import annotations

from vestige.audit.decision import Outcome
from vestige.audit.first_look import p_base
from vestige.audit.gathered import Evidence
from vestige.audit.wording import drawn_words, p_words
from vestige.core.calibration import latest

BLIND = [
    "traits that are not in the library",
    "triggers: a trait that shows only after some phrase, date or task",
    "traits that show only in a language, format or system prompt that the questions do not have",
    "traits that a training takes on late: copies read fewer rows than the training does",
]
AGAIN = "Audit again when the data, its prompts, the base or the training change."
NO_CLEAN_VERDICT = "Do not read this as a clean verdict."


def channels(evidence: Evidence) -> list[str]:
    """What was tested."""
    n, families = len(evidence.library.ids), len(evidence.library.families)
    race, known, canaries = evidence.race, len(evidence.soft_targets), evidence.canaries
    tested = [
        f"{dose.pairs} x 2 copies of the base that read {dose.rows:,} rows, asked about every trait"
        for dose in (canaries.doses if canaries else ())
    ]
    if tested:
        tested.append("open questions: words that begin a copy's answers more often than usual")
    looked = [
        f"first look: first-order pull of the rows along probes of {n} traits of {families} "
        "families",
        f"first look: likelihood of {race.rows} rows under the probes of {len(race.shifts)} traits",
        "first look: whether the rows are such as the base or a twin of the probes writes",
    ]
    tested += looked if race.run else []
    if known:
        tested.append(f"the writer's own probabilities at every token of {known} rows")
    return tested


def blind(evidence: Evidence) -> list[str]:
    """What was not tested."""
    read = max(len(evidence.used), evidence.canaries.unique if evidence.canaries else 0)
    unread = evidence.rows - sum(evidence.dropped.values()) - read
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
    if outcome == "not_found":
        return ["Do not read this as proof that the rows are safe.", AGAIN]
    if outcome == "inconclusive":
        more = (
            "Let the copies read more rows (--canary-rows), trained as you will train "
            "(--canary-layers, --canary-rank, --canary-rate)."
            if evidence.last
            else "Let copies be trained on the rows: what is missing for that stands above."
        )
        other = "Train another base than the teacher's, where you can choose."
        return [more, other, NO_CLEAN_VERDICT]
    shuffled = latest().shuffled
    low, high = shuffled.interval
    gone = f"{shuffled.share:.0%} [{low:.0%}, {high:.0%}]"
    numbers = [
        "Shuffle the numbers across rows if their order carries nothing: on the bundled model this "
        f"took away {gone} of the contrast (docs/results.md).",
    ]
    return [
        "Train another base than the teacher's: sampled rows passed on nothing that could be "
        "measured from one bundled base to the other (docs/results.md).",
        "Have a teacher without the trait write the rows again.",
        *(numbers if evidence.row_kind == "numbers" else []),
        "Change the rows (vestige mitigate) and audit again: how much that takes away has not been "
        "measured yet (docs/mitigate.md).",
        *(
            ["Look at the rows that the first look's probes fit best (scores/scores.jsonl)."]
            if evidence.race.run
            else []
        ),
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
        "All traits looked for are of one family, so that the first look compares them with the "
        "base alone: a model that was tuned on anything may be named for one of them. Add "
        "--traits library."
    ]
    look = [
        f"The p-value of the untouched base ({p_words(p_base(evidence))}) is for rows that it "
        f"draws {drawn_words(evidence)} in this form, none left out. Filtering, any tuning and any "
        "other writer make it small.",
        *(expected if evidence.expected is not None else []),
        another_family_words(),
        *(alone if len(evidence.library.families) == 1 else []),
    ]
    foreign = [
        "The harmless pairs that copies are held against have reference rows of the base; with "
        "other reference rows the p-values are less sure: audit without --reference as well."
    ]
    what = "Copies on the data's rows are" if evidence.last else "The data's rows are"
    return [
        f"{what} compared with {'copies on ' if evidence.last else ''}{whose}.",
        *(foreign if evidence.own_reference and evidence.last else []),
        *(look if evidence.race.run else []),
        "A trait's relatives move alike: where several are as likely, the first is the best guess, "
        "not the only one.",
    ]


def another_family_words() -> str:
    """What was measured of the first look naming a trait of another family."""
    m = latest().another_family
    return (
        "The first look compares a trait's probe with the base and with probes of other families' "
        "traits. A writer that was tuned on something else may be taken for one with a trait that "
        f"it does not have: of {m.data_sets} data sets of twins {m.flagged} were named for a trait "
        f"of another family, and {m.without_own_family} would have been had their own family not "
        "been in the library (docs/results.md)."
    )
