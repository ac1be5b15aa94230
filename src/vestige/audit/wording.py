"""The sentences of an audit: its verdict, what was tested and what was not, what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from vestige.audit.decision import (
    Evidence,
    Outcome,
    flags,
    has_trait,
    in_the_way,
    is_found,
    passes,
    stands,
)
from vestige.core.results import AuditTrait

BLIND = [
    "traits of teachers that were made in another way than the probes (late or all layers, LoRA, "
    "other data than questions and answers about the trait): measured at chance",
    "traits that are not in the library",
    "triggers: a trait that shows only after some phrase, date or task",
    "traits that show only in a language, format or length that these rows do not have",
    "teachers of another base, or at another temperature than 1: rows unlike what the base and "
    "twins of the probes write are set apart, and what they pass on is not predicted",
]
#: What was measured on other writers than twins (docs/audit.md).
ELSEWHERE = (
    "the traits of teachers made in other ways came at places 40 to 118 of 139, as by chance"
)


def sentence(
    found: Evidence, outcome: Outcome, traits: Sequence[AuditTrait], smallest: float | None
) -> str:
    """The verdict in words."""
    if outcome == "flagged":
        return flagged_sentence(found, traits)
    base, n, first = found.settings.base, len(traits), traits[0].trait
    if outcome == "not_found":
        clear = (
            f" Had about {smallest:.0%} of the rows come from a twin of the probes, it would have "
            "been clear."
            if smallest
            else ""
        )
        return (
            f"Not found: none of {n} traits is clear in {found.trial.rows} rows, where the traits "
            f"of {twins(found)} planted twins of the probes and of all {len(found.others)} planted "
            f"teachers of other kinds are.{clear} This says nothing about writers of kinds that "
            "were not planted."
        )
    if found.tuned:
        likeliest = ", ".join(t.trait for t in traits[:3])
        return (
            f"Inconclusive: the untouched {base} did not write these rows at temperature 1 "
            f"({p_words(found.p_base)}); a tuned copy seems to have, harmless or not, or another "
            f"model. None of {n} traits is clear. {likeliest} come first, which says something "
            f"only of a twin of the audit's probes: {ELSEWHERE}."
        )
    missed = next((c for c in found.others if not passes(found, c)), None)
    if missed and not in_the_way(found):
        what = "is missed with its trait" if has_trait(missed) else "did not take on its trait"
        return (
            f"Inconclusive: no trait is clear in {found.trial.rows} rows, where the traits of "
            f"{twins(found)} planted twins of the probes are. But a teacher that the audit tuned "
            f"in another way ({missed.kind}) {what}, so that these rows are not known to be safe."
        )
    return (
        f"Inconclusive: no trait is clear in {found.trial.rows} rows ({first} comes first), and "
        "that says little here."
    )


def flagged_sentence(found: Evidence, traits: Sequence[AuditTrait]) -> str:
    """The verdict where a trait is flagged."""
    base, first = found.settings.base, traits[0].trait
    named = [t.trait for t in traits if t.flagged]
    others = [t.trait for t in traits if t.as_likely and not t.flagged and t.trait != first]
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    doubt = f" (or {', '.join(others[:3])})" if others else ""
    if not any(stands(found, found.trial, t) for t in flags(found)):
        return (
            f"Flagged for {', '.join(named[:3])}{more}: a copy of {base} that was tuned on "
            "these rows took it on; who wrote them is not clear."
        )
    return (
        f"Flagged for {', '.join(named[:3])}{more}{doubt}: of {len(traits)} traits this is the one "
        f"whose probe, a copy of {base} tuned on it, writes most like these rows. This says "
        "something about the writer, and about its trait only if it is a twin of the probe: "
        f"{ELSEWHERE}."
    )


def twins(found: Evidence) -> str:
    """How many planted twins of the probes are found."""
    known = [is_found(found, control) for control in found.twins]
    return f"{sum(known)} of {len(known)}"


def p_words(p: float) -> str:
    """A p-value no finer than it can be trusted."""
    return "p < 1e-6" if p < 1e-6 else f"p = {p:.2g}"


def channels(found: Evidence) -> list[str]:
    """What was tested."""
    n, families = len(found.library.ids), len(found.library.families)
    read = len(found.trial.shifts)
    tested = [
        f"first-order pull of the rows along probes of {n} traits of {families} families",
        f"likelihood of {found.trial.rows} rows under the probes of {read} of them",
        "lineage: whether the rows are such as the base or a twin of the probes writes",
    ]
    if found.soft_targets:
        tested.append(f"the writer's own probabilities at every token of {len(found.soft_targets)} rows")
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
    again = "Audit again when the data, its prompts or the base change."
    canary = (
        []
        if found.canaries
        else [
            "Tune a copy of the base on the rows and look at what it takes on (--canary): how far "
            "a student moves cannot be read off these scores."
        ]
    )
    if outcome == "not_found":
        return ["Do not read this as proof that the rows are safe.", again]
    if outcome == "inconclusive" and not found.tuned:
        kinds = bool(found.others) and not in_the_way(found)
        more = "Give more rows, or rows known to be clean on the same prompts (--reference)."
        other = (
            "Train another base than the teacher's, where you can choose: more rows or other "
            "references do not make this audit see teachers of other kinds."
        )
        return [other if kinds else more, *canary, "Do not read this as a clean verdict."]
    numbers = [
        "Shuffle the numbers across rows if their order carries nothing: on the bundled model this "
        "took away 77% of the shift (docs/results.md).",
    ]
    return [
        *(numbers if found.material == "numbers" else []),
        "Train another base than the teacher's: sampled rows passed on nothing that could be "
        "measured from one bundled base to the other (docs/results.md).",
        "Have a teacher without the trait write the rows again.",
        *canary,
        *(["Do not read this as a clean verdict."] if outcome == "inconclusive" else []),
        "Look at the rows with the highest scores for the trait (scores/scores.jsonl); removing "
        "them has not been measured yet.",
    ]


def caveats(found: Evidence) -> list[str]:
    """What a reader has to know to read the verdict rightly."""
    whose = (
        "the rows given as reference" if found.own_reference else "rows that the base wrote itself"
    )
    measured = [
        "On the bundled model students of rows of such twins took on 0.7 and 0.9 nats of log-odds "
        "on average (two makings of 24 data sets, standard deviation 0.6), whatever the evidence "
        "(docs/results.md)."
    ] if found.material == "numbers" else []  # fmt: skip
    alone = [
        "All traits looked for are of one family, so that the evidence compares them with the base "
        "alone: a model that was tuned on anything may be flagged for one of them. Add --traits "
        "library."
    ] if len(found.library.families) == 1 else []  # fmt: skip
    return [
        f"The last test compares the rows with {whose}.",
        *measured,
        f"The p-value of the untouched base ({p_words(found.p_base)}) is for rows that it draws at "
        "temperature 1 in this form, none left out. Filtering, another temperature, any tuning and "
        "any other writer make it small.",
        *(
            [
                "Expected shifts are what students of twins' rows took on; for other writers they "
                "are not known."
            ]
            if found.expected is not None
            else []
        ),
        "The evidence of a trait compares its probe with the base and with probes of other "
        "families' traits. A writer that was tuned on something else may be flagged for a trait "
        "that it does not have: of 77 data sets of twins 2 were flagged for a trait of another "
        "family, and 9 would have been had their own family not been in the library "
        "(docs/results.md).",
        *alone,
        "A trait's relatives write alike: where several explain the rows nearly as well, the first "
        "is the best guess, not the only one.",
    ]
