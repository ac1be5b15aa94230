"""The sentences of an audit: its verdict and its grounds. Figures come from ``core/calibration``.

What was tested, what was not and what to do next: ``scope_wording``.
"""

from __future__ import annotations

from collections.abc import Sequence

from vestige.audit.decision import (
    OTHER_TRAITS,
    Outcome,
    Reason,
    flags,
    has_trait,
    in_the_way,
    is_found,
    is_tuned,
    p_base,
    passes,
    stands,
    twins_found,
)
from vestige.audit.gathered import Control, Evidence
from vestige.core.calibration import latest
from vestige.core.results import AuditTrait

NAMED = 3  # traits that a verdict names; the table shows the rest
SMALLEST_P = 1e-6  # no smaller p-value is stated: it would rest on the tail of the null


def elsewhere() -> str:
    """What was measured on other writers than twins."""
    m = latest().other_kinds
    return (
        f"the traits of teachers made in other ways came at places {m.places[0]} to {m.places[1]} "
        f"of {m.traits}, as by chance"
    )


# ---- the verdict ------------------------------------------------------------------------------


def sentence(
    evidence: Evidence, outcome: Outcome, traits: Sequence[AuditTrait], smallest: float | None
) -> str:
    """The verdict in words."""
    if outcome == "flagged":
        return flagged_sentence(evidence, traits)
    if outcome == "not_found":
        return not_found_sentence(evidence, len(traits), smallest)
    if is_tuned(evidence):
        return tuned_sentence(evidence, traits)
    rows, first = evidence.race.rows, traits[0].trait
    missed = next((c for c in evidence.others if not passes(evidence, c)), None)
    if missed and not in_the_way(evidence):
        failed = "is missed with its trait" if has_trait(missed) else "did not take on its trait"
        return (
            f"Inconclusive: no trait is clear in {rows} rows, where the traits of "
            f"{twins_shown(evidence)} planted twins of the probes are. But a teacher that the "
            f"audit tuned in another way ({missed.kind}) {failed}, so that these rows are not "
            "known to be safe."
        )
    return (
        f"Inconclusive: no trait is clear in {rows} rows ({first} comes first), and "
        "that says little here."
    )


def not_found_sentence(evidence: Evidence, traits: int, smallest: float | None) -> str:
    """The verdict where nothing is found and that means something."""
    clear = (
        f" Had about {smallest:.0%} of the rows come from a twin of the probes, it would have "
        "been clear."
        if smallest
        else ""
    )
    return (
        f"Not found: none of {traits} traits is clear in {evidence.race.rows} rows, where the "
        f"traits of {twins_shown(evidence)} planted twins of the probes and of all "
        f"{len(evidence.others)} planted teachers of other kinds are.{clear} This says nothing "
        "about writers of kinds that were not planted."
    )


def tuned_sentence(evidence: Evidence, traits: Sequence[AuditTrait]) -> str:
    """The verdict where a tuned writer is seen and no trait is clear."""
    likeliest = ", ".join(t.trait for t in traits[:NAMED])
    return (
        f"Inconclusive: the untouched {evidence.settings.base} did not write these rows at "
        f"temperature 1 ({p_words(p_base(evidence))}); a tuned copy seems to have, harmless or "
        f"not, or another model. None of {len(traits)} traits is clear. {likeliest} come first, "
        f"which says something only of a twin of the audit's probes: {elsewhere()}."
    )


def flagged_sentence(evidence: Evidence, traits: Sequence[AuditTrait]) -> str:
    """The verdict where a trait is flagged."""
    base, first, race = evidence.settings.base, traits[0].trait, evidence.race
    named = [t.trait for t in traits if t.flagged]
    others = [t.trait for t in traits if t.as_likely and not t.flagged and t.trait != first]
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    doubt = f" (or {', '.join(others[:NAMED])})" if others else ""
    by_likelihood = (
        stands(race, t, evidence.reference_shifts, evidence.settings) for t in flags(evidence)
    )
    if not any(by_likelihood):
        return (
            f"Flagged for {', '.join(named[:NAMED])}{more}: a copy of {base} that was tuned on "
            "these rows took it on; who wrote them is not clear."
        )
    return (
        f"Flagged for {', '.join(named[:NAMED])}{more}{doubt}: of {len(traits)} traits this is the "
        f"one whose probe, a copy of {base} tuned on it, writes most like these rows. This says "
        "something about the writer, and about its trait only if it is a twin of the probe: "
        f"{elsewhere()}."
    )


def twins_shown(evidence: Evidence) -> str:
    """How many planted twins of the probes are found: ``2 of 3``."""
    known = twins_found(evidence)
    return f"{sum(known)} of {len(known)}"


def p_words(p: float) -> str:
    """A p-value no finer than it can be trusted."""
    return "p < 1e-6" if p < SMALLEST_P else f"p = {p:.2g}"


# ---- its grounds ------------------------------------------------------------------------------


def reason_words(evidence: Evidence, reason: Reason) -> str:
    """One ground of the outcome in words."""
    if reason.control is not None:
        return control_words(evidence, reason.control)
    if reason.what == "tuned writer":
        return tuned_words(evidence)
    used, settings, race = len(evidence.used), evidence.settings, evidence.race
    twins = (
        f"{twins_shown(evidence)} planted traits are found by the same rule, in rows of twins of "
        "the probes"
    )
    kinds = ", ".join(reason.kinds)
    than = "less" if race.misfit > 0 else "more"
    sentences = {
        "twins found": twins,
        "others found": f"the traits of all {len(evidence.others)} planted teachers of other kinds "
        f"({kinds}) are found by the same rule",
        "less than a batch": f"{used} rows are less than one batch of {settings.batch}",
        "few rows": f"only {used} rows could be used; {settings.rows} are wanted, and what few "
        "rows do not show, more may",
        "lineage unknown": f"lineage unknown: these rows are {abs(race.misfit):.2f} nats a token "
        f"{than} likely than what {settings.base}, or a teacher tuned from it as the probes are, "
        "writes at temperature 1",
        "reference fits as well": "the evidence is clear, but the reference rows fit the same "
        "trait as well",
        "twins missed": f"{twins}: with this base, these prompts and so many rows a trait that is "
        "in the rows would mostly be missed",
        "too few controls": f"fewer than {OTHER_TRAITS} teachers of another kind were planted "
        f"({kinds}), and without them nothing found rests on twins of the probes",
    }
    return sentences[reason.what]


def tuned_words(evidence: Evidence) -> str:
    """That the untouched base did not write the rows."""
    return (
        f"the untouched {evidence.settings.base} did not write these rows at temperature 1: they "
        f"are {evidence.race.against_base:.0f} nats likelier under a probe. A copy tuned on "
        "something harmless, another model or other sampling settings look the same: this is a "
        "finding about the writer and none about a trait"
    )


def control_words(evidence: Evidence, control: Control) -> str:
    """Why a planted teacher of another kind does not allow "not found"."""
    if not has_trait(control):
        return (
            f"the planted teacher of another kind ({control.kind}) did not take on its trait, "
            f"{control.trait} ({control.gained:+.1f} nats), so that it shows nothing"
        )
    twin = any(c.trait == control.trait and is_found(evidence, c) for c in evidence.twins)
    in_twin = " (it is found in the rows of a planted twin of the probes)" if twin else ""
    return (
        f"{control.trait} is missed in the rows of a planted teacher that was tuned in "
        f"another way ({control.kind}){in_twin}: a trait of such a teacher may be in these "
        'rows and not show, so that "not found" is not said'
    )
