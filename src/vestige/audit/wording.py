"""The sentences of an audit: its verdict, its grounds and the first look. Figures come from
``core/calibration``.

What was tested, what was not and what to do next: ``scope_wording``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vestige.audit.decision import (
    Outcome,
    Reason,
    flags,
    reached,
    relatives,
    rows_needed,
    strongest,
    visible,
)
from vestige.audit.first_look import FirstLook, named, p_base
from vestige.audit.gathered import Dose, Evidence
from vestige.audit.race_result import METHOD
from vestige.audit.settings import AuditSettings
from vestige.core.calibration import calibration, latest

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


def sentence(evidence: Evidence, outcome: Outcome, reason: Reason) -> str:
    """The verdict in words."""
    dose, ids = evidence.last, evidence.library.ids
    if dose is None or reason in UNSEEN:
        return f"Inconclusive: {UNSEEN[reason]}."
    base, read = evidence.settings.base, f"{dose.rows:,} rows"
    if outcome == "flagged":
        clear, near = flags(evidence), relatives(evidence)
        first, t = [ids[i] for i in clear], clear[0]
        doubt = f" (or {', '.join(ids[i] for i in near[:NAMED])})" if near else ""
        more = f" and {len(first) - NAMED} more" if len(first) > NAMED else ""
        return (
            f"Flagged for {', '.join(first[:NAMED])}{more}{doubt}: a copy of {base} that read "
            f"{read} of these gives {first[0]} {dose.shares[t]:.0%} of the answers to a typical "
            f"question, where one that read reference rows gives {dose.usual[t]:.0%}, "
            f"{dose.reading.standardised[t]:.1f} standard deviations of what harmless students "
            f"differ by (p = {dose.reading.p[t]:.2g})."
        )
    if outcome == "not_found":
        return (
            f"Not found: none of {len(ids)} traits stands out in a copy of {base} that read {read} "
            f"of these. Half of them would have, had the training of {evidence.training_rows:,} "
            f"rows taken them to {evidence.settings.limit:.0%} of the answers."
        )
    return (
        f"Inconclusive: none of {len(ids)} traits stands out in a copy of {base} that read {read} "
        f"of these ({ids[strongest(evidence)[0]]} comes first), and too little would have been "
        "seen."
    )


UNSEEN: Mapping[Reason, str] = {
    "no canaries": "no copy was trained on the rows, and the first look alone decides nothing",
    "no battery": "there are no harmless students of this base to compare with",
    "few members": "too few harmless students for this false-positive rate",
}


# ---- its grounds ------------------------------------------------------------------------------


def why(evidence: Evidence, reason: Reason) -> list[str]:
    """The grounds of the outcome, a sentence each."""
    canaries, settings = evidence.canaries, evidence.settings
    if canaries is None:
        return ["--canaries 1 trains a copy on the rows and one on reference rows"]
    if reason == "no battery":
        return [battery_words(settings, canaries.missing)]
    if reason == "few members":
        return [few_words(canaries.placebos, canaries.alpha)]
    dose = evidence.last
    sentences = [read_words(evidence, dose)] if dose else []
    return [*sentences, *(blind_words(evidence, dose) if dose and reason == "blind" else [])]


def battery_words(settings: AuditSettings, missing: int) -> str:
    """What is missing to compare copies with, and the command that makes it."""
    held, usual = settings.held_against, AuditSettings.model_fields["members"].default
    options = [
        "" if held.traits == ("library",) else f" --traits {','.join(held.traits)}",
        "" if held.chat == "auto" else f" --chat {held.chat}",
        "" if held.members == usual else f" --members {held.members}",
    ]
    return (
        f"{missing} of {held.members} harmless students of {held.base} are missing: make them once "
        f"(hours on a laptop) with `vestige calibrate {held.base}{''.join(options)}`, and audit "
        "again"
    )


def few_words(placebos: int, alpha: float) -> str:
    """That there are too few pairs of harmless students."""
    return (
        f"with {placebos} pairs of harmless students no p-value is below {1 / (placebos + 1):.3g}, "
        f"and {alpha:.3g} is needed (--members)"
    )


def price(settings: AuditSettings, doses: Sequence[int], training: int) -> str:
    """What the copies cost, against the training that is to be spared. Args: doses: rows that each
    copy reads, one after the other; training: rows that it reads."""
    total = 2 * settings.canaries * sum(doses)
    steps = " and then ".join(f"{dose:,}" for dose in doses)
    return (
        f"{2 * settings.canaries} copies read {steps} rows each: {total:,} at most, where the "
        f"training reads {training:,} ({total / training:.0%} of it)"
    )


def read_words(evidence: Evidence, dose: Dose) -> str:
    """How the copies were trained."""
    unique = evidence.canaries.unique if evidence.canaries else 0
    again = f" ({unique:,} different ones)" if unique < dose.rows else ""
    pairs = "a pair" if dose.pairs == 1 else f"{dose.pairs} pairs"
    return (
        f"{pairs} of copies read {dose.rows:,} rows each{again}, one the data's, one reference rows"
    )


def blind_words(evidence: Evidence, dose: Dose) -> list[str]:
    """Why nothing found says nothing, and what it would take."""
    settings, training = evidence.settings, evidence.training_rows
    seen, limit = visible(dose), f"{settings.limit:.0%} of the answers"
    size = f"{seen:.0%} of the answers" if math.isfinite(seen) else "more than was tried"
    words = (
        f"half of the traits would have to take {size} in such a copy to be seen; of a training of "
        f"{training:,} rows that takes one to {limit} it goes about "
        f"{reached(dose.rows, training):.0%} of the way, in log-odds"
    )
    if calibration(settings.base, METHOD) is None:
        words += " (as shifts grow in students of the bundled base)"
    enough = rows_needed(dose, settings.limit, training)
    if math.isfinite(enough):
        return [f"{words}; copies that read about {enough:,.0f} rows would do (--canary-rows)"]
    return [f"{words}; no number of rows makes {limit} visible here (--limit)"]


# ---- the first look ---------------------------------------------------------------------------


def first_look_sentence(evidence: Evidence, look: FirstLook) -> str:
    """Who may have written the rows, in words."""
    base, race, count = evidence.settings.base, evidence.race, len(evidence.library.ids)
    if look == "not taken":
        return "First look: not taken (--no-first-look); who may have written the rows is not said."
    if look == "few rows":
        return f"First look: {race.rows} rows are less than one batch of {evidence.settings.batch}."
    if look == "twin":
        return twin_sentence(evidence)
    if look == "unknown":
        than = "less" if race.misfit > 0 else "more"
        return (
            f"First look: lineage unknown. These rows are {abs(race.misfit):.2f} nats a token "
            f"{than} likely than what {base}, or a teacher tuned from it as the probes are, writes "
            f"{drawn_words(evidence)}."
        )
    if look == "tuned":
        order = sorted(range(count), key=lambda t: -race.scores[t])
        likeliest = ", ".join(evidence.library.ids[t] for t in order[:NAMED])
        return (
            f"First look: a tuned model wrote this, not the untouched {base} "
            f"{drawn_words(evidence)} ({p_words(p_base(evidence))}): a copy of it, harmless or "
            f"not, or another model. {likeliest} come first, which says something only of a twin "
            f"of the audit's probes: {elsewhere()}."
        )
    return (
        f"First look: no twin of a probe is seen in {race.rows} rows, nor any tuned writer "
        f"({p_words(p_base(evidence))} that the untouched {base} wrote them)."
    )


def drawn_words(evidence: Evidence) -> str:
    """As if drawn how the rows were read: ``at temperature 0.7, top-p 0.95``."""
    sampling = evidence.read_at
    if sampling is None or sampling.usual:
        return "at temperature 1"
    cut = f", top-p {sampling.top_p:g}" if sampling.top_p < 1 else ""
    return f"at temperature {sampling.temperature:g}{cut}"


def twin_sentence(evidence: Evidence) -> str:
    """The first look where a trait's probe is named."""
    ids, race, clear = evidence.library.ids, evidence.race, named(evidence)
    names = [ids[t] for t in clear]
    others = [ids[t] for t in race.likeliest if t not in clear]
    doubt = f" (or {', '.join(others[:NAMED])})" if others else ""
    return (
        f"First look: a twin of {', '.join(names[:NAMED])}'s teacher wrote this{doubt}: of "
        f"{len(ids)} traits this is the one whose probe, a copy of {evidence.settings.base} tuned "
        "on it, writes most like these rows. This says something about the writer, and about its "
        f"trait only if it is a twin of the probe: {elsewhere()}."
    )


def p_words(p: float | None) -> str:
    """A p-value no finer than it can be trusted."""
    if p is None:
        return "no p"
    return "p < 1e-6" if p < SMALLEST_P else f"p = {p:.2g}"
