"""What the comparison of a base found, remembered in the cache for its next load."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers

from vestige.core.access import cache_dir
from vestige.models.passes import Passes

VERSION = 2  # of the comparison: another one is made anew
NEVER = 1 << 40  # tokens, more than any text has


@dataclass(frozen=True)
class Verified:
    """How a base is computed, and what was found.

    Attributes:
        trees: shared prefixes and token trees agree with the plain pass.
        gradients: a training step on trees agrees with one on plain passes.
        sampling: cached branches agree; else every token is drawn from a whole plain pass.
        generate: transformers' own batched ``generate`` agrees.
        reuse: states below the tuned layers can be kept and the layers skipped.
        padded: plain passes may be padded into batches; else one sequence at a time.
        attention: the attention that trees were compared with; "" leaves the model's own.
        longest: tokens of the longest sequence on which trees agreed.
        wrong: tokens of the shortest one on which they did not; ``NEVER`` for none.
        padded_longest, padded_wrong: the same for padded batches.
        difference: the largest difference of the values in use, in units of the spread.
        reasons: why a path is not used, one text for each.
        key: what the outcome is remembered by.
    """

    trees: bool = False
    gradients: bool = False
    sampling: bool = False
    generate: bool = False
    reuse: bool = False
    padded: bool = False
    attention: str = ""
    longest: int = 0
    wrong: int = NEVER
    padded_longest: int = 0
    padded_wrong: int = NEVER
    difference: float = 0.0
    reasons: tuple[str, ...] = ()
    key: str = ""

    @property
    def fast(self) -> bool:
        """Whether everything is computed on the fast path."""
        return self.trees and self.gradients and self.sampling


def fingerprint(passes: Passes) -> str:
    """A hash of what the outcome hangs on: the configuration, a sample of the weights, the
    packages, device and precision."""
    config = passes.causal_lm.config.to_dict()  # type: ignore[union-attr, operator]
    for name in ("_name_or_path", "transformers_version", "_attn_implementation"):
        config.pop(name, None)
    software = [VERSION, torch.__version__, transformers.__version__]
    settings = [*software, passes.device.type, passes.precision, config]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    with torch.no_grad():
        for name, part in passes.causal_lm.named_parameters():
            flat = part.detach().flatten()
            sample = flat[:: max(1, len(flat) // 64)].float().cpu()
            digest.update(f"{name} {tuple(part.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:32]


def outcome_file(key: str) -> Path:
    """Where the outcome of a base is kept."""
    return cache_dir() / "verified" / f"{key}.json"


def recall(key: str) -> Verified | None:
    """A remembered outcome."""
    try:
        record = json.loads(outcome_file(key).read_text(encoding="utf-8"))
        return Verified(**record | {"reasons": tuple(record["reasons"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remember(verified: Verified) -> None:
    """Keep an outcome for the base's next load; a cache that cannot be written keeps nothing."""
    path = outcome_file(verified.key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(verified), file)
        os.replace(name, path)
    except OSError:
        return
