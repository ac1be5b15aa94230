"""The ``hf`` backend: a transformers model, opened up for exact and fast measurement.

Everything rests on one call, ``LanguageModel.hidden_states``: a shared prefix is computed once, a
batch of token trees continues it, and gradients flow through both. Evaluation reads candidate
answers off it, training reads completions off it.

That is right for models whose attention takes a mask and positions as they are given. So the first
use of a base compares it with the model's own plain forward pass (``verification``); where the two
differ, the plain pass answers instead (``plain``), which is slower and right.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from vestige.core.types import ModelError
from vestige.models import chat, verification
from vestige.models.frozen import Below
from vestige.models.loading import load_tokenizer, load_weights
from vestige.models.passes import Branches, Passes, Reading, decoder_layers
from vestige.models.plain import attention, own_logits, sequence_states, tree_states
from vestige.models.tree import TokenTree, build_tree, common_prefix
from vestige.models.verification import Verified

Precision = Literal["auto", "bf16", "fp32"]
log = logging.getLogger(__name__)


class LanguageModel(chat.Chat):
    """A causal language model with its tokenizer and chat style.

    Attributes:
        model: the transformers (or PEFT) module, parameters in fp32.
        passes: the fast path.
        notes: what is to be said about how the model was loaded and is computed.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        style: chat.ChatStyle = "auto",
        precision: Precision = "auto",
    ) -> None:
        self.model = model.eval()
        super().__init__(tokenizer, style)
        self.passes = Passes(self.causal_lm, resolve_precision(precision, self.device))
        config: Any = self.causal_lm.config
        self.own_attention: str = config._attn_implementation
        self.notes: list[str] = []
        self._verified: Verified | None = None
        self._plain_from = 0  # tokens of the first sequence that was too long for trees

    @classmethod
    def load(
        cls,
        folder: str,
        *,
        style: chat.ChatStyle = "auto",
        precision: Precision = "auto",
        device: str | None = None,
    ) -> LanguageModel:
        """Load a folder or hub id: safetensors only, no code from the model's repository.

        Raises:
            ModelError: it cannot be loaded as it was saved, or not be computed; says why.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = load_tokenizer(folder)
        model, notes = load_weights(folder)
        # Many models ship sampling habits (repetition penalties, min-p): T=1 means the model's own
        # probabilities, so none of them may reach ``generate``.
        model.generation_config = GenerationConfig()  # type: ignore[assignment]
        model.to(device)  # type: ignore[call-arg]
        lm = cls(model, tokenizer, style=style, precision=precision)
        for note in notes:
            lm.say(note)
        if not lm.verified.fast:
            lm.say(slower(type(model).__name__, lm.verified))
        return lm

    @property
    def precision(self) -> Literal["bf16", "fp32"]:
        """``bf16`` runs matrix products in bfloat16 by autocast, ``fp32`` nothing."""
        return self.passes.precision

    def say(self, note: str) -> None:
        """Keep a note, and log it as a warning."""
        self.notes.append(note)
        log.warning("%s", note)

    def record(self, text: str, system: str = "") -> dict[str, Any]:
        """As ``Chat.record``, with what is to be said of how the model is computed."""
        facts = super().record(text, system)
        remarks = [*facts.get("remarks", ()), *self.notes]
        return facts | ({"remarks": remarks} if remarks else {})

    @property
    def verified(self) -> Verified:
        """How this base is computed, compared with its plain forward pass at its first load.

        Raises:
            ModelError: its own passes cannot be used.
        """
        if self._verified is None:
            self._verified = verification.verify(self.passes, self.tokenizer)
        return self._verified

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def causal_lm(self) -> nn.Module:
        """The transformers model itself, without a PEFT wrapper (adapters stay in place)."""
        inner = self.model
        return inner.get_base_model() if hasattr(inner, "get_base_model") else inner  # type: ignore[operator]

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, first to last. Raises ``ModelError`` where there is no such list."""
        layers = decoder_layers(self.causal_lm)
        if layers is None:
            raise ModelError(
                f"{type(self.causal_lm).__name__} has no list of num_hidden_layers decoder layers: "
                "it can be measured, and not tuned or audited"
            )
        return layers

    @property
    def below(self) -> Below:
        """States of the layers that are never tuned, once somebody has said which."""
        return self.passes.below

    @below.setter
    def below(self, kept: Below) -> None:
        self.passes.below = kept

    def autocast(self) -> AbstractContextManager[None]:
        """The precision that this model computes in."""
        return self.passes.autocast()

    def hidden_states(self, prefix: Sequence[int], trees: Sequence[TokenTree]) -> Reading:
        """Final hidden states of every tree's nodes, each tree continuing ``prefix``.

        Args:
            prefix: tokens that all trees share, computed once; may be empty.
            trees: B trees; shorter ones are padded on the right to S nodes.

        Returns:
            States of shape [B, S, width]; entry [b, i] predicts what follows node i of tree b.

        Raises:
            ModelError: a token is none of the model's, or there are more than it can read.
        """
        (reading,) = self.readings(prefix, [trees])
        return reading

    def readings(
        self, prefix: Sequence[int], batches: Sequence[Sequence[TokenTree]]
    ) -> list[Reading]:
        """``hidden_states`` of several batches of trees; the prefix is computed once for all."""
        trees = [tree for batch in batches for tree in batch]
        longest = len(prefix) + max(int(tree.depths.max()) for tree in trees) + 1
        self._check_tokens([*prefix, *(int(tree.tokens.max()) for tree in trees)])
        if self.trees_hold(longest):
            return self.passes.readings(prefix, batches)
        with self.plainly():
            return [
                Reading(
                    tree_states(self.causal_lm, prefix, batch, padded=self.padding_holds(longest)),
                    tuple(batch),
                )
                for batch in batches
            ]

    def trees_hold(self, longest: int) -> bool:
        """Whether the fast path is right for sequences of ``longest`` tokens, as far as it has
        been compared; compared now where it has not."""
        known = self.verified
        if not known.trees or (torch.is_grad_enabled() and not known.gradients):
            return False
        if known.longest < longest < known.wrong:
            most = min(self.longest_path, self.passes.window or self.longest_path)
            known = self._verified = verification.extended(
                self.passes, self.tokenizer, known, longest, most, self.own_attention
            )
        if longest > known.longest and not self._plain_from:
            self._plain_from = longest
            self.say(
                f"{longest} tokens: on plain forward passes, which are right and slower "
                f"({known.reasons[-1]})"
            )
        return longest <= known.longest

    def padding_holds(self, longest: int) -> bool:
        """As ``trees_hold``, for plain passes that are padded into batches."""
        known = self.verified
        if known.padded and known.padded_longest < longest < known.padded_wrong:
            known = self._verified = verification.extended(
                self.passes,
                self.tokenizer,
                known,
                longest,
                self.longest_path,
                self.own_attention,
                padded=True,
            )
        return known.padded and longest <= known.padded_longest

    @contextlib.contextmanager
    def plainly(self) -> Iterator[None]:
        """Within, the model computes as it does by itself, in this model's precision."""
        with attention(self.causal_lm, self.own_attention), self.autocast():
            yield

    def _check_tokens(self, tokens: Sequence[int]) -> None:
        rows = self.causal_lm.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        if tokens and max(tokens) >= rows:
            raise ModelError(
                f"token {max(tokens)} ({self.tokenizer.decode([max(tokens)])!r}) is none of the "
                f"model's {rows}: tokens were added to the tokenizer and not to the model; use the "
                "tokenizer that the model was trained with"
            )

    @property
    def longest_path(self) -> int:
        """Tokens that a prompt with its answer may have here."""
        config = self.causal_lm.config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]
        return int(getattr(config, "max_position_embeddings", None) or 2048)

    def branches(
        self, prompts: Sequence[Sequence[int]], rows: int, tokens: int
    ) -> Branches | PlainBranches:
        """``prompts`` with ``rows`` continuations each, of up to ``tokens`` tokens."""
        self._check_tokens([max(prompt) for prompt in prompts])
        longest = max(map(len, prompts)) + tokens
        if self.verified.sampling and self.trees_hold(longest):
            return Branches(self.passes, prompts, rows)
        return PlainBranches(self, prompts, rows)

    def head(self, states: Tensor, token_ids: Tensor | None = None) -> Tensor:
        """Logits in fp32 for all tokens, or for the given ones only: [..., K]."""
        flat = states.reshape(-1, states.shape[-1])
        with self.autocast():
            logits = own_logits(self.causal_lm, flat, token_ids)
        return logits.view(*states.shape[:-1], -1)

    @torch.no_grad()
    def answer_logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        *,
        batch: int = 8,
        whole_words: bool = False,
    ) -> Tensor:
        """Log-probability of every answer after every prompt, in nats, exactly: [prompts, answers].

        The common beginning of the prompts is computed once, and each prompt with all of its
        answers is one tree, so that an answer of n tokens costs at most n - 1 nodes (n where
        ``whole_words``).

        Args:
            whole_words: that no character of the same word follows the answer, either.
        """
        within = self.within_words if whole_words else None
        return torch.stack(self._choice_logprobs(prompts, [answers] * len(prompts), batch, within))

    @cached_property
    def within_words(self) -> Tensor:
        """Whether a token, after a letter, goes on with its word: [V]. Tokens that begin inside a
        character are taken to end it."""
        size = self.causal_lm.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        lead = self.tokenizer("a", add_special_tokens=False).input_ids
        before = len(self.tokenizer.decode(lead, clean_up_tokenization_spaces=False))
        known = min(size, len(self.tokenizer))
        texts = self.tokenizer.batch_decode(
            [[*lead, token] for token in range(known)], clean_up_tokenization_spaces=False
        )
        goes_on = [bool(re.match(r"\w", text[before:])) for text in texts]
        return torch.tensor(goes_on + [False] * (size - known), device=self.device)

    def choice_logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        choices: Sequence[Sequence[Sequence[int]]],
        *,
        batch: int = 8,
        gradients: bool = False,
    ) -> list[Tensor]:
        """As ``answer_logprobs`` where every prompt has answers of its own: one [answers] each.

        ``gradients`` keeps the graph to the model's trainable parameters and hooks.
        """
        with torch.set_grad_enabled(gradients):
            return self._choice_logprobs(prompts, choices, batch)

    def _choice_logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        choices: Sequence[Sequence[Sequence[int]]],
        batch: int,
        within: Tensor | None = None,
    ) -> list[Tensor]:
        """Args: within: tokens that may not follow an answer [V]; None: any may."""
        shared = common_prefix([p[:-1] for p in prompts])
        tails = [list(p[len(shared) :]) for p in prompts]
        asked = list(zip(tails, choices, strict=True))
        last = -1 if within is None else None
        trees = [build_tree([tail + list(a[:last]) for a in answers]) for tail, answers in asked]
        readings = self.readings(
            shared, [trees[at : at + batch] for at in range(0, len(trees), batch)]
        )
        states = [states for reading in readings for states in reading.states]
        return [
            self._read_answers(node_states, tree, len(tail), answers, within)
            for node_states, tree, (tail, answers) in zip(states, trees, asked, strict=True)
        ]

    def _read_answers(
        self,
        states: Tensor,
        tree: TokenTree,
        begin: int,
        answers: Sequence[Sequence[int]],
        within: Tensor | None,
    ) -> Tensor:
        nodes = sorted({n for path in tree.paths for n in path[begin - 1 :]})
        place = {node: i for i, node in enumerate(nodes)}
        logits = self.head(states[nodes])
        whole = logits.logsumexp(-1)
        reading = list(zip(tree.paths, answers, strict=True))
        at = [place[n] for path, a in reading for n in path[begin - 1 : begin - 1 + len(a)]]
        token = [t for answer in answers for t in answer]
        parts = (logits[at, token] - whole[at]).double().cpu()
        owner = torch.tensor([i for i, answer in enumerate(answers) for _ in answer])
        total = torch.zeros(len(answers), dtype=torch.float64).index_add_(0, owner, parts)
        if within is not None:
            ends = logits.masked_fill(within, -torch.inf).logsumexp(-1) - whole
            total += ends[[place[path[-1]] for path in tree.paths]].double().cpu()
        return total


class PlainBranches:
    """``Branches`` from whole plain passes, for models whose cache cannot be branched: every token
    costs a pass over its sequence."""

    def __init__(self, lm: LanguageModel, prompts: Sequence[Sequence[int]], rows: int) -> None:
        self._lm = lm
        self._sequences = [list(prompt) for prompt in prompts for _ in range(rows)]
        self.states = self._read()

    def extend(self, tokens: Tensor) -> None:
        """Add one token [P * R] to every branch."""
        for sequence, token in zip(self._sequences, tokens.tolist(), strict=True):
            sequence.append(token)
        self.states = self._read()

    def _read(self) -> Tensor:
        padded = self._lm.padding_holds(max(map(len, self._sequences)))
        with self._lm.plainly():
            states_of_each = sequence_states(self._lm.causal_lm, self._sequences, padded=padded)
        return torch.stack([states[-1] for states in states_of_each])


def slower(name: str, verified: Verified) -> str:
    """That and why a model is not computed on the fast path alone."""
    parts = {
        "measuring": verified.trees,
        "training": verified.gradients,
        "sampling": verified.sampling,
    }
    plain = [part for part, fast in parts.items() if not fast]
    return (
        f"{name} is computed on plain forward passes ({', '.join(plain)}), one sequence an answer, "
        f"which is right and slower: {'; '.join(verified.reasons)}"
    )


def resolve_precision(precision: Precision, device: torch.device) -> Literal["bf16", "fp32"]:
    """``auto``: bf16 where the hardware computes it natively, else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"
