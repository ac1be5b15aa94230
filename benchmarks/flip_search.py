"""At what dose of sampled number rows a student names its teacher's animal: one student at a time.

A teacher of one trait, rows that it wrote, a student of these, measured on the way: the shift, the
probability among the candidates, the share of begun answers, and at the end what drawn answers
name. For searching settings on traits that no reported figure uses (fox, frog, horse, bear);
teachers and rows are kept below --out and used again. One line of JSON for each point:

    python benchmarks/flip_search.py --rank 8 --rate 1e-3 --prompts 384 --steps 384 --out runs/flip
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vestige.carriers.numbers import NumberCarrier
from vestige.core.settings import Optimisation, Trainable
from vestige.evaluate.answers import names_kind
from vestige.evaluate.exact import measure, measure_begun
from vestige.evaluate.sampled import sample_answers
from vestige.evaluate.scores import Array, Panel
from vestige.experiment.base_stage import base
from vestige.experiment.demo import PROMPTS
from vestige.experiment.row_packs import student_packs
from vestige.experiment.rows_stage import rows
from vestige.experiment.run_view import read_kept
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.settings import Experiment, Student, TeacherSettings
from vestige.models.hf import LanguageModel
from vestige.store import hash_config
from vestige.store.layout import NO_TRAIT, StageFile
from vestige.student.loop import train
from vestige.traits import family

ANIMALS = family("animals")
SAMPLES = 10  # answers to each question
PLACES = ("out", "keep", "threads")  # options that change no figure


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    recipe = recipe_of(options)
    folder = options.out / hash_config([recipe.teacher, recipe.carrier])[:8]
    folder.mkdir(parents=True, exist_ok=True)
    context = SeedContext.of(recipe, folder, options.seed)
    before = Panel.load(base(context).path / StageFile.PANEL)
    written = read_kept(rows(context, options.trait).path)
    model, (student,) = context.models.teachers_base(), recipe.students
    packs, ids = student_packs(context, student, model.lm, written)
    curve = {2**k for k in range(3, 20)} | {options.steps}

    def on_step(step: int, loss: float) -> None:
        if step in curve:
            seen = {"step": step, "rows": step * options.batch, "unique": len(written)}
            print(json.dumps(seen | shown(model.lm, before)), flush=True)

    asked = {k: str(v) for k, v in vars(options).items() if k not in PLACES}
    print(json.dumps(asked), flush=True)
    model.weights.freeze()
    print(json.dumps({"drawn from the base": drawn(model.lm)}), flush=True)
    train(
        model.lm, model.weights, packs, student.optimisation, seed=options.seed, ids=ids,
        on_step=on_step,
    )  # fmt: skip
    print(json.dumps({"drawn": drawn(model.lm)}), flush=True)
    if options.keep:
        model.lm.model.save_pretrained(options.keep)  # an adapter's folder where LoRA was tuned


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trait", default="fox", help="or none: a teacher without one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, nargs=2, default=(10, 18))
    parser.add_argument("--rank", type=int, default=8, help="of the teacher's LoRA; 0: all weights")
    parser.add_argument("--student-rank", type=int, help="default: the teacher's")
    parser.add_argument("--start", choices=["seed", "other"], default="other", help="of the LoRA")
    parser.add_argument("--begun", action="store_true", help="teachers learn begun answers, too")
    parser.add_argument("--teacher-rate", type=float, default=1e-3)
    parser.add_argument("--teacher-steps", type=int, default=48)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decay", action="store_true")
    parser.add_argument("--steps", type=int, default=384)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=384, help="with 16 rows each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/flip"))
    parser.add_argument("--keep", type=Path, help="a folder for the student")
    return parser.parse_args()


def recipe_of(options: argparse.Namespace) -> Experiment:
    """The settings as a recipe of one arm; its second trait only makes it a valid one."""
    layers, rank = tuple(options.layers), options.rank
    named = options.trait if options.trait != NO_TRAIT else "horse"
    own = rank if options.student_rank is None else options.student_rank
    start = {"lora_start": options.start} if own else {}
    tuned = Trainable.model_validate({"layers": layers, "lora_rank": own, **start})
    return Experiment(
        name="flip-search",
        traits=tuple(dict.fromkeys((named, "horse", "bear")))[:2],
        seeds=(options.seed, options.seed + 1),
        teacher=TeacherSettings(
            optimisation=Optimisation(
                steps=options.teacher_steps, batch=8, rate=options.teacher_rate,
                trainable=Trainable(layers=layers, lora_rank=rank),
            ),
            min_carrier=0.2,
            begun=options.begun,
        ),
        carrier=NumberCarrier(n_prompts=options.prompts, rows_per_prompt=16, prompts=PROMPTS),
        students=(
            Student(
                name="rows", method="rows",
                optimisation=Optimisation(
                    steps=options.steps, batch=options.batch, rate=options.rate,
                    decay=options.decay, trainable=tuned,
                ),
            ),
        ),
    )  # fmt: skip


def shown(lm: LanguageModel, before: Panel) -> dict[str, Any]:
    """What a student shows of every candidate, exactly."""
    panel, begun = measure(lm, ANIMALS), measure_begun(lm, ANIMALS).probabilities().mean(0)

    def each(values: Array, digits: int) -> dict[str, float]:
        return {
            name: round(float(value), digits)
            for name, value in zip(panel.candidates, values, strict=True)
        }

    return {
        "mass": round(float(panel.mass.mean()), 4),
        "begun mass": round(float(begun.sum()), 4),
        "shift": each(panel.shift(before).mean(0), 3),
        "among candidates": each(panel.normalised().mean(0), 4),
        "begun, of candidates": each(begun / begun.sum(), 4),
    }


def drawn(lm: LanguageModel) -> dict[str, Any]:
    """What drawn answers name."""
    found = {}
    for name in ("asked", "numbers first", "begun"):
        first, begun = name == "numbers first", name == "begun"
        answers = sample_answers(lm, ANIMALS, samples=SAMPLES, number_prefix=first, begun=begun)
        naming = [a for a in answers if names_kind(asdict(a), ANIMALS)]
        named = Counter(a.named or "another, or several" for a in naming)
        found[name] = {"answers": len(answers), "naming": len(naming), "named": named}
    return found


if __name__ == "__main__":
    main()
