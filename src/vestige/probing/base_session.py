"""One base at hand: how to get back to it, the panel of all traits, and what is kept of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from vestige.models import catalog
from vestige.models.hf import LanguageModel
from vestige.models.weights import Weights
from vestige.probing.settings import ProbingSettings
from vestige.probing.trait_panel import Array, TraitPanel
from vestige.store import atomic_write, hash_config
from vestige.traits.library import Library, load_library


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
        cache: where probes, gradients and batteries are kept for the base's next audit.
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
