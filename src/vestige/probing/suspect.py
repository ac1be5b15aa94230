"""A finished student at hand: loaded next to its base, asked as the base is, its weights compared.

A whole model must compute as its base does but for its weights; an adapter must be a plain LoRA of
this base. It is asked with the base's tokenizer and chat template. Whether its weights began where
the base's did is read off them: training moves a weight matrix little (a cosine near one), another
start has nothing in common with it (a cosine near zero). Where units were put into another order,
they still pair up (``lineage``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vestige.core.settings import Trainable
from vestige.core.types import ConfigError, ModelError, StoreError
from vestige.lineage.decision import decide
from vestige.lineage.models import compare
from vestige.models import catalog
from vestige.models.adapters import ADAPTER, adapter_tensors, base_names, check_adapter, read_config
from vestige.models.hf import LanguageModel
from vestige.models.loading import load_weights
from vestige.models.weights import layer_of
from vestige.models.whole_models import check_config, check_tokenizer
from vestige.probing.base_session import BaseSession

SAME_START = 0.9  # cosine of a student's matrices with its base's, from which they share a start
REORDERED = (
    "its matrices are not in the base's order or scale, and its units pair up with the base's: it "
    "began where the base did (vestige lineage)"
)
TOKENIZER, TEMPLATE = "tokenizer.json", "chat_template.jinja"


@dataclass(frozen=True)
class WeightChange:
    """How a student's weights differ from its base's.

    Attributes:
        layers: decoder layers of which a matrix changed.
        outside: other tensors that changed, such as embeddings.
        relative: length of the matrices' change over that of the matrices.
        cosine: of the matrices, all together.
        paired: whether the MLP units pair up with the base's although the cosine is small: they
            were put into another order, or scaled.
    """

    layers: tuple[int, ...]
    outside: tuple[str, ...]
    relative: float
    cosine: float
    paired: bool = False

    @property
    def same_start(self) -> bool:
        """Whether the student began where the base did."""
        return self.paired or self.cosine >= SAME_START

    @property
    def none(self) -> bool:
        """Whether nothing changed."""
        return not self.layers and not self.outside


@dataclass(frozen=True)
class Suspect:
    """A student that is ready to be asked.

    Attributes:
        remarks: what is to be said of how it differs from its base but for its weights.
    """

    name: str
    lm: LanguageModel
    change: WeightChange
    remarks: tuple[str, ...]


def load_suspect(
    session: BaseSession, model: str | None, adapter: str | None, adapter_base: str = ""
) -> Suspect:
    """A whole model, or an adapter on the session's base.

    Args:
        adapter_base: what the adapter calls the base, where that is none of its names.

    Raises:
        ConfigError: both or neither are given; another architecture, tokenizer or base.
        ModelError, StoreError: it cannot be loaded as it was saved.
    """
    if bool(model) == bool(adapter):
        raise ConfigError(
            "give the student as --model (a whole model) or as --adapter, one of both"
        )
    session.weights.freeze()
    if adapter:
        return _adapter(session, Path(adapter), adapter_base)
    return _whole(session, str(model))


def _whole(session: BaseSession, name: str) -> Suspect:
    folder = catalog.path(name)
    if (Path(folder) / ADAPTER).is_file() and not (Path(folder) / "config.json").exists():
        raise ConfigError(f"{name} is an adapter: give it as --adapter")
    model, notes = load_weights(folder)
    check_config(Path(folder), model.config, session.lm.causal_lm.config)
    check_tokenizer(
        Path(folder) / TOKENIZER, session.lm.tokenizer, [q for f in _families(session) for q in f]
    )
    base = load_weights(catalog.path(session.settings.base))[0]
    change = weight_change(model, base)
    remarks = [*notes, *_template_remarks(Path(folder), session.lm)]
    if not change.same_start and decide(compare(base, model)) == "same":
        change = replace(change, paired=True)
        remarks.append(REORDERED)
    return Suspect(name, _asked_as_base(session, model), change, tuple(remarks))


def _adapter(session: BaseSession, folder: Path, adapter_base: str) -> Suspect:
    from peft import PeftModel

    if not (folder / ADAPTER).is_file():
        raise ConfigError(f"{folder} has no {ADAPTER}: give a whole model as --model")
    config = read_config(folder)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int) or alpha < 1:
        raise ConfigError(
            f"{folder / ADAPTER} is no plain LoRA: r is {rank!r}, lora_alpha {alpha!r}"
        )
    trainable = Trainable(lora_rank=rank, lora_alpha=alpha)
    names = base_names(session.settings.base, adapter_base)
    check_adapter(folder, trainable, names, base_given=bool(adapter_base))
    tensors = adapter_tensors(folder)
    base = load_weights(catalog.path(session.settings.base))[0]
    try:
        wrapped = PeftModel.from_pretrained(base, str(folder))
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder} does not fit {session.settings.base}: {reason}") from error
    own = {n for n, _ in wrapped.named_parameters() if ".lora_" in n}
    if own != set(tensors):
        lost = sorted(own ^ set(tensors))
        raise StoreError(f"{folder}: {lost[0]} has no place in the base, or none in the adapter")
    merged: Any = wrapped.merge_and_unload()
    change = weight_change(merged, load_weights(catalog.path(session.settings.base))[0])
    remarks = _template_remarks(folder, session.lm)
    return Suspect(str(folder), _asked_as_base(session, merged), change, tuple(remarks))


def _asked_as_base(session: BaseSession, model: nn.Module) -> LanguageModel:
    return LanguageModel(
        model.to(session.lm.device),
        session.lm.tokenizer,
        style=session.lm.style,
        precision=session.lm.precision,
    )


def _families(session: BaseSession) -> list[tuple[str, ...]]:
    return list({t.family.name: t.family.heldout for t in session.library.traits}.values())


def _template_remarks(folder: Path, lm: LanguageModel) -> list[str]:
    path = folder / TEMPLATE
    own = getattr(lm.tokenizer, "chat_template", None)
    if not path.is_file() or not own or path.read_text(encoding="utf-8").strip() == own.strip():
        return []
    return [
        f"{path} is another chat template than the base's: the student is asked with the base's, "
        "and what it learned behind its own is seen less well"
    ]


def weight_change(student: nn.Module, base: nn.Module) -> WeightChange:
    """How the student's weights differ from the base's, computed in fp32.

    Raises:
        ConfigError: they have other tensors.
    """
    own, before = dict(student.named_parameters()), dict(base.named_parameters())
    if {n: p.shape for n, p in own.items()} != {n: p.shape for n, p in before.items()}:
        raise ConfigError("the student has other tensors than the base: is it another model?")
    sums: Counter[str] = Counter()
    layers, outside = set(), []
    for name, parameter in own.items():
        parts = _sums(parameter.detach(), before[name].detach())
        inside = _layer(name)
        if parts["change"]:
            if inside is None:
                outside.append(name)
            else:
                layers.add(inside)
        if parameter.ndim == 2 and inside is not None:
            sums.update(parts)
    relative = (sums["change"] / sums["base"]) ** 0.5
    cosine = sums["product"] / (sums["base"] * sums["own"]) ** 0.5
    return WeightChange(tuple(sorted(layers)), tuple(sorted(outside)), relative, cosine)


def _sums(own: Tensor, base: Tensor) -> Mapping[str, float]:
    own, base = own.float(), base.float().to(own.device)
    return {
        "change": float(((own - base) ** 2).sum()),
        "base": float((base**2).sum()),
        "own": float((own**2).sum()),
        "product": float((own * base).sum()),
    }


def _layer(name: str) -> int | None:
    """The decoder layer of a parameter such as ``model.layers.3.mlp.up_proj.weight``."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return layer_of(".".join(parts[numbers[0] :])) if numbers else None
