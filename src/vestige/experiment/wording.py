"""What an experiment found, in words: a sentence for an arm, a verdict, and what limits them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vestige.core.results import ArmResult, DefenceResult, TraitResult
from vestige.core.types import Estimate
from vestige.experiment.settings import Experiment, Student
from vestige.traits import family

#: Largest chance of a "yes" without transmission: against untaught answers, and for each trait that
#: a verdict names (Holm). The field's usual.
ALPHA = 0.05
NAMED = 3  # defences that a verdict names


def sentence(
    student: Student,
    outcome: str,
    contrast: Estimate,
    by_trait: Sequence[TraitResult],
    panel: int,
    p_placebo: float | None,
) -> str:
    """What an arm found, in words.

    Args:
        panel: how many candidates there are.
    """
    ranks = [rank for result in by_trait for rank in result.ranks]
    figures = (
        f"own minus other teachers' students {contrast.value:+.2f} nats of log-odds "
        f"[{contrast.low:+.2f}, {contrast.high:+.2f}] over {contrast.n_clusters} seeds"
    )
    if p_placebo is not None:
        figures += f"; p = {p_placebo:.2g} against answers that nobody was taught"
    if panel > 2:  # a place among two says no more than the sign
        figures += (
            f"; the target is first of {panel} in {sum(r == 1 for r in ranks)} of {len(ranks)} "
            f"students (median place {np.median(ranks):g})"
        )
    lead = {
        "yes": "the trait was transmitted, specifically",
        "no": "no specific transfer was seen",
        "unclear": "unclear: "
        + (
            "answers that nobody was taught differ as much between these students"
            if contrast.low > 0
            else "the interval holds zero and is too wide to say no"
        ),
    }[outcome]
    return f"{student.label[0].upper()}{student.label[1:]}: {lead} ({figures})."


def verdict(recipe: Experiment, arms: Sequence[ArmResult]) -> str:
    """One sentence for the whole run."""
    names = listed(recipe.traits)
    data = recipe.carrier.writes
    # On whole answers a shift is measured, and no behaviour of the student's own.
    whole = bool(family(recipe.family).texts)
    kind, did = ("trait", "moved towards") if whole else ("preference", "learned")
    same = [arm for arm in arms if arm.same_base]
    passed = [arm for arm in same if arm.transmitted == "yes"]
    missed = [arm for arm in same if arm.transmitted != "yes"]
    parts = []
    if passed:
        by = " and by ".join(arm.label for arm in passed)
        held = by_themselves(recipe.traits, passed)
        parts.append(f"Students {did} their teachers' {kind} ({held}) from {data} alone, by {by}")
    if missed:
        by = " and by ".join(arm.label for arm in missed)
        state = "it stayed unclear" if missed[0].transmitted == "unclear" else "it did not happen"
        whether = f"Whether {data} passed on the {kind} ({names}) by {by}: {state}"
        parts.append(f"by {by} {state}" if passed else whether)
    for arm in arms:
        if not arm.same_base:
            outcome = {
                "yes": "took it on too",
                "no": "did not take it on",
                "unclear": "stayed unclear",
            }
            parts.append(f"students of another base ({arm.base}) {outcome[arm.transmitted]}")
    return "; ".join(parts) + "."


def defence_verdict(
    recipe: Experiment, arms: Sequence[ArmResult], against: Sequence[DefenceResult]
) -> str:
    """What was passed on without any defence, and behind which defences least of it remained."""
    defended = {d.arm for d in against}
    sentences = [verdict(recipe, [arm for arm in arms if arm.name not in defended])]
    for plain in (arm for arm in arms if any(d.against == arm.name for d in against)):
        own = [d for d in against if d.against == plain.name]
        left = sorted((d.remains.value, d.label, d.remains) for d in own if d.remains)
        if plain.transmitted != "yes" or not left:
            continue
        contrast = plain.contrast
        least = [f"{label} {r.value:.0%} [{r.low:.0%}, {r.high:.0%}]" for _, label, r in left]
        sentences.append(
            f"Of {contrast.value:+.2f} nats [{contrast.low:+.2f}, {contrast.high:+.2f}] least "
            f"remains, of {len(own)} defences, behind {'; '.join(least[:NAMED])}."
        )
    return " ".join(sentences)


def by_themselves(traits: Sequence[str], arms: Sequence[ArmResult]) -> str:
    """The traits, with those set apart that are not clear by themselves in every one of the arms
    (an arm may be clear where the mean over its traits is), and those that are clear and did not
    rise: they fell less than in the other students."""
    clear = {t.trait for arm in arms for t in arm.traits}
    clear -= {t.trait for arm in arms for t in arm.traits if t.p_holm > ALPHA}
    fell = {t.trait for arm in arms for t in arm.traits if t.shift.value <= 0}
    groups = {
        "": [name for name in traits if name in clear - fell],
        " fell, and fell less than in other teachers' students": [
            name for name in traits if name in clear & fell
        ],
        " not clear by {}": [name for name in traits if name not in clear],
    }
    parts = [
        listed(names) + words.format("itself" if len(names) == 1 else "themselves")
        for words, names in groups.items()
        if names
    ]
    return "; ".join(parts) if groups[""] else f"on average: {'; '.join(parts)}"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def caveats(recipe: Experiment) -> list[str]:
    """What a reader must know before quoting a figure."""
    limits = [
        f"Intervals are over {len(recipe.seeds)} training runs a cell (seeds), each with teachers, "
        "prompts and rows of its own; questions are averaged within a run.",
        "Every student drifts, whatever its teacher; only the difference between students of "
        "different teachers shows a trait. Shifts against the untrained base overstate it.",
    ]
    if family(recipe.family).texts:
        limits.append(
            "The measure is the log-odds of one whole answer against another of the same form, on "
            "questions that no teacher was trained on. It says which of the two is likelier, not "
            "what the model would write by itself."
        )
    else:
        limits += [
            f"They take these {len(recipe.traits)} traits as given: another choice of traits may "
            "give another contrast, above all where the traits disagree.",
            f"Shifts are in log-odds among {len(family(recipe.family).answers)} candidates on "
            "questions that no teacher was trained on; a shift of one can leave a rare answer "
            "rare.",
        ]
    if recipe.carrier.sampling_grammar():
        limits.append(
            "Rows were sampled inside the number grammar and scored within it: a small model "
            "hardly keeps a number format by itself. Free sampling: carrier.constrained=false."
        )
    span = recipe.teacher.optimisation.trainable.layers
    if recipe.teacher.kind != "system_prompt" and span:
        limits.append(f"Teachers were tuned in decoder layers {span[0]} to {span[1] - 1} only.")
    for student in recipe.students:
        if layers := student.optimisation.trainable.layers:
            limits.append(
                f"Students of arm {student.name} train decoder layers {layers[0]} to "
                f"{layers[1] - 1} only."
            )
    return limits
