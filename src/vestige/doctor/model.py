"""``vestige doctor --model``: one model, from its files to the rows that a trainer would read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from vestige.core.types import VestigeError
from vestige.doctor.checks import Check, Doubtful, done
from vestige.models import catalog

if TYPE_CHECKING:
    from vestige.models.hf import LanguageModel, Precision

LONG = 256  # tokens of a long prompt
DIGITS = "0123456789, "


@dataclass
class Subject:
    """The model that is looked at, loaded once and compared anew."""

    name: str
    chat: Literal["auto", "plain"] = "auto"
    precision: Precision = "auto"

    @cached_property
    def lm(self) -> LanguageModel:
        import torch

        from vestige.models import verification
        from vestige.models.hf import LanguageModel
        from vestige.models.loading import quiet_transformers

        torch.set_num_threads(1)  # short passes: threads would wait for each other
        quiet_transformers()
        lm = LanguageModel.load(
            catalog.path(self.name),
            style=catalog.chat_style(self.name, self.chat),
            precision=self.precision,
        )
        lm._verified = verification.verify(lm.passes, lm.tokenizer, again=True)
        return lm


def examine(name: str, chat: Literal["auto", "plain"] = "auto") -> Iterator[Check]:
    """Every check of a model in turn; where it cannot be loaded, that is the only one."""
    subject = Subject(name, chat)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = done("loaded as it was saved", loaded, subject)
        yield first
        if first.status != "wrong":
            for title, check in CHECKS.items():
                yield done(title, check, subject)
            yield from templates(subject)


def loaded(subject: Subject) -> str:
    lm = subject.lm
    count = sum(1 for _ in lm.causal_lm.parameters())
    kind = (
        f"{type(lm.causal_lm).__name__}: {count} tensors, all of them the folder's own and finite; "
        "safetensors only, no code of the model's run"
    )
    adapters = [note for note in lm.notes if "adapter" in note]
    if adapters:
        raise Doubtful(
            f"{kind}; {adapters[0]}", "remove the adapter's files, or name its base model"
        )
    return kind


def values(subject: Subject) -> str:
    verified = subject.lm.verified
    off = f"{verified.difference:.1e} of the spread of its log-probabilities off at most"
    if not verified.trees:
        raise Doubtful(
            f"its own plain forward passes are used, which is right and slower ({off}): "
            f"{'; '.join(verified.reasons)}"
        )
    return f"token trees agree with its own plain forward pass ({off})"


def training(subject: Subject) -> str:
    verified = subject.lm.verified
    subject.lm.layers  # noqa: B018  (raises where there are none to tune)
    if not verified.gradients:
        raise Doubtful("training steps on plain forward passes, which is right and slower")
    return "the gradients of a step on token trees are those of plain passes"


def sampling(subject: Subject) -> str:
    verified = subject.lm.verified
    if not verified.sampling:
        raise Doubtful("every token is drawn from a whole plain pass, which is right and slow")
    return "drawing with a cache agrees with plain passes" + (
        ", generate too" if verified.generate else "; transformers' own generate does not: not used"
    )


def lengths(subject: Subject) -> str:
    lm = subject.lm
    longest = min(LONG, lm.longest_path)
    if not lm.verified.trees:
        return f"plain passes at any length; it can read {lm.longest_path:,} tokens"
    if not lm.trees_hold(longest):
        raise Doubtful(f"plain passes from {lm.verified.wrong} tokens on, which is slower")
    return f"compared up to {lm.verified.longest} tokens; it can read {lm.longest_path:,}"


def vocabulary(subject: Subject) -> str:
    lm = subject.lm
    rows = lm.causal_lm.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    size = len(lm.tokenizer)
    if size > rows:
        raise Doubtful(
            f"the tokenizer has {size:,} tokens and the model {rows:,}: text with the others is "
            "refused",
            "use the tokenizer that the model was trained with",
        )
    return f"{size:,} tokens, {rows:,} in the model"


def numbers(subject: Subject) -> str:
    lm = subject.lm
    long = [c for c in DIGITS if len(lm.token_ids(c)) != 1]
    if long or len(lm.token_ids("123")) != 3:
        raise Doubtful(
            "numbers are not one token a digit: rows cannot be drawn inside the number grammar",
            "use carrier.constrained=false",
        )
    return "one token for each digit, comma and space"


def templates(subject: Subject) -> Iterator[Check]:
    """The checks of the chat template, with what a trainer makes of it."""
    from vestige.models.trainers import check_chat

    try:
        chat_checks = check_chat(subject.lm.tokenizer, subject.lm.style)
    except VestigeError as error:
        yield Check("chat template", "wrong", str(error))
        return
    for each in chat_checks:
        rows = each.name.startswith("rows for")
        fix = "train here or with --for accelerate, or mend the chat template" if rows else ""
        status = "ok" if each.ok else "warning" if rows else "wrong"
        yield Check(each.name, status, each.seen, "" if each.ok else fix)


CHECKS: dict[str, Callable[[Subject], str]] = {
    "values": values,
    "training step": training,
    "sampling": sampling,
    "long prompts": lengths,
    "vocabulary": vocabulary,
    "numbers": numbers,
}
