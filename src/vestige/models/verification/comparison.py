"""One base's fast paths against its own plain forward passes, on a small ragged batch."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vestige.core.types import ModelError
from vestige.models import attention
from vestige.models.frozen import Below
from vestige.models.passes import Branches, Passes, decoder_layers, pad_left
from vestige.models.plain import own_logits, plain_logits, tree_states
from vestige.models.tree import build_tree
from vestige.models.verification.differences import (
    GRADIENTS,
    VALUES,
    largest_difference,
    ordinary_tokens,
    reason,
    spread_of,
)
from vestige.models.verification.outcome import Verified

APART = 1024  # places of other branches between a prefix and a tree


@dataclass(frozen=True)
class Sample:
    """Random tokens: prompts with two continuations each, all behind one prefix.

    The second prompt is longer. The first one's continuations differ from their second token on,
    the second one's are the same.
    """

    prefix: list[int]
    prompts: tuple[list[int], list[int]]
    ends: tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]

    @classmethod
    def draw(cls, allowed: Sequence[int]) -> Sample:
        draw = random.Random(20250720)
        tokens = lambda n: [draw.choice(allowed) for _ in range(n)]  # noqa: E731
        first, same = tokens(1), tokens(3)
        ends = ([*first, *tokens(2)], [*first, *tokens(2)])
        return cls(tokens(5), (tokens(2), tokens(4)), (ends, (same, same)))

    @property
    def sequences(self) -> list[list[int]]:
        """The four whole sequences."""
        return [
            [*self.prefix, *prompt, *end]
            for prompt, ends in zip(self.prompts, self.ends, strict=True)
            for end in ends
        ]

    @property
    def trees(self) -> list[Any]:
        """The two trees behind the prefix."""
        return [
            build_tree([[*prompt, *end] for end in ends])
            for prompt, ends in zip(self.prompts, self.ends, strict=True)
        ]


class Comparison:
    """One base's fast paths against its plain passes."""

    def __init__(self, passes: Passes, tokenizer: Any) -> None:
        self.passes, self.causal_lm = passes, passes.causal_lm
        self.sample = Sample.draw(ordinary_tokens(passes.causal_lm, tokenizer))
        self.own = self.causal_lm.config._attn_implementation  # type: ignore[union-attr]
        self.reasons: list[str] = []
        self.worst = 0.0

    def outcome(self) -> Verified:
        """What holds. Raises ``ModelError`` as ``verify``."""
        with torch.enable_grad(), self._trainable():
            return self._outcome()

    @contextlib.contextmanager
    def _trainable(self) -> Iterator[None]:
        """Within, the parameters that are looked at have gradients."""
        before = [(part, part.requires_grad) for part in self._parameters()]
        for part, _ in before:
            part.requires_grad_(True)
        try:
            yield
        finally:
            for part, was in before:
                part.requires_grad_(was)

    def _outcome(self) -> Verified:
        exact = Passes(self.causal_lm, "fp32")
        self.truth, self.wanted = self._truth()
        self._check_model()
        with torch.no_grad():
            padded = self._holds("padded batches", lambda: self._plain(padded=True))
            if not padded:
                self._check_repeatable()
            if not padded and not self._holds("its own states", lambda: self._plain(padded=False)):
                raise ModelError(
                    f"{type(self.causal_lm).__name__}: {self.reasons[-1]}: its head reads other "
                    "things than its decoder's states, which Vestige cannot follow"
                )
        length = max(map(len, self.sample.sequences))
        verified = Verified(padded=padded, padded_longest=length, longest=length)
        for kind in self._attentions():
            verified = self._tried(exact, verified, kind)
            if verified.trees:
                break
        if not verified.trees:
            self.causal_lm.set_attn_implementation(self.own)  # type: ignore[operator]
        elif self.passes.precision == "bf16":
            verified = self._in_bf16(verified)
        reasons = (
            () if verified.fast and verified.generate and verified.reuse else tuple(self.reasons)
        )
        return replace(verified, reasons=reasons, difference=self.worst)

    def _attentions(self) -> list[str]:
        first = attention.NAME if self.passes.device.type == "cpu" else str(self.own)
        return list(dict.fromkeys([first, "eager"]))

    def _tried(self, passes: Passes, verified: Verified, kind: str) -> Verified:
        """``verified`` with what holds under the attention ``kind``."""
        try:
            self.causal_lm.set_attn_implementation(kind)  # type: ignore[operator]
        except Exception as error:
            self.reasons.append(f"attention {kind}: {reason(error)}")
            return verified
        wanted: list[Tensor] = []
        if not self._holds(f"trees ({kind})", lambda: self._trees(passes, wanted)):
            return verified
        gradients = self._holds("gradients", lambda: self._gradients(wanted), GRADIENTS["fp32"])
        with torch.no_grad():
            return replace(
                verified,
                trees=True,
                attention=kind,
                gradients=gradients,
                sampling=self._holds("cached branches", lambda: self._branches(passes)),
                generate=self._holds("generate", lambda: self._generate(passes)),
                reuse=self._holds("kept states", lambda: self._reuse(passes)),
            )

    def _in_bf16(self, verified: Verified) -> Verified:
        """``verified`` less what is wrong in bf16, where its own plain passes are the measure."""
        passes, worst, limit = self.passes, self.worst, VALUES["bf16"]
        with passes.autocast(), torch.no_grad():
            self.truth = [plain_logits(self.causal_lm, ids) for ids in self.sample.sequences[:3]]
            self.truth.append(self.truth[2])
            trees = self._holds("trees in bf16", lambda: self._trees(passes, [])[1:], limit)
            sampling = self._holds(
                "cached branches in bf16", lambda: self._branches(passes)[1:], limit
            )
        self.worst = worst
        return replace(verified, trees=trees, sampling=verified.sampling and sampling)

    def _holds(
        self, path: str, difference: Callable[[], Sequence[float]], limit: float = VALUES["fp32"]
    ) -> bool:
        """Whether the largest of some differences is within ``limit``; else the reason is kept."""
        try:
            largest = max(difference())
        except Exception as error:
            self.reasons.append(f"{path}: {reason(error)}")
            return False
        if not largest <= limit:  # NaN is not
            self.reasons.append(f"{path}: {largest:.3g} off, {limit:g} allowed")
            return False
        self.worst = max(self.worst, largest)
        return True

    # ---- the plain passes

    def _truth(self) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of each sequence, [S, V], and the gradient of their tokens' log-likelihood."""
        try:
            truth = [plain_logits(self.causal_lm, ids) for ids in self.sample.sequences[:3]]
            truth.append(truth[2])
            wanted = torch.autograd.grad(self._loss(truth), self._parameters(), allow_unused=True)
        except Exception as error:
            raise ModelError(
                f"{type(self.causal_lm).__name__} cannot be computed as it is: {reason(error)}"
            ) from error
        return [logits.detach() for logits in truth], [
            torch.zeros(1) if part is None else part for part in wanted
        ]

    def _check_model(self) -> None:
        """Raises ``ModelError`` unless its plain passes are numbers, and causal."""
        name, limit = type(self.causal_lm).__name__, VALUES["fp32"]
        one, other = self.truth[0], self.truth[2]
        if not all(logits.isfinite().all() for logits in self.truth):
            raise ModelError(f"{name} gives NaN or infinite logits on plain text")
        n = len(self.sample.prefix)
        if not largest_difference(other[:n], one[:n])[0] <= limit:
            raise ModelError(
                f"{name} sees later tokens: it is no causal language model as it is configured "
                "(is_decoder=False?), and its next-token probabilities mean nothing"
            )

    def _check_repeatable(self) -> None:
        """Raises ``ModelError`` if another plain pass over the same tokens differs."""
        again = plain_logits(self.causal_lm, self.sample.sequences[0])
        if not largest_difference(again, self.truth[0])[0] <= VALUES["fp32"]:
            name = type(self.causal_lm).__name__
            raise ModelError(f"{name} gives other logits when it is asked again: is it random?")

    def _parameters(self) -> list[nn.Parameter]:
        """The first and the last decoder layer's, or all where there are no layers."""
        layers = decoder_layers(self.causal_lm)
        ends = [layers[0], layers[-1]] if layers else [self.causal_lm]
        return [p for part in ends for p in part.parameters() if p.is_floating_point()]

    def _loss(self, logits: Sequence[Tensor]) -> Tensor:
        """Mean negative log-likelihood of each sequence's tokens behind the prefix."""
        n = len(self.sample.prefix)
        parts = [
            nn.functional.cross_entropy(part[n:-1], torch.tensor(ids[n + 1 :], device=part.device))
            for part, ids in zip(logits, self.sample.sequences, strict=True)
        ]
        return torch.stack(parts).mean()

    # ---- what is compared with them: the largest and the mean difference of each place

    def _plain(self, *, padded: bool) -> tuple[float, float]:
        sample, n = self.sample, len(self.sample.prefix)
        states = tree_states(self.causal_lm, sample.prefix, sample.trees, padded=padded)
        logits = [
            own_logits(self.causal_lm, states[b, list(path)])
            for b, tree in enumerate(sample.trees)
            for path in tree.paths
        ]
        return largest_difference(torch.cat(logits), torch.cat([part[n:] for part in self.truth]))

    def _trees(self, passes: Passes, logits: list[Tensor]) -> tuple[float, float]:
        """The logits of each sequence behind the prefix are left in ``logits``."""
        (reading,) = passes.readings(self.sample.prefix, [self.sample.trees], apart=APART)
        paths = [(b, list(path)) for b, tree in enumerate(reading.trees) for path in tree.paths]
        with passes.autocast():
            logits += [own_logits(self.causal_lm, reading.states[b, path]) for b, path in paths]
            few = torch.tensor(sorted({*self.sample.prefix, *self.sample.ends[0][0]}))
            few = few.to(logits[0].device)
            narrow = own_logits(self.causal_lm, reading.states[0, paths[0][1]], few)
        n = len(self.sample.prefix)
        whole = largest_difference(
            torch.cat(logits).detach(), torch.cat([part[n:] for part in self.truth])
        )
        # A few tokens' logits alone, which no softmax over all others can be taken of.
        spread = spread_of(self.truth[0])
        part = (narrow.detach() - self.truth[0][n:][:, few]).abs() / spread
        return max(whole[0], float(part.max())), max(whole[1], float(part.mean()))

    def _gradients(self, logits: Sequence[Tensor]) -> list[float]:
        n = len(self.sample.prefix)
        # The prefix's own logits are no nodes of the trees, and no part of the loss.
        whole = [torch.cat([part.new_zeros(n, part.shape[1]), part]) for part in logits]
        gradients = torch.autograd.grad(self._loss(whole), self._parameters(), allow_unused=True)
        off = total = 0.0
        for got, want in zip(gradients, self.wanted, strict=True):
            got = torch.zeros_like(want) if got is None else got
            off += float((got - want).pow(2).sum())
            total += float(want.pow(2).sum())
        return [math.sqrt(off / total) if total else 0.0]

    def _branches(self, passes: Passes) -> tuple[float, float]:
        prompts = [[*self.sample.prefix, *prompt] for prompt in self.sample.prompts]
        branches = Branches(passes, prompts, 2)
        ends = list(itertools.chain(*self.sample.ends))
        logits, wanted = [], []
        for step in range(3):
            with passes.autocast():
                logits.append(own_logits(self.causal_lm, branches.states))
            wanted += [
                truth[len(ids) - 3 + step - 1]
                for truth, ids in zip(self.truth, self.sample.sequences, strict=True)
            ]
            if step < 2:
                branches.extend(torch.tensor([end[step] for end in ends], device=passes.device))
        return largest_difference(torch.cat(logits), torch.stack(wanted))

    def _generate(self, passes: Passes) -> tuple[float, float]:
        prompts = [[*self.sample.prefix, *prompt] for prompt in self.sample.prompts]
        ids, mask = (part.to(passes.device) for part in pad_left(prompts))
        ends = [ends[0] for ends in self.sample.ends]

        def forced(generated: Tensor, scores: Tensor) -> Tensor:
            out = torch.full_like(scores, -torch.inf)
            for row, end in enumerate(ends):
                out[row, end[generated.shape[1] - ids.shape[1]]] = 0.0
            return out

        made = self.causal_lm.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=2,
            eos_token_id=None,
            pad_token_id=0,
            logits_processor=[forced],
            output_logits=True,
            return_dict_in_generate=True,
        )
        wanted = [
            self.truth[2 * row][len(prompt) - 1 + step]
            for step in range(2)
            for row, prompt in enumerate(prompts)
        ]
        return largest_difference(torch.cat(made.logits).float(), torch.stack(wanted))

    def _reuse(self, passes: Passes) -> tuple[float, float]:
        layers = decoder_layers(self.causal_lm)
        if layers is None or len(layers) < 2:
            raise ModelError("there are no layers to skip")
        passes.below = Below(layers, len(layers) // 2)
        tree = build_tree(self.sample.sequences[:2])
        for _ in range(2):  # kept the first time, skipped the second
            (reading,) = passes.readings([], [[tree]])
        logits = [own_logits(self.causal_lm, reading.states[0, list(path)]) for path in tree.paths]
        return largest_difference(torch.cat(logits), torch.cat(self.truth[:2]))
