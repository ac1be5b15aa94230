"""Students as the libraries themselves load and compute them: what an import is compared with.

A student that comes back is put into the run's base by Vestige's own code. Whether that is the
student that was trained is asked of transformers and PEFT: they load it by themselves, and its
log-probabilities on a few prompts, from a plain forward pass in fp32, must be Vestige's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vestige.core.settings import Trainable
from vestige.core.types import ModelError
from vestige.experiment.model_pool import Loaded
from vestige.models import catalog
from vestige.models.adapters import read_config
from vestige.models.hf import LanguageModel
from vestige.models.loading import load_weights
from vestige.models.plain import plain_logits
from vestige.models.weights import Weights

#: Nats that two fp32 computations of one log-probability may differ by: at most, in any case, and
#: as a share of what the student changes (a small change that is put in place wrongly is a small
#: difference). Chosen.
MOST, ROUNDING, SHARE = 2e-3, 3e-4, 0.05
TOKENS = 512  # of the vocabulary, evenly spread, whose log-probabilities are compared; chosen
PROMPTS, LONGEST = 4, 256  # prompts that are compared, and the tokens of each at most; chosen


@dataclass(frozen=True)
class Compared:
    """Two computations of one student.

    Attributes:
        against: who loaded and computed it the other way.
        difference: the largest difference of a log-probability, in nats.
        moved: the largest difference from the untrained base, in nats.
        allowed: the difference up to which they are taken for one student.
    """

    against: str
    difference: float
    moved: float
    allowed: float

    @property
    def note(self) -> dict[str, Any]:
        """For the stage's manifest."""
        return {
            "against": self.against,
            "max_difference_nats": self.difference,
            "tolerance_nats": self.allowed,
            "moved_from_base_nats": self.moved,
        }


class Reference:
    """A run's base as transformers has it, in fp32 on the CPU, and what becomes of it.

    Attributes:
        model: the base, without anything of Vestige's in it.
    """

    def __init__(self, name: str, loaded: Loaded, texts: Sequence[str]) -> None:
        """Args: texts: what the student is asked; a few of them are compared."""
        self.name = name
        self.loaded = loaded
        self.model: Any = load_weights(catalog.path(name))[0].eval()
        step = max(1, len(texts) // PROMPTS)
        self.prompts = [loaded.lm.question_ids(t)[-LONGEST:] for t in texts[::step][:PROMPTS]]
        self.base = self.plain(self.model)

    def plain(self, model: nn.Module) -> Tensor:
        """Log-probabilities after each prompt, from the model's own forward pass: [P, K]."""
        logprobs = []
        with torch.no_grad():
            for prompt in self.prompts:
                logits = plain_logits(model, prompt)[-1]
                logprobs.append(logits.log_softmax(-1)[:: _stride(len(logits))])
        return torch.stack(logprobs).double()

    def own(self, weights: Path, trainable: Trainable) -> Tensor:
        """The same from Vestige's model with the student's tensors in place: [P, K]."""
        lm = self.loaded.lm
        if lm.precision != "fp32":
            lm = LanguageModel.load(
                catalog.path(self.name), style=lm.style, precision="fp32", device="cpu"
            )
            Weights(lm, [trainable]).load(weights, trainable)
        size = self.model.get_output_embeddings().weight.shape[0]
        answers = [[token] for token in range(0, size, _stride(size))]
        return lm.answer_logprobs(self.prompts, answers)

    def of_adapter(self, folder: Path) -> Tensor:
        """The student's log-probabilities with PEFT's own way of loading an adapter: [P, K].

        Raises:
            ModelError: PEFT cannot load it.
        """
        from peft import LoraConfig, PeftModel

        known = LoraConfig().to_dict().keys()
        settings = {key: value for key, value in read_config(folder).items() if key in known}
        settings.pop("peft_type")
        try:
            wrapped = PeftModel.from_pretrained(
                self.model, str(folder), config=LoraConfig(**settings)
            ).eval()
        except Exception as error:
            raise ModelError(f"PEFT cannot load {folder}: {error}") from error
        try:
            return self.plain(wrapped)
        finally:
            self.model = wrapped.unload()

    def compare(self, folder: Path, against: str, theirs: Tensor, own: Tensor) -> Compared:
        """Raises ``ModelError`` unless the two computations agree."""
        difference = float((theirs - own).abs().max())
        moved = float((theirs - self.base).abs().max())
        allowed = min(MOST, ROUNDING + SHARE * moved)
        if not difference <= allowed:  # NaN as well
            raise ModelError(
                f"{folder}: with it in place, Vestige's log-probabilities differ by "
                f"{difference:.2g} nats from those of {against} (at most {allowed:.2g} is taken), "
                "so it is not the student that was trained; it is not imported"
            )
        return Compared(against, difference, moved, allowed)


def _stride(size: int) -> int:
    return max(1, size // TOKENS)
