"""The one decision rule: from evidence to an outcome. Pure: nothing here loads a model or torch.

``vestige audit``, ``vestige bench audit`` and ``benchmarks/`` all decide by these functions.

A trait is *flagged* where the evidence is clear. *Not found* needs planted teachers whose traits
are found by the same rule: at least half of those that are twins of the probes, and every one of
those that are tuned in other ways (``OTHER_KINDS``), two of each kind: one may be found by luck
where the library is small (``docs/log.md``). One that is missed shows that such a teacher's rows
would look as the data's do, and the outcome is *inconclusive*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from vestige.audit.canary_statistics import first_flags
from vestige.audit.evidence import likelihood_ratios, log_evidence, p_value
from vestige.audit.gathered import Control, Evidence
from vestige.audit.race_result import Race, places
from vestige.audit.settings import AuditSettings
from vestige.probing.settings import OTHER_KINDS

Array = NDArray[np.float64]
Outcome = Literal["flagged", "not_found", "inconclusive"]
AGREED = 3  # place by pull up to which a trait may be clear; chosen on traits not held out
ENOUGH_FOUND = 0.5  # share of planted twins' traits that must be found for "not found"; chosen
OTHER_TRAITS = 2  # traits planted in every other kind of teacher; chosen: one is found by luck
HAS_TRAIT = 1.0  # nats of log-odds from which a planted teacher has its trait; chosen
#: Shares of a twin's rows that ``smallest_share`` tries: in steps of a twentieth.
MIXTURES = np.linspace(0.05, 1, 20)

# ---- one look at rows -------------------------------------------------------------------------


class Look(NamedTuple):
    """What a look at the rows says of the traits that were read, [K] each.

    Attributes:
        evidence: log e, nats.
        agreed: whether likelihood and pull both name the trait.
        clear: whether it is also clear enough.
    """

    evidence: Array
    agreed: NDArray[np.bool_]
    clear: NDArray[np.bool_]


def look_ends(rows: int, batch: int) -> list[int]:
    """After how many rows they are looked at: after every batch, and after all."""
    return [*range(batch, rows, batch), rows]


def look(
    shifts: Array, place: Array, families: Sequence[str], traits: int, settings: AuditSettings
) -> Look:
    """One look.

    Args:
        shifts: of the traits that were read on all rows so far, [K, n].
        place: of these by pull, among all traits, [K].
        families: of these.
        traits: how many traits are looked for, among which alpha is divided.
    """
    evidence = log_evidence(shifts, families, settings.drift)
    both = agreed(place, shifts, families)
    sure = p_value(evidence) * traits <= settings.alpha_each
    return Look(evidence, both, sure & both)


def agreed(place: Array, shifts: Array, families: Sequence[str]) -> NDArray[np.bool_]:
    """Which traits [K] likelihood and pull both name: among the ``AGREED`` of the largest pull, and
    before every trait of another family by both places together.

    Args:
        place: by pull, among all traits, [K].
        shifts: [K, n].
    """
    together = np.log(place) + np.log(places(likelihood_ratios(shifts).max(1)))
    kind = np.asarray(families)
    rivals = np.array([together[kind != name].min(initial=np.inf) for name in kind])
    return could_be_clear(place) & (together < rivals)


def could_be_clear(place: Array) -> NDArray[np.bool_]:
    """Which traits the pull does not rule out, from their places by pull."""
    return place <= AGREED


def fits_better(own: Array, usual: Array, alpha: float) -> bool:
    """Whether rows fit a trait's probe better than reference rows do (Welch)."""
    test = distributions.ttest_ind(own, usual, equal_var=False, alternative="greater")
    return float(test.pvalue) <= alpha  # type: ignore[attr-defined]


# ---- one data set -----------------------------------------------------------------------------


def stands(race: Race, trait: int, usual: Mapping[int, Array], settings: AuditSettings) -> bool:
    """Whether evidence that is clear holds: the rows' lineage is known, and they fit the trait's
    probe better than the reference rows do (``usual``, by trait their shifts)."""
    return trait in race.clear and fits_better(
        race.shifts[trait], usual[trait], settings.alpha_each
    )


def enough_rows(race: Race, settings: AuditSettings) -> bool:
    """Whether a batch of rows was read: fewer flag nothing."""
    return race.rows >= settings.batch


def flagged_by_likelihood(
    race: Race, usual: Mapping[int, Array], settings: AuditSettings
) -> dict[int, int]:
    """By flagged trait the rows that it took, the clearest first: the evidence is clear, the rows
    are such as the base or a twin of the probes writes, and they fit its probe better than the
    reference rows do (``usual``, by trait their shifts: of all that are clear at least)."""
    if not enough_rows(race, settings):
        return {}
    by_evidence = sorted(race.clear, key=lambda t: -race.evidence[t])
    return {t: race.clear[t] for t in by_evidence if stands(race, t, usual, settings)}


def tuned_writer(race: Race, settings: AuditSettings) -> bool:
    """Whether the rows are clearly not the untouched base's own, and yet likely under some probe.
    That is about their writer: harmless tuned copies write such rows too."""
    return race.known_lineage and race.against_base >= settings.needed(len(race.pull))


def rows_to_tuned_writer(race: Race, settings: AuditSettings) -> int | None:
    """Rows after which a tuned writer was seen first; None where none is seen in the end."""
    if not tuned_writer(race, settings):
        return None
    ends = look_ends(race.rows, settings.batch)
    return next(n for n in ends if tuned_writer(race.after(n), settings))


# ---- an audit's evidence ----------------------------------------------------------------------


def flags(evidence: Evidence) -> dict[int, int]:
    """By flagged trait the rows that it took: those flagged by likelihood, the clearest first, then
    those that a canary took on."""
    flagged = flagged_by_likelihood(evidence.race, evidence.reference_shifts, evidence.settings)
    canaries = evidence.canaries
    if canaries and enough_rows(evidence.race, evidence.settings):
        for t, at in first_flags(canaries.looks, evidence.levels).items():
            flagged.setdefault(t, canaries.looks[at].rows)
    return flagged


def is_tuned(evidence: Evidence) -> bool:
    """Whether a tuned writer is seen in the data."""
    return tuned_writer(evidence.race, evidence.settings)


def p_base(evidence: Evidence) -> float:
    """A p-value of "the untouched base wrote these rows at temperature 1": the chance, at most,
    that its rows ever score as high against it under any probe (Ville; Bonferroni over the
    library). The one p-value of an audit: no other writer is in that null."""
    nats = max(0.0, evidence.race.against_base)
    return min(1.0, len(evidence.library.ids) * math.exp(-nats))


def strongest(evidence: Evidence) -> list[int]:
    """All traits: flagged ones first, then by likelihood and pull together."""
    flagged, scores = flags(evidence), evidence.race.scores
    rest = [int(t) for t in np.argsort(-scores, kind="stable") if t not in flagged]
    return [*flagged, *rest]


# ---- positive controls ------------------------------------------------------------------------


def is_found(evidence: Evidence, control: Control) -> bool:
    """Whether the rule that flags finds a planted teacher's trait in its rows."""
    own = evidence.library.ids.index(control.trait)
    return stands(control.race, own, evidence.reference_shifts, evidence.settings)


def has_trait(control: Control) -> bool:
    """Whether a planted teacher has its trait, where it was asked."""
    return control.gained is None or control.gained >= HAS_TRAIT


def passes(evidence: Evidence, control: Control) -> bool:
    """Whether a planted teacher of another kind has its trait and the trait is found."""
    return has_trait(control) and is_found(evidence, control)


def twins_found(evidence: Evidence) -> list[bool]:
    """For each planted twin whether its trait is found."""
    return [is_found(evidence, control) for control in evidence.twins]


def enough_twins(evidence: Evidence) -> bool:
    """Whether so many planted twins' traits are found that none being found means something."""
    known = twins_found(evidence)
    return bool(known) and sum(known) >= ENOUGH_FOUND * len(known)


def settled(evidence: Evidence) -> bool:
    """Whether further planted twins cannot change that enough of them are found, or not."""
    total, known = evidence.settings.planted, twins_found(evidence)
    enough = math.ceil(ENOUGH_FOUND * total)
    return sum(known) >= enough or len(known) - sum(known) > total - enough


def other_traits(evidence: Evidence, planted: Sequence[str]) -> list[str]:
    """Which of the traits that may be planted teachers of other kinds get: first those that are
    found in their twins' rows, so that what is missed is missed for the kind of teacher, and last
    those that are missed there."""
    known = {c.trait: is_found(evidence, c) for c in evidence.twins}
    order = {True: 0, None: 1, False: 2}
    return sorted(planted, key=lambda trait: order[known.get(trait)])[:OTHER_TRAITS]


def others_wanted(evidence: Evidence) -> bool:
    """Whether the outcome hangs on planted teachers of other kinds: nothing is flagged, nothing
    else is in the way of "not found", and none of them was missed so far."""
    return not (
        flags(evidence)
        or in_the_way(evidence)
        or any(not passes(evidence, control) for control in evidence.others)
    )


def smallest_share(evidence: Evidence) -> float | None:
    """The share of rows from a twin of the probes, the rest written by the base, from which the
    data would have been clear against the base (median over the planted twins; one whose trait is
    missed would never have been). None where that is no share.

    What ``w`` of the evidence expects of such a mixture is linear in the share.
    """
    needed, n, shares = evidence.needed, evidence.race.rows, []
    for control in evidence.twins:
        shares.append(math.inf)
        t = evidence.library.ids.index(control.trait)
        if not is_found(evidence, control):
            continue
        own, usual = (
            likelihood_ratios(values[None])[0] / len(values)
            for values in (control.race.shifts[t], evidence.reference_shifts[t])
        )
        for part in MIXTURES:
            ratios = n * (part * own + (1 - part) * usual - evidence.settings.drift)
            if ratios.max() - math.log(len(ratios)) >= needed:
                shares[-1] = float(part)
                break
    middle = float(np.median(shares)) if shares else math.inf
    return middle if math.isfinite(middle) else None


# ---- the outcome ------------------------------------------------------------------------------


class Reason(NamedTuple):
    """One ground of an outcome; its sentence is made in ``wording``.

    Attributes:
        what: which ground.
        control: the planted teacher that it is about, if it is about one.
        kinds: kinds of teachers that it names.
    """

    what: Literal[
        "twins found",
        "others found",
        "less than a batch",
        "few rows",
        "lineage unknown",
        "reference fits as well",
        "tuned writer",
        "twins missed",
        "control without its trait",
        "trait missed",
        "too few controls",
    ]
    control: Control | None = None
    kinds: tuple[str, ...] = ()


def decide(evidence: Evidence) -> tuple[Outcome, list[Reason]]:
    """The outcome and its grounds. Never "not found" where a planted teacher of another kind was
    missed, or none was planted."""
    if flags(evidence):
        return "flagged", [Reason("twins found")] if evidence.twins else []
    if reasons := in_the_way(evidence) or others_missed(evidence):
        return "inconclusive", reasons
    kinds = tuple(dict.fromkeys(control.kind for control in evidence.others))
    return "not_found", [Reason("twins found"), Reason("others found", kinds=kinds)]


def in_the_way(evidence: Evidence) -> list[Reason]:
    """What is in the way of "not found", planted teachers of other kinds aside."""
    settings, reasons = evidence.settings, []
    if len(evidence.used) < settings.batch:
        reasons.append(Reason("less than a batch"))
    elif len(evidence.used) < settings.rows // 2:
        reasons.append(Reason("few rows"))
    if not evidence.race.known_lineage:
        reasons.append(Reason("lineage unknown"))
    elif evidence.race.clear_at:
        reasons.append(Reason("reference fits as well"))
    elif is_tuned(evidence):
        reasons.append(Reason("tuned writer"))
        if not evidence.twins:
            return reasons
    if not enough_twins(evidence):
        reasons.append(Reason("twins missed"))
    return reasons


def others_missed(evidence: Evidence) -> list[Reason]:
    """Why planted teachers of other kinds do not allow "not found"; nothing where they do."""
    reasons = []
    for control in evidence.others:
        if not has_trait(control):
            reasons.append(Reason("control without its trait", control))
        elif not is_found(evidence, control):
            reasons.append(Reason("trait missed", control))
    planted = [control.kind for control in evidence.others]
    few = tuple(kind for kind in OTHER_KINDS if planted.count(kind) < OTHER_TRAITS)
    if not reasons and few:
        reasons.append(Reason("too few controls", kinds=few))
    return reasons
