"""Does a base's fast path give the model's own numbers? Found out once for each base.

At a base's first load, the fast path (``passes``: shared prefix, token trees, cached branches) is
compared with the model's own plain forward pass, one sequence at a time without padding, mask or
cache (``plain.plain_logits``), on a small ragged batch with a shared prefix and branching trees, in
values and in gradients. Where they agree the fast path is used; where they do not, the plain path
is. A model whose own passes contradict each other is refused. Longer sequences than were compared
are compared before they are first used: attention windows and rotary scaling begin somewhere.

Tolerances, in units of the model's own spread (the standard deviation of its log-probabilities over
the vocabulary): fp32, the largest difference at most 0.001; bf16, the mean difference at most 0.05.
Gradients: the norm of the difference against the norm, 0.001 and 0.1.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from vestige.core.types import ModelError
from vestige.models import attention, catalog
from vestige.models.frozen import Below
from vestige.models.passes import Branches, Passes, decoder_layers, pad_left
from vestige.models.plain import attention as own_attention
from vestige.models.plain import own_logits, plain_logits, sequence_states, tree_states
from vestige.models.tree import build_tree

VERSION = 2  # of the comparison: another one is made anew
VALUES = {"fp32": 1e-3, "bf16": 0.05}
GRADIENTS = {"fp32": 1e-3, "bf16": 0.1}
LENGTHS = 4  # each length that is compared is so many times the one before
SHORTEST = 64
NEVER = 1 << 40  # tokens that no text has
APART = 1024  # places of other branches between a prefix and a tree


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


def verify(passes: Passes, tokenizer: Any = None, *, again: bool = False) -> Verified:
    """The outcome for this base: as it was remembered, or compared now and remembered.

    The model's attention is left as the outcome says.

    Args:
        again: compare even if an outcome is remembered.

    Raises:
        ModelError: the model's own forward passes cannot be used: they fail, differ between two
            runs, see later tokens, or hide the states that its head reads.
    """
    key = fingerprint(passes)
    known = None if again else recall(key)
    if known is None:
        with quiet(passes.causal_lm):
            known = replace(_Comparison(passes, tokenizer).outcome(), key=key)
        remember(known)
    if known.attention:
        passes.causal_lm.set_attn_implementation(known.attention)  # type: ignore[operator]
    return known


class _Comparison:
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
        found = Verified(padded=padded, padded_longest=length, longest=length)
        for kind in self._attentions():
            found = self._tried(exact, found, kind)
            if found.trees:
                break
        if not found.trees:
            self.causal_lm.set_attn_implementation(self.own)  # type: ignore[operator]
        elif self.passes.precision == "bf16":
            found = self._in_bf16(found)
        reasons = () if found.fast and found.generate and found.reuse else tuple(self.reasons)
        return replace(found, reasons=reasons, difference=self.worst)

    def _attentions(self) -> list[str]:
        first = attention.NAME if self.passes.device.type == "cpu" else str(self.own)
        return list(dict.fromkeys([first, "eager"]))

    def _tried(self, passes: Passes, found: Verified, kind: str) -> Verified:
        """``found`` with what holds under the attention ``kind``."""
        try:
            self.causal_lm.set_attn_implementation(kind)  # type: ignore[operator]
        except Exception as error:
            self.reasons.append(f"attention {kind}: {reason(error)}")
            return found
        wanted: list[Tensor] = []
        if not self._holds(f"trees ({kind})", lambda: self._trees(passes, wanted)):
            return found
        gradients = self._holds("gradients", lambda: self._gradients(wanted), GRADIENTS["fp32"])
        with torch.no_grad():
            return replace(
                found, trees=True, attention=kind, gradients=gradients,
                sampling=self._holds("cached branches", lambda: self._branches(passes)),
                generate=self._holds("generate", lambda: self._generate(passes)),
                reuse=self._holds("kept states", lambda: self._reuse(passes)),
            )  # fmt: skip

    def _in_bf16(self, found: Verified) -> Verified:
        """``found`` less what is wrong in bf16, where its own plain passes are the measure."""
        passes, worst, limit = self.passes, self.worst, VALUES["bf16"]
        with passes.autocast(), torch.no_grad():
            self.truth = [plain_logits(self.causal_lm, ids) for ids in self.sample.sequences[:3]]
            self.truth.append(self.truth[2])
            trees = self._holds("trees in bf16", lambda: self._trees(passes, [])[1:], limit)
            sampling = self._holds(
                "cached branches in bf16", lambda: self._branches(passes)[1:], limit
            )
        self.worst = worst
        return replace(found, trees=trees, sampling=found.sampling and sampling)

    def _holds(
        self, what: str, difference: Callable[[], Sequence[float]], limit: float = VALUES["fp32"]
    ) -> bool:
        """Whether the largest of some differences is within ``limit``; else the reason is kept."""
        try:
            largest = max(difference())
        except Exception as error:
            self.reasons.append(f"{what}: {reason(error)}")
            return False
        if not largest <= limit:  # NaN is not
            self.reasons.append(f"{what}: {largest:.3g} off, {limit:g} allowed")
            return False
        self.worst = max(self.worst, largest)
        return True

    # ---- the plain passes

    def _truth(self) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of each sequence, [S, V], and the gradient of their tokens' log-likelihood."""
        try:
            found = [plain_logits(self.causal_lm, ids) for ids in self.sample.sequences[:3]]
            found.append(found[2])
            wanted = torch.autograd.grad(self._loss(found), self._parameters(), allow_unused=True)
        except Exception as error:
            raise ModelError(
                f"{type(self.causal_lm).__name__} cannot be computed as it is: {reason(error)}"
            ) from error
        return [logits.detach() for logits in found], [
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
            nn.functional.cross_entropy(
                found[n:-1], torch.tensor(ids[n + 1 :], device=found.device)
            )
            for found, ids in zip(logits, self.sample.sequences, strict=True)
        ]
        return torch.stack(parts).mean()

    # ---- what is compared with them: the largest and the mean difference of each place

    def _plain(self, *, padded: bool) -> tuple[float, float]:
        sample, n = self.sample, len(self.sample.prefix)
        states = tree_states(self.causal_lm, sample.prefix, sample.trees, padded=padded)
        found = [
            own_logits(self.causal_lm, states[b, list(path)])
            for b, tree in enumerate(sample.trees)
            for path in tree.paths
        ]
        return largest_difference(torch.cat(found), torch.cat([part[n:] for part in self.truth]))

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
        found = torch.autograd.grad(self._loss(whole), self._parameters(), allow_unused=True)
        off = total = 0.0
        for got, want in zip(found, self.wanted, strict=True):
            got = torch.zeros_like(want) if got is None else got
            off += float((got - want).pow(2).sum())
            total += float(want.pow(2).sum())
        return [math.sqrt(off / total) if total else 0.0]

    def _branches(self, passes: Passes) -> tuple[float, float]:
        prompts = [[*self.sample.prefix, *prompt] for prompt in self.sample.prompts]
        branches = Branches(passes, prompts, 2)
        ends = list(itertools.chain(*self.sample.ends))
        found, wanted = [], []
        for step in range(3):
            with passes.autocast():
                found.append(own_logits(self.causal_lm, branches.states))
            wanted += [
                logits[len(ids) - 3 + step - 1]
                for logits, ids in zip(self.truth, self.sample.sequences, strict=True)
            ]
            if step < 2:
                branches.extend(torch.tensor([end[step] for end in ends], device=passes.device))
        return largest_difference(torch.cat(found), torch.stack(wanted))

    def _generate(self, passes: Passes) -> tuple[float, float]:
        prompts = [[*self.sample.prefix, *prompt] for prompt in self.sample.prompts]
        ids, mask = (part.to(passes.device) for part in pad_left(prompts))
        ends = [ends[0] for ends in self.sample.ends]

        def forced(seen: Tensor, scores: Tensor) -> Tensor:
            out = torch.full_like(scores, -torch.inf)
            for row, end in enumerate(ends):
                out[row, end[seen.shape[1] - ids.shape[1]]] = 0.0
            return out

        made = self.causal_lm.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=2,
            eos_token_id=None, pad_token_id=0, logits_processor=[forced], output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
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
        found = [own_logits(self.causal_lm, reading.states[0, list(path)]) for path in tree.paths]
        return largest_difference(torch.cat(found), torch.cat(self.truth[:2]))


def extended(
    passes: Passes, tokenizer: Any, known: Verified, longest: int, most: int, own: str,
    *, padded: bool = False,
) -> Verified:  # fmt: skip
    """``known`` with sequences of ``longest`` tokens compared, and remembered.

    Args:
        most: the longest sequence that is worth comparing at once.
        own: the model's own attention, for its plain passes.
        padded: compare padded batches, not trees.

    Raises:
        ModelError: the model itself gives different answers at this length.
    """
    fields = ("padded_longest", "padded_wrong") if padded else ("longest", "wrong")
    what, compare = ("padded batches", _padded_at) if padded else ("trees", _trees_at)
    likely = min(next_length(longest), max(longest, most), getattr(known, fields[1]) - 1)
    for length in dict.fromkeys([likely, longest]):
        fault = verify_length(passes, tokenizer, length, own, compare)
        if fault or padded:  # else trees agree, which see nothing later and nothing before
            doubt = inconsistency(passes, tokenizer, length, own)
            if doubt and length == longest:
                raise ModelError(doubt)
            fault = fault or doubt
        if not fault:
            known = replace(known, **{fields[0]: length})
            break
        reasons = (*known.reasons, f"{what}: {fault}")
        known = replace(known, **{fields[1]: length, "reasons": reasons})
    remember(known)
    return known


def verify_length(
    passes: Passes, tokenizer: Any, length: int, own: str,
    compare: Callable[[Passes, list[int]], list[Tensor]],
) -> str:  # fmt: skip
    """Whether ``compare``'s states agree with a plain pass over ``length`` tokens: "" or what is
    wrong.

    The weights may be tuned and of any precision by now, and stay as they are.
    """
    causal_lm = passes.causal_lm
    draw = random.Random(length)
    allowed = ordinary_tokens(causal_lm, tokenizer)
    ids = [draw.choice(allowed) for _ in range(length)]
    alone = Passes(causal_lm, passes.precision)
    limit = VALUES[passes.precision]
    with quiet(causal_lm), torch.no_grad(), passes.autocast():
        try:
            with own_attention(causal_lm, own):
                wanted = plain_logits(causal_lm, ids)[-3:]
            differences = [
                largest_difference(own_logits(causal_lm, states), wanted)
                for states in compare(alone, ids)
            ]
        except Exception as error:
            return reason(error)
    largest, mean = (max(part) for part in zip(*differences, strict=True))
    off = mean if passes.precision == "bf16" else largest
    return "" if off <= limit else f"{off:.3g} off on {length} tokens, {limit:g} allowed"


def _trees_at(passes: Passes, ids: list[int]) -> list[Tensor]:
    """The last three states of ``ids``, twice: with nearly all of it as the prefix, and with nearly
    all of it behind one. Scaling that looks at the length of a pass differs between the two."""
    found = []
    for at in (len(ids) - 3, 3):
        rest = ids[at:]
        tree = build_tree([[rest[0], rest[-1]], rest])
        (reading,) = passes.readings(ids[:at], [[tree]])
        found.append(reading.states[0, list(tree.paths[1])[-3:]])
    return found


def _padded_at(passes: Passes, ids: list[int]) -> list[Tensor]:
    """The last three states of ``ids`` and of its first half, in one batch."""
    long, _ = sequence_states(passes.causal_lm, [ids, ids[: len(ids) // 2]], padded=True)
    return [long[-3:]]


def inconsistency(passes: Passes, tokenizer: Any, length: int, own: str) -> str:
    """How plain passes over ``length`` tokens contradict each other, or "".

    What was read before changes the logits, as dynamic rotary scaling does behind the positions
    that a model was trained on; or later tokens do, as they can where sparse attention breaks ties.
    """
    causal_lm, name = passes.causal_lm, type(passes.causal_lm).__name__
    allowed = ordinary_tokens(causal_lm, tokenizer)
    ids = [allowed[i % len(allowed)] for i in range(2 * length)]
    limit = VALUES[passes.precision]
    with quiet(causal_lm), torch.no_grad(), passes.autocast(), own_attention(causal_lm, own):
        before = plain_logits(causal_lm, ids[:length])
        shorter = plain_logits(causal_lm, ids[: length - 3])[-3:]
        with contextlib.suppress(Exception):  # more tokens than it has positions
            plain_logits(causal_lm, ids)
        after = plain_logits(causal_lm, ids[:length])
    if not largest_difference(after[-3:], before[-3:])[0] <= limit:
        return (
            f"{name} gives other logits on {length} tokens after it has read a longer text "
            "(dynamic rotary scaling?): they depend on the order of questions; use shorter texts, "
            "or static scaling"
        )
    if not largest_difference(shorter, before[-6:-3])[0] <= limit:
        return (
            f"{name} sees later tokens in texts of {length} tokens (sparse attention?): its "
            "next-token probabilities mean nothing there; use shorter texts"
        )
    return ""


def next_length(length: int) -> int:
    """The length to compare before sequences of ``length`` tokens are used."""
    size = SHORTEST
    while size < length:
        size *= LENGTHS
    return size


# ---- parts


def ordinary_tokens(causal_lm: nn.Module, tokenizer: Any) -> list[int]:
    """Up to a thousand tokens that stand for text: no padding, no ends, no images."""
    rows = causal_lm.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    size = min(rows, len(tokenizer)) if tokenizer is not None else rows
    config = causal_lm.config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]
    special = {getattr(config, f"{kind}_token_id", None) for kind in ("pad", "bos", "eos")}
    special |= set(getattr(tokenizer, "all_special_ids", ()))
    stride = max(1, size // 1000)
    return [i for i in range(min(3, size - 1), size, stride) if i not in special]


def spread_of(logits: Tensor) -> float:
    """The mean standard deviation of log-probabilities over the vocabulary, in nats."""
    return max(float(logits.double().std(-1).mean()), 1e-9)


def largest_difference(found: Tensor, wanted: Tensor) -> tuple[float, float]:
    """(largest, mean) difference of log-probabilities, in units of ``wanted``'s spread."""
    gap = (found.double().log_softmax(-1) - wanted.double().log_softmax(-1)).abs()
    spread = spread_of(wanted)
    return float(gap.max()) / spread, float(gap.mean()) / spread


def reason(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


@contextlib.contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Within, nobody's hooks see the passes, and random numbers are as they were afterwards."""
    kept = [(m, m._forward_hooks, m._forward_pre_hooks) for m in model.modules()]
    for module, hooks, before in kept:
        if hooks or before:
            module._forward_hooks, module._forward_pre_hooks = type(hooks)(), type(before)()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for module, hooks, before in kept:
            if hooks or before:
                module._forward_hooks, module._forward_pre_hooks = hooks, before


# ---- what is remembered


def fingerprint(passes: Passes) -> str:
    """A hash of what the outcome hangs on: the configuration, a sample of the weights, the
    packages, device and precision."""
    config = passes.causal_lm.config.to_dict()  # type: ignore[union-attr, operator]
    for name in ("_name_or_path", "transformers_version", "_attn_implementation"):
        config.pop(name, None)
    told = [VERSION, torch.__version__, transformers.__version__, passes.device.type,
            passes.precision, config]  # fmt: skip
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    with torch.no_grad():
        for name, part in passes.causal_lm.named_parameters():
            flat = part.detach().flatten()
            some = flat[:: max(1, len(flat) // 64)].float().cpu()
            digest.update(f"{name} {tuple(part.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:32]


def _file(key: str) -> Path:
    return catalog.cache_dir() / "verified" / f"{key}.json"


def recall(key: str) -> Verified | None:
    """A remembered outcome."""
    try:
        record = json.loads(_file(key).read_text(encoding="utf-8"))
        return Verified(**record | {"reasons": tuple(record["reasons"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remember(found: Verified) -> None:
    """Keep an outcome for the base's next load; a cache that cannot be written keeps nothing."""
    path = _file(found.key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(found), file)
        os.replace(name, path)
    except OSError:
        return
