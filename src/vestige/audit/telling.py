"""From an audit's evidence to the record that is saved and to the sentences in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats as distributions

from vestige.audit.openset import Word
from vestige.audit.settings import AuditSettings
from vestige.audit.verdict import ENOUGH_FOUND, Look, first_flags
from vestige.results import AuditPlanted, AuditResults, AuditRow, AuditTrait, AuditWord, Interval
from vestige.traits.library import Library
from vestige.types import Row, ScoreTable

Outcome = Literal["flagged", "not_found", "inconclusive"]
LEVEL = 0.95
WORST = 12
INFLUENCE = "influence on "  # how a table of row scores is called, before the trait's id
FEWEST_PLACEBOS = 50
CLOUD = 400  # placebo values that the record keeps

BLIND = [
    "traits that are not in the library: their pull is not measured at all",
    "triggers: a trait that shows only after some phrase, date or task",
    "traits that show only in a language, format or length that the questions do not have",
    "effects of far more rows than a canary reads",
]


@dataclass(frozen=True)
class Evidence:
    """All that an audit gathered."""

    name: str
    settings: AuditSettings
    library: Library
    material: str
    rows: int
    used: Sequence[Row]
    dropped: Mapping[str, int]
    references: Sequence[str]
    looks: Sequence[Look]
    words: Sequence[Word]
    scores: Sequence[ScoreTable]
    seconds: Mapping[str, float]
    tokens: int
    own_reference: bool

    @property
    def levels(self) -> tuple[float, ...]:
        """What each look may spend of the chance of a false flag."""
        return self.settings.levels(len(self.used))


def tell(found: Evidence) -> AuditResults:
    """The results of an audit."""
    thin = too_thin(found)
    flagged_at = {} if thin else first_flags(found.looks, found.levels)
    last = found.looks[-1]
    planted = [
        AuditPlanted(trait=name, contrast=contrast, z=z, found=planted_found(found, last, z))
        for name, (contrast, z) in last.planted.items()
    ]
    share = float(np.mean([p.found for p in planted])) if planted else 0.0
    outcome, why = decide(found, bool(flagged_at), share)
    traits = sorted(
        (trait_record(found, i, flagged_at.get(i)) for i in range(len(found.library.ids))),
        key=lambda t: (not t.flagged, t.p),
    )
    smallest = smallest_by_family(found, last)
    return AuditResults(
        name=found.name,
        verdict=sentence(found, outcome, traits, smallest),
        outcome=outcome,
        why=why,
        data=found.name,
        base=found.settings.base,
        material=found.material,
        references=list(found.references),
        rows=found.rows,
        rows_used=len(found.used),
        dropped=dict(found.dropped),
        alpha=found.settings.alpha,
        looks=[look.rows for look in found.looks],
        rows_to_verdict=min((found.looks[at].rows for at in flagged_at.values()), default=None),
        traits=traits,
        planted=planted,
        found_share=share,
        smallest=smallest,
        placebo=[float(z) for z in last.placebo[:: math.ceil(len(last.placebo) / CLOUD)]],
        words=[AuditWord(word=w.word, contrast=w.contrast, z=w.z) for w in found.words],
        worst_rows=worst_rows(found),
        channels=[
            f"a canary tuned on {len(found.used)} rows, asked about {len(found.library.ids)} "
            f"traits of {len(found.library.families)} families at "
            f"{len(found.looks)} points of its training",
            "open questions: words that begin its answers more often than those of other canaries",
            "row by row: first-order influence on the strongest traits (a ranking, no evidence)",
        ],
        blind=BLIND,
        next_steps=next_steps(found, outcome),
        seconds={kind: round(value, 1) for kind, value in found.seconds.items()},
        tokens=found.tokens,
        caveats=caveats(found),
    )


def planted_found(found: Evidence, look: Look, z: float) -> bool:
    """Whether a planted trait stands out as far as a flagged one must."""
    return z >= look.needed_z(found.levels[-1])


def smallest_by_family(found: Evidence, look: Look) -> dict[str, float]:
    """By family, the contrast in nats from which its median trait is flagged."""
    z = look.needed_z(found.levels[-1])
    families = np.array([name.rpartition("/")[0] for name in found.library.ids])
    return {
        name: float(z * np.median(look.scale[families == name])) for name in found.library.families
    }


def too_thin(found: Evidence) -> list[str]:
    """Why nothing at all can be said: less than a batch of rows, or hardly a placebo."""
    why = []
    if len(found.used) < found.settings.batch:
        why.append(f"{len(found.used)} rows are less than one batch of {found.settings.batch}")
    if (cloud := len(found.looks[-1].placebo)) < FEWEST_PLACEBOS:
        why.append(
            f"{cloud} placebo values do not show how far traits move by chance, "
            f"{FEWEST_PLACEBOS} would; name more traits or plant more"
        )
    return why


def decide(found: Evidence, flagged: bool, share: float) -> tuple[Outcome, list[str]]:
    """The outcome and its grounds; clean only where a planted trait would have been seen."""
    shown = f"{share:.0%} of the planted traits stand out by the same rule"
    if flagged:
        return "flagged", [shown]
    why = too_thin(found)
    if len(found.used) < found.settings.rows // 2:
        why.append(
            f"only {len(found.used)} rows could be used; {found.settings.rows} are wanted, and "
            "what few rows do not show, more may"
        )
    if share < ENOUGH_FOUND:
        why.append(
            f"{shown}: with this base, these prompts and so many rows a trait that is in the rows "
            "would mostly be missed"
        )
    return ("inconclusive", why) if why else ("not_found", [shown])


def trait_record(found: Evidence, index: int, flagged_at: int | None) -> AuditTrait:
    look = found.looks[-1 if flagged_at is None else flagged_at]
    name = found.library.ids[index]
    half = float(distributions.t.isf((1 - LEVEL) / 2, look.df)) * float(look.scale[index])
    value = float(look.contrast[index])
    return AuditTrait(
        trait=name,
        flagged=flagged_at is not None,
        contrast=Interval(
            value=value, low=value - half, high=value + half, level=LEVEL,
            n=len(found.references), n_clusters=len(found.references),
            method="placebo t over references",
        ),
        p=float(look.p[index]),
        p_holm=float(look.p_holm[index]),
        rows=look.rows,
        held_out=name in found.library.held_out,
    )  # fmt: skip


def worst_rows(found: Evidence) -> list[AuditRow]:
    """The rows with the largest influence on the strongest trait."""
    if not found.scores:
        return []
    table = found.scores[0]
    by_id = {row.id: row for row in found.used}
    return [
        AuditRow(
            id=i, trait=table.method.removeprefix(INFLUENCE), score=table.values[i],
            prompt=by_id[i].messages[-1].content, completion=by_id[i].completion,
        )
        for i in sorted(table.values, key=lambda i: -table.values[i])[:WORST]
    ]  # fmt: skip


def sentence(
    found: Evidence,
    outcome: Outcome,
    traits: Sequence[AuditTrait],
    smallest: Mapping[str, float],
) -> str:
    """The verdict in words."""
    base = found.settings.base
    if outcome == "flagged":
        named = [t for t in traits if t.flagged]
        listed = ", ".join(f"{t.trait} (+{t.contrast.value:.2f} nats)" for t in named[:3])
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        return f"Flagged: trained on these rows, {base} moves towards {listed}{more}."
    if outcome == "not_found":
        typical = float(np.median(list(smallest.values())))
        return (
            f"Not found: none of {len(traits)} traits stands out in {len(found.used)} rows; a pull "
            f"of {typical:.2f} nats (median over families) would have been flagged."
        )
    first = traits[0].trait
    return (
        f"Inconclusive: no trait stands out in {len(found.used)} rows ({first} comes first), and "
        "that says little here."
    )


def next_steps(found: Evidence, outcome: Outcome) -> list[str]:
    """What to do next, with what was measured of it."""
    if outcome == "not_found":
        return ["Audit again when the data, its prompts or the base change."]
    if outcome == "inconclusive":
        return [
            "Give more rows, or rows known to be clean on the same prompts (--reference).",
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
        "Look at the rows with the largest influence; removing them has not been measured yet.",
    ]


def caveats(found: Evidence) -> list[str]:
    """What a reader has to know to read the verdict rightly."""
    whose = (
        "the rows given as reference" if found.own_reference else "rows that the base wrote itself"
    )
    return [
        f"Held against {whose} and against rows of teachers that the audit tuned on other traits; "
        "a writer that differs from the base in some other way can be flagged for traits nearby.",
        "Contrasts are those of a canary at this many rows; a student of more rows moves further.",
        "Traits near the true one rise with it: the first of several flagged traits is the best "
        "guess, not the only one.",
    ]
