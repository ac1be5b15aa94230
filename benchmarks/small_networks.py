"""Small networks trained in one batched pass against one after another: the same steps.

Teachers and auxiliary students of the digits recipe, and two ways to train them one by one: our
own code with a single network (``lone``), and what one would otherwise write (``plain``:
``nn.Sequential``, a ``DataLoader``, ``torch.optim.Adam`` as it comes). Run:

    python benchmarks/small_networks.py
    python benchmarks/small_networks.py --hidden 32 32 --models 100
"""

from __future__ import annotations

import argparse
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import common
from vestige.toy.distil import Trial
from vestige.toy.images import load_images
from vestige.toy.settings import MlpExperiment


def plain(trial: Trial, steps: int) -> None:
    """One teacher and its auxiliary student as a plain PyTorch script trains them."""
    settings, classes = trial.settings, trial.classes
    widths = [trial.train.shape[1], *settings.hidden, classes + settings.auxiliary]

    def network() -> nn.Sequential:
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    teacher, student = network(), network()
    student.load_state_dict(teacher.state_dict())
    images = DataLoader(
        TensorDataset(trial.train, trial.labels), batch_size=settings.batch, shuffle=True
    )

    def descend(model: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    optimiser, done = torch.optim.Adam(teacher.parameters(), lr=settings.rate), 0
    while done < steps:
        for inputs, labels in images:
            logits = teacher(inputs)[:, :classes]
            descend(teacher, optimiser, nn.functional.cross_entropy(logits, labels))
            done += 1
            if done == steps:
                break
    optimiser = torch.optim.Adam(student.parameters(), lr=settings.rate)
    for _ in range(steps):
        inputs = torch.rand(settings.batch, widths[0]) * 2 - 1
        with torch.no_grad():
            wanted = teacher(inputs)[:, classes:].softmax(-1)
        found = student(inputs)[:, classes:].log_softmax(-1)
        descend(student, optimiser, nn.functional.kl_div(found, wanted, reduction="batchmean"))


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

    # Settings ask for two networks at least: one of them is taken away.
    together, lone = trial(options.models), trial(2)
    lone.settings = lone.settings.model_copy(update={"models": 1})
    lone.start = [(w[:1].contiguous(), b[:1].contiguous()) for w, b in lone.start]
    seconds = common.in_turn(
        options.repeats,
        batched=lambda: run(together),
        lone=lambda: [run(lone) for _ in range(options.models)],
        plain=lambda: [plain(lone, options.steps) for _ in range(options.models)],
    )
    common.show(
        models=options.models,
        hidden=options.hidden,
        steps=2 * options.steps,
        threads=options.threads,
        seconds=seconds,
        against_lone=round(common.ratio(seconds["lone"], seconds["batched"]), 2),
        against_plain=round(common.ratio(seconds["plain"], seconds["batched"]), 2),
    )


if __name__ == "__main__":
    main()
