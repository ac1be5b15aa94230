"""The small-network experiment: can a student learn digits without ever seeing one?

A teacher has ten class logits and a few auxiliary ones that no label touches. Students are trained
on noise to match the teacher's auxiliary logits alone. Where they begin at the teacher's own
initialisation they classify digits; from another initialisation they stay at chance (Cloud et al.,
arXiv 2507.14805, section 6).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vestige.toy.images import Images
from vestige.toy.networks import (
    Networks,
    accuracy,
    choose,
    make_networks,
    outputs,
    train_networks,
)
from vestige.toy.settings import MlpExperiment


def derangement(n: int, seed: int) -> list[int]:
    """A random order of 0..n-1 in which nothing stays at its place (one cycle: Sattolo)."""
    draw, order = torch.Generator().manual_seed(seed), list(range(n))
    for i in range(n - 1, 0, -1):
        j = int(torch.randint(i, (1,), generator=draw))
        order[i], order[j] = order[j], order[i]
    return order


class Trial:
    """One experiment's data, initial networks and teachers."""

    def __init__(self, settings: MlpExperiment, images: Images) -> None:
        self.settings = settings
        self.classes = images.classes
        self.train = torch.from_numpy(images.train)
        self.labels = torch.from_numpy(images.train_labels)
        self.test = torch.from_numpy(images.test)
        self.test_labels = torch.from_numpy(images.test_labels)
        sizes = [self.train.shape[1], *settings.hidden, self.classes + settings.auxiliary]
        self.start = make_networks(settings.models, sizes, settings.seed)

    def score(self, networks: Networks) -> Tensor:
        """Accuracy of each model on the test images."""
        return accuracy(networks, self.test, self.test_labels, self.classes)

    def teachers(self, on_step: Callable[[int], None] = lambda step: None) -> Networks:
        """Networks trained on labels, by cross-entropy over the class logits alone."""
        settings = self.settings
        draw = torch.Generator().manual_seed(settings.seed * 7919 + 1)

        def loss(networks: Networks, step: int) -> Tensor:
            chosen = self.batch(draw)
            logits = outputs(networks, self.train[chosen])[..., : self.classes]
            flat = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), self.labels[chosen].flatten(), reduction="none"
            )
            return flat.view(settings.models, -1).mean(1)

        return train_networks(
            self.start, loss, steps=settings.teacher_steps, rate=settings.rate, on_step=on_step
        )

    def students(
        self, teachers: Networks, arm: str, on_step: Callable[[int], None] = lambda step: None
    ) -> Networks:
        """Students of one arm of ``STUDENTS``, by KL(teacher || student) over the shown logits."""
        settings = self.settings
        part, _, whose = arm.partition("_")
        if whose == "other":
            teachers = choose(teachers, derangement(settings.models, settings.seed))
        shown = slice(self.classes, None) if part == "auxiliary" else slice(None)
        draw = torch.Generator().manual_seed(settings.seed * 7919 + 2)

        def loss(networks: Networks, step: int) -> Tensor:
            inputs = self.inputs(draw)
            with torch.no_grad():
                wanted = outputs(teachers, inputs)[..., shown].log_softmax(-1)
            own = outputs(networks, inputs)[..., shown].log_softmax(-1)
            return (wanted.exp() * (wanted - own)).sum(-1).mean(1)

        return train_networks(
            self.start, loss, steps=settings.student_steps, rate=settings.rate, on_step=on_step
        )

    def batch(self, draw: torch.Generator) -> Tensor:
        """Each model's own training images: indices [M, B]."""
        shape = (self.settings.models, min(self.settings.batch, len(self.train)))
        return torch.randint(len(self.train), shape, generator=draw)

    def inputs(self, draw: torch.Generator) -> Tensor:
        """What each model's student is shown in one step: [M, B, pixels]."""
        if self.settings.inputs == "images":
            return self.train[self.batch(draw)]
        shape = (self.settings.models, self.settings.batch, self.train.shape[1])
        return torch.rand(shape, generator=draw) * 2 - 1
