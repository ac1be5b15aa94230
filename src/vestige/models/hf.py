"""The ``hf`` backend: a transformers model, opened up for exact and fast measurement.

Everything rests on one call, ``LanguageModel.hidden_states``: a shared prefix is computed once, a
batch of token trees continues it, and gradients flow through both. Evaluation reads candidate
answers off it, training reads completions off it. Tests hold it against plain forward passes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, GenerationConfig

from vestige.models import attention, chat
from vestige.models.frozen import Below
from vestige.models.tree import TokenTree, build_tree, common_prefix
from vestige.types import ModelError

Precision = Literal["auto", "bf16", "fp32"]
PIECE = 512  # tokens of a shared prefix that are read at a time


@dataclass(frozen=True)
class Reading:
    """Hidden states of a batch of trees: [trees, S, width], padded with whatever the model gave."""

    states: Tensor
    trees: tuple[TokenTree, ...]


@dataclass(frozen=True)
class _LaidOut:
    """A batch of trees behind a prefix as arrays: tokens, places [B, S], sees [B, 1, S, P + S]."""

    tokens: NDArray[np.int64]
    places: NDArray[np.int64]
    sees: NDArray[np.bool_]

    @classmethod
    def of(cls, start: int, trees: Sequence[TokenTree]) -> _LaidOut:
        size = max(len(t) for t in trees)
        tokens = np.zeros((len(trees), size), dtype=np.int64)
        places = np.zeros_like(tokens)
        sees = np.zeros((len(trees), 1, size, start + size), dtype=bool)
        sees[..., start:] |= np.eye(size, dtype=bool)
        sees[..., :start] = True
        for b, tree in enumerate(trees):
            n = len(tree)
            tokens[b, :n], places[b, :n] = tree.tokens, tree.depths + start
            sees[b, 0, :n, start : start + n] = tree.ancestor_mask()
        return cls(tokens, places, sees)

    @property
    def key(self) -> tuple[Any, ...]:
        """What the states depend on, besides the prefix."""
        return self.tokens.shape, self.tokens.tobytes(), sha256(self.sees.tobytes()).digest()


class LanguageModel(chat.Chat):
    """A causal language model with its tokenizer and chat style.

    Attributes:
        model: the transformers (or PEFT) module, parameters in fp32.
        precision: ``bf16`` runs matrix products in bfloat16 by autocast, ``fp32`` nothing.
        below: states of the layers that are never tuned, once somebody has said which.
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
        self.precision = resolve_precision(precision, self.device)
        self.below = Below(self.layers)

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
            ModelError: it cannot be loaded; the text carries the library's own reason.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True
            )
            if device == "cpu":
                model.set_attn_implementation(attention.NAME)
        except Exception as error:
            reason = (
                str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            )
            raise ModelError(
                f"cannot load a language model from {folder}: {reason}; give a bundled name "
                "(vestige models list), a folder with config.json, tokenizer files and "
                "*.safetensors, or a hub id"
            ) from error
        # Many models ship sampling habits (repetition penalties, min-p): T=1 means the model's own
        # probabilities, so none of them may reach ``generate``.
        model.generation_config = GenerationConfig()
        model.to(device)  # type: ignore[call-arg]
        return cls(model, tokenizer, style=style, precision=precision)

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
        """The decoder layers, first to last."""
        return self.causal_lm.get_decoder().layers  # type: ignore[operator]

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """The precision that this model computes in."""
        enabled = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            yield

    def hidden_states(self, prefix: Sequence[int], trees: Sequence[TokenTree]) -> Reading:
        """Final hidden states of every tree's nodes, each tree continuing ``prefix``.

        Args:
            prefix: tokens that all trees share, computed once; may be empty.
            trees: B trees; shorter ones are padded on the right to S nodes.

        Returns:
            States of shape [B, S, width]; entry [b, i] predicts what follows node i of tree b.
        """
        (reading,) = self.readings(prefix, [trees])
        return reading

    def readings(
        self, prefix: Sequence[int], batches: Sequence[Sequence[TokenTree]]
    ) -> list[Reading]:
        """``hidden_states`` of several batches of trees; the prefix is computed once for all."""
        laid = [_LaidOut.of(len(prefix), trees) for trees in batches]
        key = (tuple(prefix), *(part.key for part in laid))
        with self.autocast(), self.below.reuse(key):
            cache = self._prefix(prefix)
            found = []
            for part, trees in zip(laid, batches, strict=True):
                states = self.causal_lm.get_decoder()(  # type: ignore[operator]
                    input_ids=torch.from_numpy(part.tokens).to(self.device),
                    position_ids=torch.from_numpy(part.places).to(self.device),
                    attention_mask=self.mask_for(
                        torch.from_numpy(part.sees).to(self.device), int(part.places.max()) + 1
                    ),
                    past_key_values=branched(cache, len(trees)),
                    use_cache=True,
                ).last_hidden_state
                found.append(Reading(states, tuple(trees)))
        return found

    def _prefix(self, prefix: Sequence[int]) -> DynamicCache:
        """Keys and values of ``prefix``, read a piece at a time: attention over the whole of a
        long one would be quadratic in memory."""
        cache = DynamicCache()
        for at in range(0, len(prefix), PIECE):
            piece = torch.tensor([list(prefix[at : at + PIECE])], device=self.device)
            n = piece.shape[1]
            options: dict[str, Any] = {}
            if at:
                places = torch.arange(at, at + n, device=self.device)
                sees = torch.arange(at + n, device=self.device) <= places[:, None]
                options = {
                    "position_ids": places[None],
                    "attention_mask": self.mask_for(sees[None, None], at + n),
                }
            self.causal_lm.get_decoder()(  # type: ignore[operator]
                input_ids=piece, past_key_values=cache, use_cache=True, **options
            )
        return cache

    @property
    def window(self) -> int | None:
        """Tokens that a sliding attention layer sees; None if no layer slides."""
        kinds = set(getattr(self.causal_lm.config, "layer_types", None) or ())
        slides = not kinds or "sliding_attention" in kinds  # Mistral, Phi-3: every layer, unnamed
        return (getattr(self.causal_lm.config, "sliding_window", None) or None) if slides else None

    @property
    def longest_path(self) -> int:
        """Tokens that a prompt with its answer may have here."""
        longest = int(getattr(self.causal_lm.config, "max_position_embeddings", 2048))
        return min(longest, self.window or longest)

    def mask_for(self, sees: Tensor, longest: int) -> Any:
        """``sees`` [B, 1, S, K] in the form the model's layers take: one, or one for each kind.

        Raises:
            ModelError: ``longest``, the number of tokens of the longest path, does not fit into a
                sliding attention window, where this mask would show too much.
        """
        kinds = set(getattr(self.causal_lm.config, "layer_types", None) or ())
        window = self.window
        if window and longest > window:
            raise ModelError(
                f"a prompt with its answers takes {longest} tokens, more than the model's "
                f"attention window of {window}; use shorter prompts"
            )
        floor = torch.finfo(torch.bfloat16 if self.precision == "bf16" else torch.float32).min
        additive = torch.zeros(sees.shape, device=sees.device).masked_fill(~sees, floor)
        return {kind: additive for kind in kinds} if len(kinds) > 1 else additive

    def head(self, states: Tensor, token_ids: Tensor | None = None) -> Tensor:
        """Logits in fp32 for all tokens, or for the given ones only: [..., K]."""
        layer = self.causal_lm.get_output_embeddings()  # type: ignore[operator]
        if token_ids is None:
            with self.autocast():
                logits = layer(states).float()
        else:
            bias = getattr(layer, "bias", None)
            weight = layer.weight[token_ids].float()
            logits = states.float() @ weight.T + (0.0 if bias is None else bias[token_ids].float())
        cap = getattr(self.causal_lm.config, "final_logit_softcapping", None)
        return logits if not cap else cap * torch.tanh(logits / cap)

    @torch.no_grad()
    def answer_logprobs(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], *, batch: int = 8
    ) -> Tensor:
        """Log-probability of every answer after every prompt, in nats, exactly: [prompts, answers].

        The common beginning of the prompts is computed once, and each prompt with all of its
        answers is one tree, so that an answer of n tokens costs at most n - 1 nodes.
        """
        return torch.stack(self.choice_logprobs(prompts, [answers] * len(prompts), batch=batch))

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
    ) -> list[Tensor]:
        shared = common_prefix([p[:-1] for p in prompts])
        tails = [list(p[len(shared) :]) for p in prompts]
        asked = list(zip(tails, choices, strict=True))
        trees = [build_tree([tail + list(a[:-1]) for a in answers]) for tail, answers in asked]
        readings = self.readings(
            shared, [trees[at : at + batch] for at in range(0, len(trees), batch)]
        )
        states = [states for reading in readings for states in reading.states]
        return [
            self._read_answers(found, tree, len(tail), answers)
            for found, tree, (tail, answers) in zip(states, trees, asked, strict=True)
        ]

    def _read_answers(
        self, states: Tensor, tree: TokenTree, begin: int, answers: Sequence[Sequence[int]]
    ) -> Tensor:
        nodes = sorted({n for path in tree.paths for n in path[begin - 1 :]})
        place = {node: i for i, node in enumerate(nodes)}
        logits = self.head(states[nodes])
        whole = logits.logsumexp(-1)
        at = [place[n] for path in tree.paths for n in path[begin - 1 :]]
        token = [t for answer in answers for t in answer]
        parts = (logits[at, token] - whole[at]).double().cpu()
        owner = torch.tensor([i for i, answer in enumerate(answers) for _ in answer])
        return torch.zeros(len(answers), dtype=torch.float64).index_add_(0, owner, parts)


def branched(cache: DynamicCache, copies: int) -> DynamicCache:
    """``cache`` for ``copies`` sequences; the given one stays as it is."""
    found = DynamicCache()
    layers: Any = cache.layers
    for number, layer in enumerate(layers):
        if layer.get_seq_length():  # layers that were skipped hold nothing
            keys, values = (
                part.repeat_interleave(copies, dim=0) for part in (layer.keys, layer.values)
            )
            found.update(keys, values, number)
    return found


def resolve_precision(precision: Precision, device: torch.device) -> Literal["bf16", "fp32"]:
    """``auto``: bf16 where the hardware computes it natively, else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"
