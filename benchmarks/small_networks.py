"""Small networks trained in one batched pass against one after another: the same steps and result.

Teachers and auxiliary students of the digits recipe. Run: python benchmarks/small_networks.py
"""

from __future__ import annotations

import argparse

import torch

import common
from vestige.mlp.distil import Trial
from vestige.mlp.images import load_images
from vestige.mlp.settings import MlpExperiment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=25)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hidden", type=int, nargs="*", default=[256, 256])
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = load_images("digits")

    def trial(models: int, seed: int = 0) -> Trial:
        settings = MlpExperiment(
            models=models, teacher_steps=options.steps, student_steps=options.steps, seed=seed,
            hidden=tuple(options.hidden), batch=options.batch,
        )  # fmt: skip
        return Trial(settings, images)

    def run(made: Trial) -> None:
        made.students(made.teachers(), "auxiliary_same")

    # One network at a time: two to satisfy the settings, halved below.
    together, pair = trial(options.models), trial(2)
    lone = trial(2)
    lone.settings = lone.settings.model_copy(update={"models": 1})
    lone.start = [(w[:1].contiguous(), b[:1].contiguous()) for w, b in pair.start]
    seconds = common.in_turn(
        options.repeats,
        batched=lambda: run(together),
        one_by_one=lambda: [run(lone) for _ in range(options.models)],
    )
    common.show(
        models=options.models,
        steps=2 * options.steps,
        threads=options.threads,
        seconds=seconds,
        speed_up=round(common.ratio(seconds["one_by_one"], seconds["batched"]), 2),
    )


if __name__ == "__main__":
    main()
