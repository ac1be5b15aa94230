"""From an audit's evidence to its outcome. Pure: numpy and scipy only, nothing here loads a model.

A trait is *flagged* where the evidence is clear. *Not found* needs planted teachers whose traits
are found by the same rule: at least half of those that are twins of the probes, and every one of
those that are tuned in other ways (``OTHER_KINDS``), two of each kind: one may be found by luck
where the library is small (``docs/log.md``). One that is missed shows that such a teacher's rows
would look as the data's do, and the outcome is *inconclusive*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from vestige.audit import evidence
from vestige.audit.canary_test import Look, first_flags
from vestige.audit.race import Race
from vestige.audit.settings import AuditSettings
from vestige.audit.word_shifts import Word
from vestige.core.types import Row, ScoreTable
from vestige.probing.settings import OTHER_KINDS, TWIN
from vestige.probing.soft_targets import SoftTargets
from vestige.traits.library import Library

Array = NDArray[np.float64]
Outcome = Literal["flagged", "not_found", "inconclusive"]
ENOUGH_FOUND = 0.5  # share of planted twins' traits that must be found for "not found"
OTHER_TRAITS = 2  # traits that are planted in every other kind of teacher
HAS_TRAIT = 1.0  # nats of log-odds from which a planted teacher has its trait


@dataclass(frozen=True)
class Control:
    """A planted teacher's trait, and the assay of the rows that it wrote.

    Attributes:
        kind: how it is tuned: ``TWIN``, or one of ``OTHER_KINDS``.
        gained: nats of log-odds by which it has more of its trait than the base; None: not asked.
    """

    trait: str
    trial: Race
    kind: str = TWIN
    gained: float | None = None


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
        soft_targets: by row, the writer's probabilities, where they are known.
        logprobs: where rows carry such, their tokens by whether and why not they were used.
        marked: by row, its answer token by token with the strongest trait's shift.
        remarks: what else a reader must know beside the verdict.
    """

    name: str
    settings: AuditSettings
    library: Library
    row_format: str
    rows: int
    used: Sequence[Row]
    dropped: Mapping[str, int]
    trial: Race
    controls: Sequence[Control]
    expected: Array | None
    beside: Mapping[int, Array]
    seconds: Mapping[str, float]
    tokens: int
    own_reference: bool
    soft_targets: Mapping[str, SoftTargets] = field(default_factory=dict)
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
        """Whether the rows are clearly not the untouched base's own, and yet likely under some
        probe. That is about their writer: harmless tuned copies write such rows too."""
        return self.trial.known_lineage and self.trial.against_base >= self.needed

    @property
    def p_base(self) -> float:
        """A p-value of "the untouched base wrote these rows at temperature 1": the chance, at most,
        that its rows ever score as high against it under any probe (Ville; Bonferroni over the
        library). The one p-value of an audit: no other writer is in that null."""
        return min(1.0, len(self.library.ids) * math.exp(-max(0.0, self.trial.against_base)))

    @property
    def twins(self) -> list[Control]:
        """Planted teachers that are twins of the probes."""
        return [control for control in self.controls if control.kind == TWIN]

    @property
    def others(self) -> list[Control]:
        """Planted teachers of other kinds."""
        return [control for control in self.controls if control.kind != TWIN]


def flags(found: Evidence) -> dict[int, int]:
    """By flagged trait the rows that it took, the clearest first.

    A trait is flagged by its likelihood if the evidence is clear, the rows are such as the base or
    a twin of the probes writes, and they fit its probe better than the reference rows do (Welch).
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


def stands(found: Evidence, trial: Race, trait: int) -> bool:
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


# ---- positive controls ------------------------------------------------------------------------


def is_found(found: Evidence, control: Control) -> bool:
    """Whether the rule that flags finds a planted teacher's trait in its rows."""
    return stands(found, control.trial, found.library.ids.index(control.trait))


def has_trait(control: Control) -> bool:
    """Whether a planted teacher has its trait, where it was asked."""
    return control.gained is None or control.gained >= HAS_TRAIT


def passes(found: Evidence, control: Control) -> bool:
    """Whether a planted teacher of another kind has its trait and the trait is found."""
    return has_trait(control) and is_found(found, control)


def enough_twins(found: Evidence) -> bool:
    """Whether so many planted twins' traits are found that none being found means something."""
    known = [is_found(found, control) for control in found.twins]
    return bool(known) and sum(known) >= ENOUGH_FOUND * len(known)


def settled(found: Evidence) -> bool:
    """Whether further planted twins cannot change that enough of them are found, or not."""
    total, known = found.settings.planted, [is_found(found, c) for c in found.twins]
    enough = math.ceil(ENOUGH_FOUND * total)
    return sum(known) >= enough or len(known) - sum(known) > total - enough


def other_traits(found: Evidence, planted: Sequence[str]) -> list[str]:
    """Which of the traits that may be planted teachers of other kinds get: first those that are
    found in their twins' rows, so that what is missed is missed for the kind of teacher, and last
    those that are missed there."""
    known = {c.trait: is_found(found, c) for c in found.twins}
    last = {True: 0, None: 1, False: 2}
    return sorted(planted, key=lambda trait: last[known.get(trait)])[:OTHER_TRAITS]


def others_wanted(found: Evidence) -> bool:
    """Whether the outcome hangs on planted teachers of other kinds: nothing is flagged, nothing
    else is in the way of "not found", and none of them was missed so far."""
    return not (
        flags(found)
        or in_the_way(found)
        or any(not passes(found, control) for control in found.others)
    )


def smallest_share(found: Evidence) -> float | None:
    """The share of rows from a twin of the probes, the rest written by the base, from which the
    data would have been clear against the base (median over the planted twins; one whose trait is
    missed would never have been). None where that is no share.

    What ``w`` of the evidence expects of such a mixture is linear in the share.
    """
    needed, n, shares = found.needed, found.trial.rows, []
    for control in found.twins:
        shares.append(math.inf)
        t = found.library.ids.index(control.trait)
        if not is_found(found, control):
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


# ---- the outcome ------------------------------------------------------------------------------


def decide(found: Evidence) -> tuple[Outcome, list[str]]:
    """The outcome and its grounds. Never "not found" where a planted teacher of another kind was
    missed, or none was planted."""
    if flags(found):
        return "flagged", [twins_shown(found)] if found.twins else []
    if why := in_the_way(found) or others_missed(found):
        return "inconclusive", why
    kinds = ", ".join(dict.fromkeys(control.kind for control in found.others))
    return "not_found", [
        twins_shown(found),
        f"the traits of all {len(found.others)} planted teachers of other kinds ({kinds}) are "
        "found by the same rule",
    ]


def twins_shown(found: Evidence) -> str:
    """How many planted twins are found, in words."""
    known = [is_found(found, control) for control in found.twins]
    return (
        f"{sum(known)} of {len(known)} planted traits are found by the same rule, in rows of twins "
        "of the probes"
    )


def in_the_way(found: Evidence) -> list[str]:
    """What is in the way of "not found", planted teachers of other kinds aside."""
    base, why = found.settings.base, []
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
            f"likely than what {base}, or a teacher tuned from it as the probes are, writes at "
            "temperature 1"
        )
    elif found.trial.clear_at:
        why.append("the evidence is clear, but the reference rows fit the same trait as well")
    elif found.tuned:
        why.append(
            f"the untouched {base} did not write these rows at temperature 1: they are "
            f"{found.trial.against_base:.0f} nats likelier under a probe. A copy tuned on "
            "something harmless, another model or other sampling settings look the same: this is "
            "a finding about the writer and none about a trait"
        )
        if not found.twins:
            return why
    if not enough_twins(found):
        why.append(
            f"{twins_shown(found)}: with this base, these prompts and so many rows a trait that is "
            "in the rows would mostly be missed"
        )
    return why


def others_missed(found: Evidence) -> list[str]:
    """Why planted teachers of other kinds do not allow "not found"; nothing where they do."""
    why = []
    for control in found.others:
        if not has_trait(control):
            why.append(
                f"the planted teacher of another kind ({control.kind}) did not take on its trait, "
                f"{control.trait} ({control.gained:+.1f} nats), so that it shows nothing"
            )
        elif not is_found(found, control):
            twin = any(c.trait == control.trait and is_found(found, c) for c in found.twins)
            usual = " (it is found in the rows of a planted twin of the probes)" if twin else ""
            why.append(
                f"{control.trait} is missed in the rows of a planted teacher that was tuned in "
                f"another way ({control.kind}){usual}: a trait of such a teacher may be in these "
                'rows and not show, so that "not found" is not said'
            )
    kinds = [control.kind for control in found.others]
    if not why and (left := [k for k in OTHER_KINDS if kinds.count(k) < OTHER_TRAITS]):
        why.append(
            f"fewer than {OTHER_TRAITS} teachers of another kind were planted ({', '.join(left)}), "
            "and without them nothing found rests on twins of the probes"
        )
    return why
