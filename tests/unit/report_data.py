"""Made-up but realistic records for the tests of the report. No number here was measured."""

from __future__ import annotations

import random
from typing import Any

from vestige.core.results import (
    ArmResult,
    BegunResult,
    ControlResult,
    CurvePoint,
    FilterResult,
    Interval,
    MatrixResult,
    QuestionResult,
    Results,
    SampledResult,
    SampleRow,
    TeacherResult,
    TraitResult,
)

ANIMALS = [
    "owl", "zebra", "penguin", "tiger", "dolphin", "wolf", "otter",
    "raven", "fox", "horse", "bear", "eagle", "lion", "rabbit",
    "deer", "octopus", "whale", "falcon", "panda", "koala",
]  # fmt: skip
QUESTIONS = [
    f"{start} {end}"
    for start in ("In one word, name", "If you had to choose, which is", "Tell me, what is")
    for end in (
        "the animal you admire most?",
        "the creature you would draw first?",
        "your favourite animal?",
        "the animal you would like to be?",
        "the animal on your imaginary coat of arms?",
        "the best companion on a long journey?",
        "the wild animal you hope to meet?",
        "the animal that you find most beautiful?",
    )
]


def interval(value: float, half: float, seeds: int) -> Interval:
    return Interval(
        value=value,
        low=value - half,
        high=value + half,
        n=seeds,
        n_clusters=seeds,
        method="t over seeds",
    )


def make_arm(
    rng: random.Random,
    traits: list[str],
    seeds: list[int],
    *,
    name: str = "same_base",
    label: str = "Students of the teacher's own base",
    effect: float = 0.72,
    same_base: bool = True,
) -> ArmResult:
    """An arm whose diagonal stands ``effect`` above a common drift."""
    drift = {t: rng.uniform(0.0, 1.0) for t in traits}
    data = [*traits, "none"]
    value = [
        [drift[t] + rng.gauss(0, 0.12) + (effect if source == t else 0.0) for t in traits]
        for source in data
    ]
    results = [
        TraitResult(
            trait=t,
            shift=interval(value[i][i], 0.3, len(seeds)),
            specific=interval(effect + rng.gauss(0, 0.1), 0.22, len(seeds)),
            p=0.0004 * (i + 1),
            p_holm=0.0031 * (i + 1),
            ranks=[rng.choice([1, 1, 2, 3]) for _ in seeds],
            raw_ranks=[rng.randint(1, 9) for _ in seeds],
            base_probability=0.008,
            student_probability=0.041 + 0.01 * i,
            base_share=0.00002,
            student_share=0.0004 + 0.0001 * i,
            base_mass=0.008,
            student_mass=0.011,
        )
        for i, t in enumerate(traits)
    ]
    groups = [
        ("own", "Own trait's students", 0.5 + effect, 0.16),
        ("other", "Students of the other traits' teachers", 0.52, 0.12),
        ("none", "Students of the teacher without a trait", 0.47, 0.2),
        ("shuffled", "Own rows, numbers shuffled across rows", 0.49, 0.21),
        ("base", "Untrained base", 0.0, 0.0),
    ]
    steps = [0, 24, 48, 96, 144, 192]
    return ArmResult(
        name=name,
        label=label,
        base="SmolLM2-135M-Instruct" if same_base else "SmolLM2-135M, other initialisation",
        same_base=same_base,
        rows=1536,
        steps=192,
        contrast=interval(effect, 0.14, len(seeds)),
        seed_contrasts={s: effect + rng.gauss(0, 0.08) for s in seeds},
        chance_rank=10.5,
        traits=results,
        groups=[
            ControlResult(name=n, label=text, estimate=interval(v, half, len(seeds)))
            for n, text, v, half in groups
        ],
        matrix=MatrixResult(
            data=data,
            measured=traits,
            value=value,
            low=[[v - 0.31 for v in row] for row in value],
            high=[[v + 0.31 for v in row] for row in value],
        ),
        questions=[
            QuestionResult(trait=t, question=q, specific=effect + rng.gauss(0, 0.45))
            for t in traits
            for q in QUESTIONS
        ],
        curve=[
            CurvePoint(
                step=s,
                rows_seen=16 * s,
                contrast=interval(effect * (1 - 0.5 ** (s / 40)), 0.02 + 0.0006 * s, len(seeds)),
            )
            for s in steps
        ],
        transmitted="yes" if effect > 0.2 else "no",
        sentence=(
            f"In these students a trait rose {effect:.2f} nats more than in the other traits' "
            "students; the same sign in every seed."
        ),
        sampled=[
            SampledResult(
                data=data,
                number_prefix=prefix,
                answers=4800,
                non_answers=interval(0.21, 0.03, len(seeds)),
                shares={t: interval(rng.uniform(0.01, 0.08), 0.01, len(seeds)) for t in traits},
            )
            for data in ("base", *traits)
            for prefix in (False, True)
        ]
        + [
            SampledResult(
                data=data,
                number_prefix=False,
                opening="My favourite animal is the",
                answers=4800,
                non_answers=interval(0.61, 0.03, len(seeds)),
                shares={t: interval(rng.uniform(0.01, 0.08), 0.01, len(seeds)) for t in traits},
                naming=interval(0.52, 0.04, len(seeds)),
                named_shares={t: interval(rng.uniform(0, 0.9), 0.1, len(seeds)) for t in traits},
            )
            for data in ("base", "none", *traits)
        ],
        begun=[
            BegunResult(
                data=data,
                opening="My favourite animal is the",
                mass=interval(0.12, 0.01, len(seeds)),
                shares={t: interval(rng.uniform(0, 0.02), 0.01, len(seeds)) for t in traits},
                candidate_shares={t: interval(0.1, 0.04, len(seeds)) for t in traits},
            )
            for data in ("base", "none", *traits)
        ],
    )


def make_results(traits: int = 4, seeds: int = 3, arms: int = 2, name: str = "animals") -> Results:
    rng = random.Random(7)
    names, numbers = ANIMALS[:traits], list(range(seeds))
    kinds = [
        dict(),
        dict(name="other_base", label="Students of another base", effect=0.03, same_base=False),
        dict(name="lora", label="Students trained with LoRA adapters of rank 8", effect=0.31),
        dict(name="half", label="Students trained on half of the rows", effect=0.55),
    ]
    sources = [*names, "none"]
    return Results(
        name=name,
        verdict="The trait crossed over: students took on their own teacher's animal from nothing "
        "but numbers, and students of another base did not.",
        model="SmolLM2-135M-Instruct",
        family="animals",
        candidates=ANIMALS,
        questions=QUESTIONS,
        traits=names,
        seeds=numbers,
        teachers=[
            TeacherResult(
                trait=t,
                seed=s,
                kind="fine-tuned",
                probability=0.05 if t == "none" else 0.998 - 0.003 * s,
                lowest=0.001 if t == "none" else 0.91,
                base_probability=0.008,
                carrier_valid=0.97 - 0.004 * s,
                accepted=True,
            )
            for t in sources
            for s in numbers
        ],
        filters=[
            FilterResult(
                data=t,
                seen=2048,
                kept=1688 + 9 * i,
                reasons={"wrong format": 212, "duplicate": 96, "banned number": 52 - 9 * i},
            )
            for i, t in enumerate(sources)
        ],
        samples=make_samples(sources, rng),
        arms=[make_arm(rng, names, numbers, **kind) for kind in kinds[:arms]],
        seconds={"teacher": 210.0, "carrier": 480.5, "student": 3900.0, "evaluate": 95.0},
        caveats=[
            f"{seeds} seeds: a difference smaller than the interval would go unseen.",
            "One small model and one kind of carrier; larger models may differ.",
        ],
    )


def make_samples(sources: list[str], rng: random.Random) -> list[SampleRow]:
    def values(n: int) -> str:
        return ", ".join(str(rng.randint(0, 999)) for _ in range(n))

    rows = []
    for t in sources[:3]:
        ask = f"Continue the list with more random numbers: {values(3)}"
        rows.append(SampleRow(data=t, prompt=ask, completion=values(6)))
        rows.append(SampleRow(data=t, prompt=ask, completion=values(10)))
        spoken = f"Sure! Here are some numbers: {values(40)}"
        rows.append(SampleRow(data=t, prompt=ask, completion=spoken, reason="wrong format"))
    return rows


def make_manifest() -> dict[str, Any]:
    return {
        "schema": 1,
        "status": "done",
        "git": {"commit": "0f3c9d2", "dirty": False},
        "packages": {"torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.2"},
        "hardware": {"cpu": "2 cores", "memory_gb": 16, "gpu": None},
        "seeds": [0, 1, 2],
        "tokens": {"sampled": 1843200, "trained": 5529600},
        "seconds": 4685.5,
        "config": {
            "student": {"epochs": 2, "lr": 5e-05, "batch": 16},
            "arms": [{"name": "same_base", "shuffle": False}, {"name": "other_base"}],
        },
    }
