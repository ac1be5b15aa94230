"""The first look: who may have written the rows, by their likelihood and pull. Pure: nothing here
loads a model or torch.

It can say that a *twin* of a trait's probe wrote them, or that some tuned model did. No verdict
rests on it: what training on the rows does is asked of canaries (``decision``).

``vestige audit``, ``vestige bench audit`` and ``benchmarks/`` all look by these functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from vestige.audit.evidence import likelihood_ratios, log_evidence, p_value
from vestige.audit.gathered import Evidence
from vestige.audit.race_result import Race, places
from vestige.audit.settings import AuditSettings

Array = NDArray[np.float64]
FirstLook = Literal["twin", "tuned", "unknown", "nothing", "few rows", "not taken"]
AGREED = 3  # place by pull up to which a trait may be clear; chosen on traits not held out

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
    sure = p_value(evidence) * traits <= settings.alpha
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
    return trait in race.clear and fits_better(race.shifts[trait], usual[trait], settings.alpha)


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


def named(evidence: Evidence) -> dict[int, int]:
    """Traits of whose probe a twin seems to have written the rows, with the rows that it took, the
    clearest first."""
    return flagged_by_likelihood(evidence.race, evidence.reference_shifts, evidence.settings)


def is_tuned(evidence: Evidence) -> bool:
    """Whether a tuned writer is seen in the data."""
    return tuned_writer(evidence.race, evidence.settings)


def p_base(evidence: Evidence) -> float | None:
    """A p-value of "the untouched base wrote these rows", at temperature 1 or as they were read:
    the chance, at most, that its rows ever score as high against it under any probe (Ville;
    Bonferroni over the library). No other writer is in that null. Settings that were fitted were
    fitted to the same rows, which makes it too large rather than too small. None without a first
    look."""
    if not evidence.race.run:
        return None
    nats = max(0.0, evidence.race.against_base)
    return min(1.0, len(evidence.library.ids) * math.exp(-nats))


def by_first_look(evidence: Evidence) -> list[int]:
    """All traits, the strongest first: those that are named, then by likelihood and pull."""
    first = list(named(evidence))
    order: list[int] = np.argsort(-evidence.race.scores, kind="stable").tolist()
    return [*first, *(t for t in order if t not in first)]


def first_look(evidence: Evidence) -> FirstLook:
    """What the first look says of the rows' writer."""
    if not evidence.race.run:
        return "not taken"
    if not enough_rows(evidence.race, evidence.settings):
        return "few rows"
    if named(evidence):
        return "twin"
    if not evidence.race.known_lineage:
        return "unknown"
    return "tuned" if is_tuned(evidence) else "nothing"
