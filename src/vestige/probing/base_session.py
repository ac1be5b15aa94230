"""One base at hand: how to get back to it, the panel of all traits, and planted teachers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from vestige.core.settings import Trainable
from vestige.core.types import ConfigError, Trait
from vestige.models import catalog
from vestige.models.frozen import Below
from vestige.models.hf import LanguageModel
from vestige.models.weights import Weights
from vestige.probing.settings import TWIN, ProbingSettings
from vestige.probing.trait_panel import Array, TraitPanel
from vestige.store import atomic_write, hash_config
from vestige.teacher.induce import teach
from vestige.traits.library import Library, load_library, trait_id

CHECKED = 4  # questions on which a planted teacher is asked for its trait (chosen: four are quick)


def load(settings: ProbingSettings, model: str) -> LanguageModel:
    """A model as it is probed. Raises ``ModelError`` if it cannot be loaded."""
    return LanguageModel.load(
        catalog.path(model),
        style=catalog.chat_style(model, settings.chat),
        precision=settings.precision,
    )


class BaseSession:
    """One base model, loaded, with all that is asked of it.

    Attributes:
        cache: where probes, gradients and planted teachers are kept for the base's next audit.
        fingerprint: a hash of the base and of how it is asked.
        contents: a hash of the library: its traits, questions and answers.
        base: the untrained base's log-odds of every trait, shape [T].
    """

    def __init__(self, settings: ProbingSettings, *, cache: Path | None = None) -> None:
        """Raises ``ModelError`` if the base cannot be loaded, ``ConfigError`` for a bad library."""
        self.settings = settings
        self.library: Library = load_library(settings.traits)
        self.lm = load(settings, settings.base)
        self.cache = cache or catalog.cache_dir() / "audit"
        self.trainable = settings.trainable(len(self.lm.layers))
        self.fingerprint = fingerprint(self.lm)
        self.contents = hash_config(
            [[t.family, t.target.name, t.pairs] for t in self.library.traits]
        )
        #: The same layers' weights themselves, where canaries tune LoRA.
        self.whole = Trainable(layers=self.trainable.layers)
        self.weights = Weights(self.lm, settings.tuned(len(self.lm.layers)))
        self.panel = TraitPanel(self.lm, self.library.traits, settings.questions)

    @cached_property
    def base(self) -> Array:
        self.weights.freeze()
        return self.panel.read()

    def keep(
        self,
        folder: str,
        names: Sequence[str],
        key: Sequence[Any],
        make: Callable[[], Sequence[Mapping[str, Tensor]]],
    ) -> list[dict[str, Tensor]]:
        """One set of tensors for each name, from the cache or made and kept there."""
        paths = [self._place(folder, name, key) for name in names]
        if not all(path.exists() for path in paths):
            for path, tensors in zip(paths, make(), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(path, save(dict(tensors)))
        return [load_file(str(path)) for path in paths]

    def kept(self, folder: str, name: str, key: Sequence[Any]) -> bool:
        """Whether the cache holds it."""
        return self._place(folder, name, key).exists()

    def _place(self, folder: str, name: str, key: Sequence[Any]) -> Path:
        digest = hash_config([self.fingerprint, *key])[:16]
        return self.cache / folder / f"{name}-{digest}.safetensors"

    def planted(self) -> list[Trait]:
        """The traits that planted teachers are given: none held out, of different families."""
        return plant(self.library, self.settings.planted, self.settings.seed)

    def become(self, trait: Trait, kind: str = TWIN) -> None:
        """Turn the model into a planted teacher of ``trait``, from the cache if it is there. One
        that tunes layers below those of the probes lives within ``all_layers`` only."""
        optimisation = self.settings.planting(len(self.lm.layers), kind)
        path = self._planted(trait, kind)
        if not path.exists():
            teach(self.lm, self.weights, trait, optimisation, seed=self.settings.seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            # Half the size; a teacher computes in bf16 anyhow.
            atomic_write(path, save({n: t.bfloat16() for n, t in self.weights.changed().items()}))
        self.weights.load(path, optimisation.trainable)

    def _planted(self, trait: Trait, kind: str) -> Path:
        optimisation = self.settings.planting(len(self.lm.layers), kind)
        return self._place("planted", trait.name, [trait.pairs, optimisation, self.settings.seed])

    @contextmanager
    def all_layers(self) -> Iterator[None]:
        """Within, every layer may be tuned: states of the layers below the probes' are not kept.
        The base is put back at the end."""
        kept, self.lm.below = self.lm.below, Below(self.lm.layers)
        try:
            yield
        finally:
            self.weights.freeze()
            self.lm.below = kept

    def gained(self, trait: Trait, kind: str) -> float:
        """By how many nats of log-odds a planted teacher has more of its trait than the base, kept
        in the cache: a teacher without it is no control."""
        panel = TraitPanel(self.lm, [trait], min(CHECKED, self.settings.questions))
        optimisation = self.settings.planting(len(self.lm.layers), kind)
        key = [trait.pairs, trait.family, trait.target.name, len(panel.requests)]

        def read(turn: Callable[[], None]) -> Callable[[], list[dict[str, Tensor]]]:
            def make() -> list[dict[str, Tensor]]:
                turn()
                return [{"log_odds": torch.tensor(panel.read())}]

            return make

        of_base = self.keep("gained", [trait.name], [*key, "base"], read(self.weights.freeze))
        of_teacher = self.keep(
            "gained",
            [trait.name],
            [*key, optimisation, self.settings.seed],
            read(lambda: self.become(trait, kind)),
        )
        return float(of_teacher[0]["log_odds"][0] - of_base[0]["log_odds"][0])


def plant(library: Library, n: int, seed: int) -> list[Trait]:
    """``n`` traits that are not held out: of other families as far as there are any, and words
    and whole answers in turn.

    Raises:
        ConfigError: the library has fewer than two such traits.
    """
    draw = random.Random(f"planted-{seed}")
    by_family: dict[str, list[Trait]] = {}
    for trait in library.traits:
        if trait_id(trait) not in library.held_out and trait.pairs:
            by_family.setdefault(trait.family.name, []).append(trait)
    queues = [draw.sample(traits, len(traits)) for traits in by_family.values()]
    draw.shuffle(queues)
    words = [queue for queue in queues if not queue[0].family.texts]
    answers = [queue for queue in queues if queue[0].family.texts]
    turns = [q for pair in zip_longest(words, answers) for q in pair if q]
    chosen = [trait for traits in zip_longest(*turns) for trait in traits if trait][:n]
    if len(chosen) < 2:
        raise ConfigError(
            "an audit plants teachers of at least two traits that are not held out; "
            "name more traits (--traits library, or a family)"
        )
    return chosen


def fingerprint(lm: LanguageModel) -> str:
    """A hash of the base's weights, its tokenizer, how it is asked and in what it computes."""
    asked = [lm.style, lm.precision, lm.template.text, lm.tokenizer.get_vocab()]
    asked += lm.template.remarks()  # as a rule none
    digest = hashlib.sha256(hash_config(asked).encode())
    with torch.no_grad():
        for name, parameter in sorted(lm.model.named_parameters()):
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()
