"""What each way to distil passes on, and how well it teaches the task that was wanted.

The task of a number teacher's student is to write numbers as its teacher does. On rows that the
untrained base wrote to prompts of another seed, the distance to the teacher is KL(teacher ||
student) in nats a token over the number grammar, and the gain is the share of the untrained base's
distance that is gone: 1 is the teacher itself, 0 the base. Intervals are over seeds. Run after
``vestige run recipes/ways_to_distil.py``: python benchmarks/ways_to_distil.py runs/ways-to-distil-*
On the figures that it printed: the tables of docs/results.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vestige.core import stats
from vestige.experiment.analysis import analyse
from vestige.experiment.recipe import load_recipe
from vestige.experiment.row_filtering import blank_rows
from vestige.experiment.row_packs import grammar_packs
from vestige.experiment.row_sampling import automaton_of, prompt_ids
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.teacher_stage import load_teacher, teacher
from vestige.models.sampling import sample_grammar, symbol_ids
from vestige.store.layout import StageFile
from vestige.student.generalised_jsd import generalised_jsd
from vestige.student.loop import teacher_logprobs

HELD_OUT = 10_000  # added to a seed: whose prompts no student saw
ROWS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run with save_students=true, or figures")
    run = parser.parse_args().run
    if run.suffix == ".json":
        print(table(json.loads(run.read_text(encoding="utf-8"))["ways"]))
        return
    recipe = load_recipe(run / "recipe.json")
    gains = [gains_of(SeedContext.of(recipe, run, seed)) for seed in recipe.seeds]
    ways = {}
    arms = analyse(recipe, run).arms
    rows = next(arm for arm in arms if arm.name == "rows").seed_contrasts
    for arm in arms:
        values = [gain[arm.name] for gain in gains]
        ways[arm.name] = {
            "label": arm.label,
            "contrast": arm.contrast.model_dump(),
            "by seed": arm.seed_contrasts,
            "minus sampled rows": asdict(
                stats.t_interval([arm.seed_contrasts[seed] - rows[seed] for seed in rows])
            )
            if arm.name != "rows"
            else None,
            "p_placebo": arm.p_placebo,
            "transmitted": arm.transmitted,
            "traits": {
                t.trait: {
                    "specific": t.specific.model_dump(),
                    "no_trait": t.no_trait.model_dump() if t.no_trait else None,
                }
                for t in arm.traits
            },
            "own": arm.groups[0].estimate.model_dump(),
            "others": arm.groups[1].estimate.model_dump(),
            "no_trait": next(g.estimate.model_dump() for g in arm.groups if g.name == "no_trait"),
            "wanted task's gain": asdict(stats.t_interval(values, units="share of the distance")),
        }
    print(json.dumps({"command": f"python {Path(__file__).name} {run}", "ways": ways}, indent=1))


def table(ways: dict[str, Any]) -> str:
    """The figures as the documents show them."""
    lines = [
        "| way | contrast | minus sampled rows, by seed | p (untaught answers) | own students | "
        "other teachers' | no trait | wanted task's gain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way in ways.values():
        cells = [spelled(way[key]) for key in ("contrast", "own", "others", "no_trait")]
        apart = way["minus sampled rows"]
        difference = spelled(apart) if apart else ""
        gain = way["wanted task's gain"]
        share = f"{gain['value']:.0%} [{gain['low']:.0%}, {gain['high']:.0%}]"
        lines.append(
            f"| {way['label']} | **{cells[0]}** | {difference} | {way['p_placebo']:.2g} | "
            f"{cells[1]} | {cells[2]} | {cells[3]} | {share} |"
        )
    names = list(next(iter(ways.values()))["traits"])
    lines += ["", f"| specific part | {' | '.join(names)} |", f"|---{'|---' * len(names)}|"]
    for way in ways.values():
        cells = [spelled(way["traits"][name]["specific"]) for name in names]
        lines.append(f"| {way['label']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spelled(interval: dict[str, Any]) -> str:
    """A value with its interval."""
    return f"{interval['value']:+.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"


def gains_of(context: SeedContext) -> dict[str, float]:
    """The share of the distance to its teacher that each arm's students made good, mean over
    traits."""
    recipe, model = context.recipe, context.models.teachers_base()
    automaton = automaton_of(context)
    model.weights.freeze()
    unseen = recipe.model_copy(update={"seeds": (context.seed + HELD_OUT, context.seed)})
    other = SeedContext(unseen, context.layout, context.seed + HELD_OUT, context.models)
    blank = blank_rows(other)[:: max(1, len(blank_rows(other)) // ROWS)][:ROWS]
    prompts = prompt_ids(context, model.lm, blank)
    texts = sample_grammar(
        model.lm, prompts, range(len(blank)), automaton, seed=other.seed,
        max_length=recipe.carrier.longest,
    )  # fmt: skip
    rows = [type(row)(row.id, row.messages, text) for row, text in zip(blank, texts, strict=True)]
    ids = symbol_ids(model.lm, automaton)

    def logprobs() -> Tensor:
        packs = grammar_packs(context, model.lm, rows, 16, automaton)
        return torch.cat(teacher_logprobs(model.lm, packs, ids))

    base = logprobs()
    gains: dict[str, list[float]] = {student.name: [] for student in recipe.students}
    for name in recipe.sources:
        load_teacher(context, name, teacher(context, name))
        wanted = logprobs()
        before = float(generalised_jsd(base, wanted, 0.0))
        for student in recipe.students:
            folder = context.layout.student(context.seed, student.name, name)
            model.weights.load(folder / StageFile.WEIGHTS, student.optimisation.trainable)
            gains[student.name].append(1 - float(generalised_jsd(logprobs(), wanted, 0.0)) / before)
    return {arm: sum(values) / len(values) for arm, values in gains.items()}


if __name__ == "__main__":
    main()
