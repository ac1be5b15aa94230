"""Batteries that come with the package, so that nobody makes those of bundled bases again.

``batteries/<fingerprint>.safetensors`` holds what the members of a base answered; its metadata say
what each member's answers depend on, and nothing is taken from a file where that differs from what
is wanted. ``benchmarks/bundle_battery.py`` writes such a file from the cache.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from vestige.probing.drift import Array
from vestige.probing.word_shifts import WordSpread

DIGESTS = "digests"  # the key of the metadata


@dataclass(frozen=True)
class BundledBattery:
    """What members answered.

    Attributes:
        base: the untrained base's log-odds, [D], on the machine that made the members.
        log_odds: every member's, [m, D].
        words: of open answers.
    """

    base: Array
    log_odds: Array
    words: WordSpread

    def save(self, path: Path, digests: Sequence[str], facts: dict[str, str]) -> None:
        """Write a file. Args: digests: of each member; facts: what a reader is to know."""
        tensors = {
            "base": self.base.astype(np.float32),
            "log_odds": self.log_odds.astype(np.float32),
            "words_mean": self.words.mean.astype(np.float16),
            "words_deviation": self.words.deviation.astype(np.float16),
        }
        save_file(tensors, path, metadata={**facts, DIGESTS: json.dumps(list(digests))})


def place(fingerprint: str) -> Path:
    """Where the battery of a base is, if there is one."""
    folder = Path(str(resources.files("vestige.probing"))) / "batteries"
    return folder / f"{fingerprint[:16]}.safetensors"


def bundled_battery(fingerprint: str, digests: Sequence[str]) -> BundledBattery | None:
    """The battery of a base, if it comes with the package and begins with these members."""
    path = place(fingerprint)
    if not path.is_file():
        return None
    with safe_open(path, framework="numpy") as file:
        kept = json.loads(file.metadata()[DIGESTS])
        if kept[: len(digests)] != list(digests):
            return None
        tensors = {name: file.get_tensor(name).astype(np.float64) for name in file.keys()}  # noqa: SIM118
    words = WordSpread(tensors["words_mean"], tensors["words_deviation"], len(kept))
    return BundledBattery(tensors["base"], tensors["log_odds"], words)
